"""The parts of messages that several decisions use. Pure."""

from __future__ import annotations

from controller.api.clock import Now
from controller.api.names import CONFIRMED_OFF
from controller.api.text import sanitized
from controller.api.virtualmachine import PowerState
from controller.policy.situation import Situation
from controller.policy.view import Action

PREDICATES = {PowerState.CRASHED: "has crashed", PowerState.SHUTTING_DOWN: "is shutting down"}
"""The predicates of the power states that "is" and the name of the state would not describe well."""
REQUESTS = {
    Action.START: "start the VM",
    Action.START_PAUSED: "start the VM paused",
    Action.RESUME: "resume the VM",
    Action.WAKE: "wake up the VM",
    Action.SUSPEND: "pause the VM",
    Action.SHUTDOWN: "shut down the VM",
    Action.DESTROY: "force off the VM",
}
"""How messages name the request that an action sends to libvirt."""
NEVER_SETTLES = "because the agent runs with --settle-pause never"


def power(s: Situation) -> PowerState:
    """Return the reported power state."""
    return s.status.power_state


def power_predicate(s: Situation) -> str:
    """Return the power state as text that follows "The VM" in a message, such as "is paused"."""
    return PREDICATES.get(power(s), f"is {power(s).lower()}")


def drift_sentence(s: Situation) -> str:
    """Return the part of a message that compares the VM with its spec."""
    if s.cycling:
        return f"The VM {power_predicate(s)}, and a restart is requested."
    return f"The VM {power_predicate(s)} and should be {str(s.desired).lower()}."


def clock(moment: Now) -> str:
    """Return a moment in the format of messages."""
    return f"{moment.to_api():%H:%M:%SZ}"


def confirming(s: Situation, value: str) -> str:
    """Return the command that writes the annotation confirmed-off with this value."""
    return f"kubectl annotate kvm -n {s.vm.key.namespace} {s.vm.key.name} --overwrite {CONFIRMED_OFF}='{value}'"


def in_maintenance(s: Situation) -> str:
    """Return which host is in maintenance, and why, as text for a message; empty: the host is not in maintenance.

    The reason is on one line, as in a report, so that a message that was reported can be compared with a new one.
    """
    node = s.view.node
    return f"{node.name} is in maintenance ({sanitized(node.maintenance.reason, 1024)})" if node.maintenance else ""


def holders(s: Situation) -> str:
    """Return who holds the VM, and why, as text for a message."""
    return ", ".join(map(str, s.vm.holds))

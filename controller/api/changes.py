"""The changes that a user can request of a VirtualMachine or a Hypervisor, each as a merge patch of its object.

Pure. Each function takes the object as it was read, and returns the change, or Unchanged if nothing has to change. It
raises ValueError with a message if the change would have no effect, or would replace what somebody else has declared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.api.clock import api_time
from controller.api.hypervisor import Hypervisor, Maintenance
from controller.api.json_mapping import Json
from controller.api.names import ConditionType
from controller.api.owners import Path
from controller.api.virtualmachine import DesiredPowerState, Hold, Reason, VirtualMachine

CLOCK_TOLERANCE = timedelta(minutes=1)
"""How far a restart that is requested for now can be in the future of the user's clock."""
HOLDER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Who holds a VM: the part of an annotation's key after the slash, as Kubernetes restricts it."""
REASON_LIMIT = 256
"""The maximum length of a reason in characters, as in the CRD of the Hypervisor."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one field."""

    field: Path
    value: object
    """The new value. None removes the field."""
    said: str
    """What the change does, as a phrase such as `powerState is now Running`."""

    @property
    def patch(self) -> Json:
        """The merge patch of the object."""
        patch: object = self.value
        for name in reversed(self.field):
            patch = {name: patch}
        assert isinstance(patch, dict)  # noqa: S101 - a field has at least one name
        return patch

    @property
    def where(self) -> str:
        """The field as users write it, such as `spec.powerState` or `the annotation hold.virtsync.dev/ann`."""
        kind = {"annotations": "annotation", "labels": "label"}.get(self.field[-2])
        return f"the {kind} {self.field[-1]}" if kind else ".".join(self.field)


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The object is as requested already."""

    said: str
    """How it is, as a phrase such as `powerState is Running already`."""
    value: object = None
    """The value of the field, where the caller needs it."""


def holder(text: str) -> str:
    """Return who holds a VM after checking it. Raises ValueError with a message."""
    if not HOLDER.fullmatch(text):
        allowed = "letters, digits, '-', '_' and '.', at most 63, a letter or a digit first and last"
        raise ValueError(f"{text!r} cannot be the name of a holder ({allowed}).")
    return text


def reason(text: str) -> str:
    """Return the reason of a hold or a maintenance, in one line. Raises ValueError with a message."""
    line = " ".join(text.split())
    if not 0 < len(line) <= REASON_LIMIT:
        raise ValueError(f"a reason needs 1 to {REASON_LIMIT} characters.")
    return line


def left_alone(vm: VirtualMachine) -> str:
    """Say that restartPolicy leaves the VM in another power state than the spec asks for, and what helps.

    Empty: it does not, or the agent has not answered the newest spec. The agent acts again when powerState changes, or
    when a restart is requested.
    """
    ready = vm.status.condition(ConditionType.READY)
    if ready is None or vm.status.observed_generation < vm.generation:
        return ""
    running = vm.desired is DesiredPowerState.RUNNING
    match ready.reason:
        case Reason.COMPLETED | Reason.FAILED if vm.wants_on:
            # The restartPolicy that has left it off can be another one than the spec has now.
            return f"its restartPolicy leaves it off: `{'restart' if running else 'start'}` starts it"
        case Reason.SUSPENDED_BY_GUEST if running:
            return "its restartPolicy leaves it suspended: `virsh dompmwakeup` on the host wakes it up"
    return ""


def power(vm: VirtualMachine, desired: DesiredPowerState) -> Change | Unchanged:
    """Ask for this power state."""
    if vm.desired is desired:
        if why := left_alone(vm):
            raise ValueError(f"powerState is {desired} already, and {why}")
        return Unchanged(f"powerState is {desired} already")
    return Change(("spec", "powerState"), str(desired), f"powerState is now {desired}")


def restart(vm: VirtualMachine, at: datetime | None, now: datetime) -> Change | Unchanged:
    """Ask for one restart at a time; None: now.

    If a restart was carried out in this second, a new request for now gets the next second. If a request for this
    second is pending, the object is Unchanged, with the time of that request as its value.
    """
    if vm.desired is not DesiredPowerState.RUNNING:
        raise ValueError(f"a restart needs powerState Running, and its powerState is {vm.desired or 'not set'}")
    past = max(filter(None, (vm.created, vm.status.last_restart_time)))
    first = past.replace(microsecond=0) + timedelta(seconds=1)
    if at is None:
        at = max(now.replace(microsecond=0), first)
        if at > now + CLOCK_TOLERANCE:
            raise ValueError(f"the object has a time in the future, {api_time(past)}: give a later time with --at")
    elif at <= past:
        what = "the VM was last restarted" if past == vm.status.last_restart_time else "the object was created"
        raise ValueError(f"a restart at {api_time(at)} would have no effect: {what} at {api_time(past)}")
    if vm.restart_request == at:
        return Unchanged(f"a restart at {api_time(at)} is requested already", api_time(at))
    replaced = vm.restart_request if vm.restart_request and vm.restart_request > max(now, past) else None
    instead = f", instead of {api_time(replaced)}" if replaced else ""
    said = f"a restart is scheduled for {api_time(at)}" if at > now + CLOCK_TOLERANCE else "a restart is requested"
    return Change(("spec", "restartRequestTime"), api_time(at), said + instead)


def hold(vm: VirtualMachine, who: str, why: str) -> Change | Unchanged:
    """Hold the VM. A second hold of the same holder would end with the first one, so it must have another name."""
    new = Hold(who, why)
    held = next((one.why for one in vm.holds if (one.key, one.is_label) == (new.key, new.is_label)), None)
    if held == why:
        return Unchanged(f"held by {who} ({why}) already")
    if held is not None:
        raise ValueError(f"{who} holds it already ({held}): choose another name, or release that hold first")
    return Change(("metadata", "annotations", new.key), why, f"held by {who} ({why})")


def release(vm: VirtualMachine, who: str) -> Change | Unchanged:
    """Remove the hold of this holder, also if it is misspelled. Other holds stay."""
    removed = min((one for one in vm.holds if one.who == who), key=lambda one: one.misspelled_key, default=None)
    others = ", ".join(f"{one.holder} ({one.why})" for one in vm.holds if one is not removed)
    if not removed:
        return Unchanged(f"not held by {who}" + (f", but by {others}" if others else ""))
    said = f"the hold of {who} is released" + (f"; it is still held by {others}" if others else "")
    return Change(("metadata", "labels" if removed.is_label else "annotations", removed.key), None, said)


def begin_maintenance(host: Hypervisor, wanted: Maintenance, *, replace: bool) -> Change | Unchanged:
    """Declare maintenance. `replace`: whether this may replace another declared maintenance."""
    declared = _declared(host)
    if declared == wanted:
        return Unchanged(f"in maintenance already ({wanted.mode}: {wanted.reason})")
    if declared and not replace:
        raise ValueError(f"it is in maintenance already ({declared.mode}: {declared.reason}): use --replace")
    value = {"mode": str(wanted.mode), "reason": wanted.reason}
    return Change(("spec", "maintenance"), value, f"maintenance is declared ({wanted.mode}: {wanted.reason})")


def end_maintenance(host: Hypervisor) -> Change | Unchanged:
    """Remove the maintenance."""
    declared = _declared(host)
    if not declared:
        return Unchanged("not in maintenance")
    return Change(("spec", "maintenance"), None, f"the maintenance is ended ({declared.mode}: {declared.reason})")


def _declared(host: Hypervisor) -> Maintenance | None:
    """Return the declared maintenance. Raises ValueError if the spec has a field that this version does not know."""
    if host.misunderstood:
        raise ValueError(f"this version of virtsync does not understand {host.misunderstood}")
    return host.maintenance

"""Whether a VM is as wanted, and what its reason means. Pure."""

from __future__ import annotations

from datetime import datetime

from controller.api.conditions import READINESS, Readiness
from controller.api.names import ConditionType
from controller.api.virtualmachine import Reason, VirtualMachine
from controller.presentation.words import since

ONLY_OBSERVED = "only observed"
"""What a VM without spec.powerState is called."""
OLD_SPEC = "old spec"
"""What a report is called that is not about the newest spec."""
NOT_WANTED = {
    Readiness.STALLED: "waiting for a person",
    Readiness.UNKNOWN: "not known",
    Readiness.RECONCILING: "in progress",
    Readiness.HELD: "held",
    Readiness.READY: OLD_SPEC,
}
"""What VMs with this meaning of Ready are called if they are not as wanted, wherever they are shown. Those that need a
person come first.
"""
TROUBLE = {meaning: place for place, meaning in enumerate(NOT_WANTED)}
"""The place of each meaning in this order."""


def is_answered(vm: VirtualMachine) -> bool:
    """Whether the status is about the newest spec."""
    return vm.status.observed_generation >= vm.generation


def is_outdated(vm: VirtualMachine) -> bool:
    """Whether the status is about an older spec. Before the first report it is about none."""
    return 0 <= vm.status.observed_generation < vm.generation


def is_as_wanted(vm: VirtualMachine) -> bool:
    """Whether Ready is True, for the newest spec."""
    ready = vm.status.condition(ConditionType.READY)
    return ready is not None and ready.status == "True" and is_answered(vm)


def readiness(reason: str) -> Readiness:
    """Return the meaning of a reason. A reason of a newer version is UNKNOWN."""
    try:
        return READINESS[Reason(reason)]
    except ValueError:
        return Readiness.UNKNOWN


def reason_since(vm: VirtualMachine) -> datetime | None:
    """Return since when Ready has its reason; None: nobody has reported yet."""
    status, ready = vm.status, vm.status.condition(ConditionType.READY)
    if ready and status.decided_reason == ready.reason and status.decided_transition_time:
        return status.decided_transition_time
    return since(ready)


def why_not(vm: VirtualMachine) -> str:
    """Return why a VM is not as wanted, as the agent says it; empty: it is, or no agent has reported."""
    ready = vm.status.condition(ConditionType.READY)
    return ready.message if ready and not is_as_wanted(vm) else ""

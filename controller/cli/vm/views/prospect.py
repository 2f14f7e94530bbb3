"""Says what happens next to a VM, and when, from its status. Pure.

The agent decides; this only reads its record. Where the agent has recorded no time, the message of Ready has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from controller.api.conditions import Readiness
from controller.api.hypervisor import Hypervisor
from controller.api.virtualmachine import OperationType, Reason, ShutdownMode, VirtualMachine
from controller.presentation.vms import is_answered, readiness
from controller.presentation.words import at, plain

CLOCK_MARGIN_S = 10
"""A restart can begin this late, because two observations must agree that its time has come (docs/api.md)."""


def prospect(vm: VirtualMachine, host: Hypervisor | None, now: datetime) -> str:  # noqa: PLR0911 - one obstacle on each line
    """Return one sentence. `host`: None if it is not known."""
    reason = vm.status.reason
    if vm.deleting:
        return "Nothing: the object is being deleted, and the VM stays as it is."
    if reason in {Reason.PENDING, Reason.AGENT_UNREACHABLE, Reason.LIBVIRT_UNREACHABLE}:
        return _without_agent(vm, reason)
    if reason == Reason.SPEC_NOT_UNDERSTOOD:
        return "Nothing, until a newer agent runs on the node or the spec is changed."
    if not is_answered(vm):
        return "The agent reads the new spec. If this lasts for more than a few seconds, look at the agent."
    if reason == Reason.HELD:
        return _held(vm, host)
    if reason == Reason.OBSERVE_ONLY:
        return "Nothing: the agent of the node runs with --observe-only."
    if vm.status.operation and readiness(reason) is not Readiness.STALLED:
        return _operation(vm, now)
    return _waiting(vm, reason, now)


def _without_agent(vm: VirtualMachine, reason: str) -> str:
    if not vm.node_name:
        return "Nothing, until spec.nodeName names the node that has the VM."
    if reason == Reason.LIBVIRT_UNREACHABLE:
        return "Nothing, until libvirt on the node answers."
    return f"Nothing, until an agent on {plain(vm.node_name)} reports."


def _held(vm: VirtualMachine, host: Hypervisor | None) -> str:
    ends = [f"the maintenance of {plain(vm.node_name)} ends"] if host and host.maintenance else []
    if vm.holds:
        ends.append(f"the last hold is removed ({'; '.join(_removals(vm))})")
    return f"Nothing, until {' and '.join(ends) or 'the hold ends'}; then the settle time."


def _removals(vm: VirtualMachine) -> Iterator[str]:
    """Yield the commands that remove all holds."""
    for verb, is_label in ("annotate", False), ("label", True):
        if keys := [f"{plain(hold.key)}-" for hold in vm.holds if hold.is_label is is_label]:
            yield f"kubectl {verb} kvm -n {vm.key.namespace} {vm.key.name} {' '.join(keys)}"


def _operation(vm: VirtualMachine, now: datetime) -> str:
    operation = vm.status.operation
    assert operation  # noqa: S101 - the caller has checked
    if operation.starts:
        return f"virtsync waits for libvirt's answer to the start (attempt {operation.attempt or 1})."
    if operation.deadline is None:
        return "The grace period of the stop begins when libvirt answers again."
    late = "reports ShutdownTimedOut" if vm.shutdown.mode is ShutdownMode.GRACEFUL else "forces the VM off"
    then = " When it is off, virtsync starts it." if operation.type is OperationType.RESTART else ""
    return f"If the guest is still on at {at(operation.deadline, now)}, virtsync {late}.{then}"


def _waiting(vm: VirtualMachine, reason: str, now: datetime) -> str:
    backoff, ready = vm.status.backoff, readiness(reason)
    if ready is Readiness.STALLED:
        return "Nothing until you act. The line Message says how."
    if ready is Readiness.RECONCILING:
        if backoff and reason != Reason.SETTLING and backoff.next_attempt_time > now:
            return f"Attempt {backoff.failures + 1} at {at(backoff.next_attempt_time, now)}."
        return "virtsync continues by itself. The line Message says what it waits for, if anything."
    if (restart := _scheduled_restart(vm)) is not None:
        return f"It is restarted at {at(restart, now)}, at most {CLOCK_MARGIN_S} s later."
    if ready is Readiness.READY:
        return "Nothing, until the spec or the VM changes."
    return "Nothing, until the line Message no longer applies."


def _scheduled_restart(vm: VirtualMachine) -> datetime | None:
    """Return the time of a requested restart that was not carried out yet, by the rules in docs/api.md."""
    request, last = vm.restart_request, vm.status.last_restart_time
    if request is None or vm.desired != "Running" or request <= vm.created or (last and request <= last):
        return None
    return request

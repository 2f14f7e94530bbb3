"""Follow a stop or restart that is in flight, with its deadline. Pure."""

from __future__ import annotations

from datetime import timedelta

from controller.api.clock import Now
from controller.api.values import replace
from controller.api.virtualmachine import DesiredPowerState, Operation, OperationType, Shutdown, Status
from controller.policy import starts
from controller.policy.starts import Start
from controller.policy.view import Domain, StopAttempt, Unreadable, View, VmMemory


def in_flight(  # noqa: PLR0911 - one rule a line
    history: Status, view: View, memory: VmMemory, start: Start
) -> Operation | None:
    """Return the operation that is still in flight after this observation; None: it has ended or was dropped."""
    vm, seen = view.vm, view.observed
    starting = history.operation is not None and history.operation.starts
    operation = start.operation if starting else history.operation
    if operation is None or operation.starts:
        return operation
    if isinstance(seen, Unreadable):
        return operation if seen.busy else replace(operation, deadline=None)
    unwanted = view.held or view.desired in {None, DesiredPowerState.PAUSED}
    if unwanted or view.rebooted or not isinstance(seen, Domain):
        return None
    if view.desired is DesiredPowerState.STOPPED:
        operation = replace(operation, type=OperationType.STOP, for_maintenance=view.to_be_shut_down or None)
    if seen.phase.off:
        return operation if operation.type is OperationType.RESTART else None
    if seen.lingers:
        ends_at = view.now.to_api() + timedelta(seconds=vm.shutdown.grace_s)
        return operation if operation.deadline else replace(operation, deadline=ends_at)
    # The same id can belong to another run: libvirtd reuses ids if no domain was on when it was restarted.
    watched = memory.stop_attempt is not None and memory.stop_attempt.start_time == operation.start_time
    other_run = not watched and starts.began_since(seen.run_since, operation, view.now)
    if seen.id != operation.domain_id or other_run:
        return None
    if operation.deadline is None:
        return new_operation(operation.type, seen, vm.shutdown, view.now, for_maintenance=operation.for_maintenance)
    if _recalled_and_over(operation, view, memory):
        return None
    return replace(operation, deadline=operation.start_time + timedelta(seconds=vm.shutdown.grace_s))


def _recalled_and_over(operation: Operation, view: View, memory: VmMemory) -> bool:
    """Whether the VM should run again, and the guest has not shut down within the grace period of the stop."""
    if view.desired is not DesiredPowerState.RUNNING or operation.type is not OperationType.STOP:
        return False
    return view.now.until(deadline_of(operation, memory.stop_attempt, view.vm.shutdown, view.now)) <= 0


def new_operation(
    kind: OperationType, domain: Domain, shutdown: Shutdown, now: Now, *, for_maintenance: bool | None = None
) -> Operation:
    """Return a new operation on this run of the domain, with a whole grace period."""
    start = now.to_api()
    deadline = start + timedelta(seconds=shutdown.grace_s)
    return Operation(kind, start, deadline, domain.id, for_maintenance=for_maintenance)


def deadline_of(operation: Operation, stop_attempt: StopAttempt | None, shutdown: Shutdown, now: Now) -> Now:
    """Return when the grace period of an operation is over.

    The deadline in the status is converted once to a monotonic moment, so later changes of the wall clock do not move
    it. A change of spec.shutdown moves the deadline of a stop in flight by the difference.
    """
    recorded = operation.deadline or operation.start_time
    if (
        stop_attempt
        and stop_attempt.domain_id == operation.domain_id
        and stop_attempt.start_time == operation.start_time
    ):
        return stop_attempt.deadline.plus((recorded - stop_attempt.deadline.wall).total_seconds())
    return now.expect(recorded, at_most_s=shutdown.grace_s)


def stop_attempt_of(operation: Operation | None, view: View, memory: VmMemory) -> StopAttempt | None:
    """Return what this process knows about the stop in flight.

    None: no stop is in flight, or libvirt gave no answer in this pass.
    """
    if operation is None or operation.starts or isinstance(view.observed, Unreadable):
        return None
    return attempted_stop(operation, view, memory)


def attempted_stop(operation: Operation, view: View, memory: VmMemory) -> StopAttempt:
    """Return the StopAttempt of this operation: the known one with its deadline updated, or a new one."""
    known = memory.stop_attempt
    deadline = deadline_of(operation, known, view.vm.shutdown, view.now)
    if known and (known.domain_id, known.start_time) == (operation.domain_id, operation.start_time):
        return replace(known, deadline=deadline)
    return StopAttempt(operation.domain_id, operation.start_time, since=view.now, deadline=deadline)

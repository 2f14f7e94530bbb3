"""What has become of a recorded start. Pure.

A stop is an intent, and can be dropped. A start is a fact about a call: once libvirt might have received the call, only
the end of the call ends the record, whatever the user wants in between. The record ends when

- the domain is observed on, and no call of this process is in progress;
- libvirt's refusal is known;
- nothing was called: this process knows that it did not call, or that the domain was not as expected;
- the host has booted since, or the domain no longer exists;
- the domain is observed off after the call has ended: it returned, or libvirtd was started since, or two observations
  some seconds apart on one connection show the domain off. Only an agent that may act ends a record by the last two.

A record that a dead agent left behind, or whose call got no answer, is executed again while the VM should be on:
libvirt starts a domain once, however often it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.api.clock import Now
from controller.api.libvirt_words import OffReason
from controller.api.values import replace
from controller.api.virtualmachine import Operation, OperationType, Status
from controller.policy.view import Domain, Phase, Result, View, VmMemory

OFF_CONFIRM_S = 10.0
"""Two observations this far apart confirm that a domain is off, if nothing else shows that a call on it has ended."""
RAN = {OffReason.SHUTDOWN, OffReason.DESTROYED, OffReason.CRASHED, OffReason.SAVED, OffReason.MIGRATED}
"""libvirt's reasons for off that only a domain can have that has run."""


@dataclass(frozen=True, slots=True)
class Start:
    """A recorded start after this observation."""

    operation: Operation | None = None
    """What stays recorded."""
    pending: bool = False
    """Its result is not known yet: nothing else is done."""
    again: Operation | None = None
    """The record to execute now, if the VM should still be on."""
    ran: bool = False
    """The domain has run since the record was written, and is off again."""
    refusal: str = ""
    withdrawn: bool = False
    """Nothing was called: `restartCount` is reduced again."""
    recheck_s: float | None = None


def follow(history: Status, view: View, memory: VmMemory) -> Start:
    """What has become of the recorded start, in a pass that observed this host."""
    operation, seen = history.operation, view.observed
    assert operation is not None  # noqa: S101 - called only if one is recorded
    if view.vm.status.node_boot_id != view.node.boot_id or not isinstance(seen, Domain):
        return Start()
    if seen.phase is Phase.STARTING or view.call_starts:
        return Start(operation, pending=True, recheck_s=OFF_CONFIRM_S)
    uncalled = operation == memory.start and _is_uncalled(memory)
    if not seen.phase.off:
        return Start(withdrawn=uncalled)
    if uncalled:
        return _uncalled(operation, memory)
    outcome = memory.outcome if operation == memory.start else None
    if outcome and outcome.result is not Result.UNKNOWN:
        return Start(ran=outcome.result is not Result.REFUSED)
    return _unanswered(history, seen, view, memory)


def began_since(began: datetime | None, operation: Operation, now: Now) -> bool:
    """Whether something began after this record was written, as far as times in whole seconds show.

    A beginning in the future was recorded while the clock was ahead, and shows nothing.
    """
    return began is not None and operation.start_time + timedelta(seconds=1) <= began <= now.wall


def _is_uncalled(memory: VmMemory) -> bool:
    """This process has not made the call that it recorded, or did nothing because the domain was not as expected."""
    outcome = memory.outcome
    return not memory.start_called or (outcome is not None and outcome.result is Result.STALE)


def _uncalled(operation: Operation, memory: VmMemory) -> Start:
    """This process wrote the record and called nothing: it can still call, but does not have to."""
    intent = replace(operation, attempt=None) if operation.type is OperationType.RESTART else None
    return Start(intent, again=None if memory.start_called else operation, withdrawn=True)


def _unanswered(history: Status, seen: Domain, view: View, memory: VmMemory) -> Start:
    """A dead agent left the record behind, or its call got no answer."""
    operation = history.operation
    assert operation is not None  # noqa: S101 - called only if one is recorded
    news = seen.reason != history.libvirt_reason
    if news and seen.reason in RAN:
        return Start(ran=True)
    if news and seen.reason == OffReason.FAILED:
        return Start(refusal="the recorded start failed")
    pending = Start(operation, pending=True)
    if view.node.blocked or view.node.observe_only:
        return pending
    if view.vm.wants_on and not view.vm.holds:
        return Start(operation, again=operation)
    restarted = began_since(view.node.libvirtd_since, operation, view.now)
    since = memory.off_since or view.now
    left_s = view.now.until(since.plus(OFF_CONFIRM_S))
    return Start() if restarted or left_s <= 0 else replace(pending, recheck_s=left_s)

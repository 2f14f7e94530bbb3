"""Follow a recorded start until its result is known. Pure.

A recorded stop is an intent, and virtsync can drop it. A recorded start is a fact about a call: once libvirt might have
received the call, only the result of the call ends the record, whatever the user wants by then. The record ends when
one of these is true:

- The domain is observed in a phase that is neither off nor STARTING, and no start call of this process is in progress.
- libvirt has refused the start.
- Nothing was called: this process has not made the call, or the domain was not as expected, and no earlier call of this
  start can be on its way.
- The host has booted since the record was written.
- The domain no longer exists.
- The start call of this process has returned with a known result, and the domain is observed off.
- libvirt's reason for "off" is new, and only a domain that has run can have this reason.
- (*) libvirtd was started since the record was written, and the domain is observed off.
- (*) Two observations some seconds apart, on one uninterrupted connection, show the domain off.

(*) Only an agent that is allowed to act ends the record for this reason, and only if the VM should not be on, is held,
runs on another host, or its host is in maintenance.

If a dead agent left a record behind, or a call got no answer, virtsync executes the recorded start again if the VM
should be on and none of these forbids it. This is safe, because libvirt does not start a domain that is already on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.api.clock import Now
from controller.api.libvirt_words import RAN, OffReason
from controller.api.values import replace
from controller.api.virtualmachine import Operation, OperationType, Status
from controller.policy.view import Domain, Phase, Result, View, VmMemory

OFF_CONFIRM_S = 10.0
"""Two observations this far apart confirm that a domain is off, if nothing else shows that its last call has ended."""


@dataclass(frozen=True, slots=True)
class Start:
    """The state of a recorded start after this observation."""

    operation: Operation | None = None
    """The operation that the report keeps; None: the record has ended."""
    pending: bool = False
    """Whether the result is not known yet. Until it is known, virtsync takes no other action."""
    again: Operation | None = None
    """The recorded start to execute now, if the VM should still be on."""
    ran: bool = False
    """Whether the domain has run since the record was written, and is off again."""
    refusal: str = ""
    """Why the start failed, if it failed without an outcome; empty otherwise."""
    withdrawn: bool = False
    """Whether nothing was called. Then the increase of `restartCount` is taken back."""
    recheck_s: float | None = None


def follow(history: Status, view: View, memory: VmMemory) -> Start:
    """Return the state of the recorded start; the view must be of a pass in which libvirt gave an answer."""
    operation, seen = history.operation, view.observed
    assert operation is not None  # noqa: S101 - called only if one is recorded
    booted = view.rebooted and not view.call_starts
    if booted or not isinstance(seen, Domain):
        return Start()
    if seen.phase is Phase.STARTING or view.call_starts:
        return Start(operation, pending=True, recheck_s=OFF_CONFIRM_S)
    uncalled = operation == memory.start and _is_uncalled(memory)
    if not seen.phase.off:
        return Start(withdrawn=uncalled)
    if uncalled:
        return _uncalled(operation, memory)
    outcome = memory.outcome if operation == memory.start else None
    if outcome and outcome.called and outcome.result is not Result.UNKNOWN:
        return Start(ran=outcome.result is not Result.REFUSED)
    return _unanswered(history, seen, view, memory)


def began_since(began: datetime | None, operation: Operation, now: Now) -> bool:
    """Whether a process began at least one whole second after this record was written.

    A time in the future was recorded while the clock was ahead, and does not count.
    """
    return began is not None and operation.start_time + timedelta(seconds=1) <= began <= now.wall


def _is_uncalled(memory: VmMemory) -> bool:
    """Whether nothing was called: this process has not made the recorded call, or the domain was not as expected.

    If the call was to be made again, the earlier call might still be on its way.
    """
    outcome = memory.outcome
    if memory.start_repeated:
        return False
    return not memory.start_called or (outcome is not None and not outcome.called)


def _uncalled(operation: Operation, memory: VmMemory) -> Start:
    """Return the state of a start that this process has recorded and not called.

    The record ends. If the call was not tried, this process can execute the start now.
    """
    intent = replace(operation, attempt=None) if operation.type is OperationType.RESTART else None
    return Start(intent, again=None if memory.start_called else operation, withdrawn=True)


def _unanswered(history: Status, seen: Domain, view: View, memory: VmMemory) -> Start:
    """Return the state of a start whose record a dead agent left behind, or whose call got no answer."""
    operation = history.operation
    assert operation is not None  # noqa: S101 - called only if one is recorded
    changed = seen.reason != history.libvirt_reason
    if changed and seen.reason in RAN:
        return Start(ran=True)
    if changed and seen.reason == OffReason.FAILED:
        return Start(refusal="the recorded start failed")
    pending = Start(operation, pending=True)
    if view.node.blocked or view.node.observe_only:
        return pending
    if view.wants_on and not view.held and not view.running_elsewhere:
        return Start(operation, again=operation)
    restarted = began_since(view.node.libvirtd_since, operation, view.now)
    since = memory.off_since or view.now
    left_s = view.now.until(since.plus(OFF_CONFIRM_S))
    return Start() if restarted or left_s <= 0 else replace(pending, recheck_s=left_s)

"""Make the report from a verdict: its conditions, and the values that the next pass needs. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.api.clock import Now, api_time
from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import RunsElsewhere
from controller.api.names import ConditionType
from controller.api.notice import Notice
from controller.api.text import sanitized
from controller.api.values import replace
from controller.api.virtualmachine import Condition, Reason, Status
from controller.policy.backoff import forgotten_at
from controller.policy.handover import is_foreign, is_stale, runs_here
from controller.policy.operations import stop_attempt_of
from controller.policy.situation import FORBIDDEN, Situation
from controller.policy.view import Absent, Action, Phase, PowerAction, Step, Unreadable, Verdict, VmMemory

MESSAGE_LIMIT = 32768
"""The API allows this many characters in the message of a condition. virtsync limits the bytes to the same number."""
EVENT_REASONS = {Reason.DOMAIN_NOT_FOUND, Reason.DOMAIN_REPLACED, Reason.DOMAIN_CONFLICT, Reason.RUNS_ELSEWHERE}
"""Reasons for which virtsync writes an Event when they begin."""
NOT_SERVED = {Reason.HANDOVER_UNCONFIRMED} | EVENT_REASONS
"""Reasons that are not Reconciling, and under which a change of the spec still counts as not served."""
UNDECIDED = {
    Reason.LIBVIRT_UNREACHABLE,
    Reason.HANDOVER_UNCONFIRMED,
    Reason.SPEC_NOT_UNDERSTOOD,
    Reason.ACTION_BLOCKED,
}
"""Reasons under which virtsync decides nothing about the domain, so the report keeps the former decision."""


def conclude(s: Situation, verdict: Verdict) -> Step:
    """Return the step of this pass: the report, at most one action, and when to observe again."""
    status = verdict.status or s.status
    if _served(s, verdict):
        status = replace(status, desired=s.vm.desired)
    if verdict.reason is Reason.IN_SYNC and s.phase is not Phase.RUNNING:
        status = replace(status, backoff=None)
    if verdict.action is Action.SHUTDOWN:
        status = _with_shutdown_request(status, s.now)
    status = _with_decision(status, s, verdict)
    status = replace(_with_run_time(status, s), conditions=_conditions(s, verdict, status.observed_generation))
    action = PowerAction(verdict.action, s.domain, s.now.monotonic_s) if verdict.action else None
    waits = [wait for wait in (verdict.recheck_s, s.recheck_s, _forget_in_s(s)) if wait is not None]
    return Step(
        reason=verdict.reason,
        message=verdict.message,
        status=status,
        memory=_remembered(s, verdict, status),
        action=action,
        recheck_s=min(waits, default=None),
        notices=(*s.notices, *_notices(s, verdict, status.decided_reason)),
    )


def _with_shutdown_request(status: Status, now: Now) -> Status:
    """Return the report with the record that virtsync asks the guest to shut down.

    The record has the time of the first request of the stop, so that a repeated request changes nothing.
    """
    domain, operation = status.domain, status.operation
    if domain is None or operation is None:
        return status
    before = domain.shutdown_request_time
    asked = before if before and before >= operation.start_time else max(now.to_api(), operation.start_time)
    return replace(status, domain=replace(domain, shutdown_request_time=asked))


def _with_decision(status: Status, s: Situation, verdict: Verdict) -> Status:
    """Return the report with the reason of this decision, and with the time at which that reason last changed."""
    decided, before = _decided(s, verdict), s.vm.status
    since = before.decided_transition_time if decided == before.decided_reason else s.now.to_api()
    return replace(status, decided_reason=decided, decided_transition_time=since)


def _decided(s: Situation, verdict: Verdict) -> str:
    """Return the reason of the last decision about the domain, which the next decision uses as an input."""
    if s.unresolved:
        # The condition that shows that the other host's report is in doubt is about to be replaced. A later pass must
        # not find Pending beside another condition, because `is_stale` would take the report for one without doubt.
        replaced = verdict.reason not in UNDECIDED or s.history.decided == Reason.PENDING
        stale = replaced and is_stale(s.history)
        return Reason.HANDOVER_UNCONFIRMED if stale else s.history.decided
    if _decides(s, verdict):
        # Another host must know this run, whichever row of the table applies here.
        off = s.off or isinstance(s.view.observed, Absent)
        return Reason.RUNS_ELSEWHERE if off and s.view.running_elsewhere else verdict.reason
    last = s.vm.status
    if last.decided_reason == Reason.PENDING and last.node_name and not is_foreign(last, s.view.node):
        # This node wrote the report and observes nothing now. `is_stale` would take Pending as a sign that the report
        # was not in doubt.
        return ""
    return s.history.decided


def _decides(s: Situation, verdict: Verdict) -> bool:
    """Whether this pass observed the domain and decided about it."""
    return not isinstance(s.view.observed, Unreadable) and verdict.reason not in UNDECIDED


def _with_run_time(status: Status, s: Situation) -> Status:
    """Return the report. Set a later `run_transition_time` if the VM's run, node or power state has changed.

    Also set a later time if a new start was recorded. An old `confirmed-off` annotation then no longer matches.
    """
    before = s.vm.status
    started = status.operation is not None and status.operation.starts and status.operation != before.operation
    if not started and _run(status) == _run(before):
        return status
    least = before.run_transition_time + timedelta(seconds=1) if before.run_transition_time else s.now.to_api()
    return replace(status, run_transition_time=max(s.now.to_api(), least))


def _run(status: Status) -> tuple[object, ...]:
    """Return the fields in which the reports of two runs differ."""
    run = status.domain.id if status.domain else None
    return status.node_name, status.host_uuid, status.node_boot_id, run, status.power_state


def _remembered(s: Situation, verdict: Verdict, status: Status) -> VmMemory:
    """Return the in-process state for the next pass."""
    if s.unresolved:
        return s.memory
    held = verdict.reason in FORBIDDEN or (s.memory.held and not _decides(s, verdict))
    doubled = s.memory.doubled if isinstance(s.view.observed, Unreadable) else _doubled(s)
    memory = replace(
        s.memory,
        held=held,
        doubled=doubled,
        stop_attempt=stop_attempt_of(status.operation, s.view, s.memory),
        unsent_shutdown=_unsent_shutdown(s, verdict, status),
    )
    if not (verdict.action and verdict.action.starts):
        return memory
    counted = status.restart_count > s.status.restart_count
    return replace(
        memory,
        start=status.operation,
        start_called=False,
        start_unanswered=s.memory.start_unanswered if status.operation == s.memory.start else 0,
        start_repeated=s.start.again is not None and not s.start.withdrawn,
        start_counted=counted,
        off_since=None,  # observations from before the call do not show how the call ends
    )


def _unsent_shutdown(s: Situation, verdict: Verdict, status: Status) -> datetime | None:
    """Return the time of the shutdown request that this report records before it is sent for the first time."""
    before, now = s.status.domain, status.domain
    if verdict.action is Action.SHUTDOWN and now and not (before and before.shutdown_request_time):
        return now.shutdown_request_time
    return s.memory.unsent_shutdown


def _served(s: Situation, verdict: Verdict) -> bool:
    """Whether the spec has been served. Until then, a change of spec.powerState still counts as new."""
    waits_for_qemu = s.wants_on and s.off and verdict.reason is Reason.SHUTDOWN_TIMED_OUT
    if s.unresolved or s.vm.misunderstood or waits_for_qemu:
        return False
    return READINESS[verdict.reason] in {Readiness.READY, Readiness.STALLED} and verdict.reason not in NOT_SERVED


def _conditions(s: Situation, verdict: Verdict, generation: int) -> tuple[Condition, ...]:
    ready, abnormal = READINESS[verdict.reason].value
    kinds: list[tuple[str, str]] = [(ConditionType.READY, ready)] + ([(abnormal, "True")] if abnormal else [])
    message = sanitized(verdict.message, MESSAGE_LIMIT)
    return tuple(
        Condition(kind, value, verdict.reason, message, _since(s, kind, value), max(generation, 0))
        for kind, value in kinds
    )


def _since(s: Situation, kind: str, value: str) -> datetime:
    """Return since when the condition has this status."""
    before = s.vm.status.condition(kind)
    return before.last_transition_time if before and before.status == value else s.now.to_api()


def _notices(s: Situation, verdict: Verdict, decided: str) -> tuple[Notice, ...]:
    """Return the Events of a reason in EVENT_REASONS, and of a run on two hosts, that have just begun."""
    notices: list[Notice] = []
    # Before a handover is resolved, no reason is stored as the decision, so only Ready shows it.
    last = s.vm.status
    changes = verdict.reason != last.reason if s.unresolved else decided != last.decided
    if verdict.reason in EVENT_REASONS and changes:
        notices.append(Notice(str(verdict.reason), verdict.message, warning=True))
    if (there := _doubled(s)) and there != s.memory.doubled:
        note = (
            f"The VM runs on {s.view.node.name} and, since {api_time(there.since)}, also on {there.node_name}, so two "
            "QEMU processes might write to its disks. Stop one of the two."
        )
        notices.append(Notice(str(Reason.DOMAIN_CONFLICT), note, warning=True))
    return tuple(notices)


def _doubled(s: Situation) -> RunsElsewhere | None:
    """Return the run on another host of a VM that runs here; None: there is no such run."""
    return s.view.running_elsewhere if runs_here(s.view) else None


def _forget_in_s(s: Situation) -> float | None:
    """Return in how many seconds the backoff is removed if the domain still runs then; None: there is no backoff."""
    forgotten = forgotten_at(s.memory, s.memory.next_attempt, s.view, s.waits)
    # Only a pass that decides can remove the backoff. Without this check, other passes would repeat in a busy loop.
    decides = not s.vm.misunderstood and s.unresolved is None
    if not (decides and s.status.backoff and s.phase is Phase.RUNNING and forgotten):
        return None
    return s.now.until(forgotten)

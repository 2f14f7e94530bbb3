"""From a verdict to the report: the conditions, and what the report keeps for the next observation. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from controller.api.conditions import READINESS, Readiness
from controller.api.names import ConditionType
from controller.api.text import sanitized
from controller.api.values import replace
from controller.api.virtualmachine import Condition, Reason, Status
from controller.policy.handover import is_stale
from controller.policy.operations import stop_attempt_of
from controller.policy.situation import Situation
from controller.policy.view import Notice, Phase, PowerAction, Step, Unreadable, Verdict, VmMemory

MESSAGE_LIMIT = 32768
"""Characters that the API allows in the message of a condition; used here as a limit on bytes, so never exceeded."""


EVENT_REASONS = {Reason.DOMAIN_NOT_FOUND, Reason.DOMAIN_REPLACED, Reason.DOMAIN_CONFLICT}
"""Reasons that are written as an Event when they begin."""


NOT_SERVED = {Reason.HANDOVER_UNCONFIRMED} | EVENT_REASONS
"""Reasons that are not Reconciling, and under which a change of the spec is still to be served later."""


UNDECIDED = {Reason.LIBVIRT_UNREACHABLE, Reason.HANDOVER_UNCONFIRMED, Reason.SPEC_NOT_UNDERSTOOD}
"""Reasons under which nothing was decided about the domain: the decision before stays remembered."""


def conclude(s: Situation, verdict: Verdict) -> Step:
    """The report of this observation, with the action that it records."""
    status = verdict.status or s.status
    if _served(s, verdict):
        status = replace(status, desired=s.desired)
    if verdict.reason is Reason.IN_SYNC and s.phase is not Phase.RUNNING:
        status = replace(status, backoff=None)
    status = replace(status, decided_reason=_decided(s, verdict))
    status = replace(_moved(status, s), conditions=_conditions(s, verdict, status.observed_generation))
    action = PowerAction(verdict.action, s.domain) if verdict.action else None
    waits = [wait for wait in (verdict.recheck_s, s.recheck_s, _forget_in_s(s)) if wait is not None]
    return Step(
        reason=verdict.reason,
        message=verdict.message,
        status=status,
        memory=_remembered(s, verdict, status),
        action=action,
        recheck_s=min(waits, default=None),
        notices=(*s.notices, *_told(s, verdict)),
    )


def _decided(s: Situation, verdict: Verdict) -> str:
    """The reason that the next decision builds on."""
    if s.elsewhere:
        # The other host's report is in doubt, and the condition that shows the doubt is about to be replaced.
        stale = verdict.reason not in UNDECIDED and is_stale(s.history)
        return Reason.HANDOVER_UNCONFIRMED if stale else s.history.decided
    return verdict.reason if _sees(s, verdict) else s.status.decided


def _sees(s: Situation, verdict: Verdict) -> bool:
    """Whether this observation decides about the domain."""
    return not isinstance(s.view.observed, Unreadable) and verdict.reason not in UNDECIDED


def _moved(status: Status, s: Situation) -> Status:
    """The report, with a later `run_transition_time` if a confirmation of the former report must not apply to it."""
    before = s.vm.status
    started = status.operation is not None and status.operation.starts and status.operation != before.operation
    if not started and _run(status) == _run(before):
        return status
    least = before.run_transition_time + timedelta(seconds=1) if before.run_transition_time else s.now.to_api()
    return replace(status, run_transition_time=max(s.now.to_api(), least))


def _run(status: Status) -> tuple[object, ...]:
    """What distinguishes the report of one run from that of another."""
    run = status.domain.id if status.domain else None
    return status.node_name, status.host_uuid, status.node_boot_id, run, status.power_state


def _remembered(s: Situation, verdict: Verdict, status: Status) -> VmMemory:
    """What this process knows after this observation."""
    if s.elsewhere:
        return s.memory
    held = verdict.reason is Reason.HELD or (s.memory.held and not _sees(s, verdict))
    memory = replace(s.memory, held=held, stop_attempt=stop_attempt_of(status.operation, s.view, s.memory))
    if not (verdict.action and verdict.action.starts):
        return memory
    counted = status.restart_count > s.status.restart_count
    # Observations before the call say nothing about how the call ends.
    return replace(memory, start=status.operation, start_called=False, start_counted=counted, off_since=None)


def _served(s: Situation, verdict: Verdict) -> bool:
    """Whether the spec is served; until then a change of it stays a change."""
    waits_for_qemu = s.wants_on and s.off and verdict.reason is Reason.SHUTDOWN_TIMED_OUT
    if s.elsewhere or s.vm.misunderstood or waits_for_qemu:
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
    """Since when the condition has this status."""
    before = s.vm.status.condition(kind)
    return before.last_transition_time if before and before.status == value else s.now.to_api()


def _told(s: Situation, verdict: Verdict) -> tuple[Notice, ...]:
    if verdict.reason not in EVENT_REASONS or verdict.reason in {s.vm.status.reason, s.vm.status.decided_reason}:
        return ()
    return (Notice(str(verdict.reason), verdict.message, warning=True),)


def _forget_in_s(s: Situation) -> float | None:
    """In how many seconds the backoff is forgotten, if the domain runs until then."""
    since = s.memory.phase_since
    # An observation that decides nothing forgets no backoff, however old: a recheck at once would be a busy loop.
    decides = not s.vm.misunderstood and s.elsewhere is None
    if not (decides and s.status.backoff and s.phase is Phase.RUNNING and since):
        return None
    return s.now.until(since.plus(s.waits.backoff_forget_s))

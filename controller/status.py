"""From a verdict to the report: the conditions, and what the report remembers for the next look. Pure."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from controller.model import (
    Act,
    Condition,
    Notice,
    Phase,
    Reason,
    Step,
    Verdict,
)
from controller.situation import Situation, pursuit_of, shown

MESSAGE_LIMIT = 32768
"""Characters that the API takes in the message of a condition."""


class Tone(Enum):
    """What a reason means to kstatus: (Ready, and which of the abnormal conditions is True)."""

    GOOD = ("True", "")
    BUSY = ("False", "Reconciling")
    STUCK = ("False", "Stalled")
    WAITING = ("False", "")
    UNKNOWN = ("Unknown", "")


TONES = {
    Reason.IN_SYNC: Tone.GOOD,
    Reason.OBSERVED: Tone.GOOD,
    Reason.COMPLETED: Tone.GOOD,
    Reason.SUSPENDED_BY_GUEST: Tone.GOOD,
    Reason.SETTLING: Tone.BUSY,
    Reason.STARTING: Tone.BUSY,
    Reason.SHUTTING_DOWN: Tone.BUSY,
    Reason.PAUSING: Tone.BUSY,
    Reason.RESUMING: Tone.BUSY,
    Reason.WAKING: Tone.BUSY,
    Reason.RESTARTING: Tone.BUSY,
    Reason.HYPERVISOR_BUSY: Tone.BUSY,
    Reason.START_FAILED: Tone.BUSY,
    Reason.CRASH_LOOP_BACK_OFF: Tone.BUSY,
    Reason.PAUSED_BY_IO_ERROR: Tone.BUSY,
    Reason.ACTION_FAILED: Tone.BUSY,
    Reason.ACTION_BLOCKED: Tone.BUSY,
    Reason.FAILED: Tone.STUCK,
    Reason.DOMAIN_NOT_FOUND: Tone.STUCK,
    Reason.DOMAIN_REPLACED: Tone.STUCK,
    Reason.DOMAIN_CONFLICT: Tone.STUCK,
    Reason.SHUTDOWN_TIMED_OUT: Tone.STUCK,
    Reason.PAUSED_BY_WATCHDOG: Tone.STUCK,
    Reason.CRASHED_PRESERVED: Tone.STUCK,
    Reason.POST_COPY_FAILED: Tone.STUCK,
    Reason.MIGRATED_AWAY: Tone.STUCK,
    Reason.SAVED_ELSEWHERE: Tone.STUCK,
    Reason.HANDOVER_UNCONFIRMED: Tone.STUCK,
    Reason.HELD: Tone.WAITING,
    Reason.OBSERVE_ONLY: Tone.WAITING,
    Reason.UNKNOWN_STATE: Tone.UNKNOWN,
    Reason.SPEC_NOT_UNDERSTOOD: Tone.UNKNOWN,
    Reason.LIBVIRT_UNREACHABLE: Tone.UNKNOWN,
    Reason.AGENT_UNREACHABLE: Tone.UNKNOWN,
    Reason.PENDING: Tone.UNKNOWN,
}

TOLD = {Reason.DOMAIN_NOT_FOUND, Reason.DOMAIN_REPLACED, Reason.DOMAIN_CONFLICT}
"""Reasons whose beginning is an Event of its own."""

NOT_SERVED = {Reason.HANDOVER_UNCONFIRMED} | TOLD
"""Reasons that end no Reconciling, and still leave a change of the spec to be served later."""


def conclude(s: Situation, verdict: Verdict) -> Step:
    """The report of this look, with the act that it records."""
    status = verdict.status or s.status
    if _served(verdict):
        status = replace(status, desired=s.desired)
    if verdict.reason is Reason.IN_SYNC and s.phase is not Phase.RUNNING:
        status = replace(status, backoff=None)
    status = replace(status, conditions=_conditions(s, verdict))
    act = Act(verdict.verb, s.domain) if verdict.verb else None
    waits = [wait for wait in (verdict.recheck_s, s.recheck_s, _forget_in_s(s)) if wait is not None]
    return Step(
        reason=verdict.reason,
        message=verdict.message,
        status=status,
        memory=replace(s.memory, pursuit=pursuit_of(status.operation, s.view, s.memory)),
        act=act,
        recheck_s=min(waits, default=None),
        notices=(*s.notices, *_told(s, verdict)),
    )


def _served(verdict: Verdict) -> bool:
    """Whether the spec's wish needs no more looking after; until then a change of it stays a change."""
    return TONES[verdict.reason] in {Tone.GOOD, Tone.STUCK} and verdict.reason not in NOT_SERVED


def _conditions(s: Situation, verdict: Verdict) -> tuple[Condition, ...]:
    ready, abnormal = TONES[verdict.reason].value
    kinds = [("Ready", ready)] + ([(abnormal, "True")] if abnormal else [])
    message = verdict.message if len(verdict.message) <= MESSAGE_LIMIT else verdict.message[: MESSAGE_LIMIT - 1] + "…"
    return tuple(_condition(s, kind, value, verdict.reason, message) for kind, value in kinds)


def _condition(s: Situation, kind: str, value: str, reason: Reason, message: str) -> Condition:
    before = s.vm.status.condition(kind)
    since = before.last_transition_time if before and before.status == value else shown(s.now)
    return Condition(kind, value, reason, message, since, s.vm.generation)


def _told(s: Situation, verdict: Verdict) -> tuple[Notice, ...]:
    if verdict.reason not in TOLD or s.vm.status.reason == verdict.reason:
        return ()
    return (Notice(str(verdict.reason), verdict.message, warning=True),)


def _forget_in_s(s: Situation) -> float | None:
    """When a backoff will be forgotten, if the domain runs on until then."""
    since = s.memory.phase_since
    if not (s.status.backoff and s.phase is Phase.RUNNING and since):
        return None
    return s.now.until(since.plus(s.waits.backoff_forget_s))

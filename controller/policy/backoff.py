"""Failures, and when the next attempt may be made. Pure."""

from __future__ import annotations

from controller.api.clock import Now, exponential_s
from controller.api.values import replace
from controller.api.virtualmachine import Backoff, Status
from controller.policy.view import Domain, Phase, View, VmMemory
from controller.policy.waits import Waits


def backed_off(status: Status, memory: VmMemory, view: View, waits: Waits, *, refused: bool) -> tuple[Status, VmMemory]:
    """The backoff after this observation: increased by a refusal, forgotten after a long run."""
    backoff, now, since = status.backoff, view.now, memory.phase_since
    runs = isinstance(view.observed, Domain) and view.observed.phase is Phase.RUNNING
    if backoff and runs and since and since.plus(waits.backoff_forget_s).monotonic_s <= now.monotonic_s:
        backoff = None
    next_attempt = _next_attempt(backoff, memory, now, waits)
    if refused and (next_attempt is None or now.until(next_attempt) <= 0):
        backoff, next_attempt = increased(backoff, now, waits)
    told = backoff.next_attempt_time if backoff else None
    return replace(status, backoff=backoff), replace(memory, next_attempt=next_attempt, next_attempt_told=told)


def _next_attempt(backoff: Backoff | None, memory: VmMemory, now: Now, waits: Waits) -> Now | None:
    if backoff is None:
        return None
    if memory.next_attempt and memory.next_attempt_told == backoff.next_attempt_time:
        return memory.next_attempt
    return now.expect(backoff.next_attempt_time, at_most_s=waits.backoff_max_s)


def increased(backoff: Backoff | None, now: Now, waits: Waits) -> tuple[Backoff, Now]:
    """The backoff after one more attempt, and the moment of the next attempt."""
    failures = backoff.failures if backoff else 0
    moment = now.plus(exponential_s(waits.backoff_first_s, waits.backoff_max_s, failures + 1))
    # Rounded up: a wait that is reported in whole seconds must not be shorter than intended.
    return Backoff(failures + 1, moment.plus(1).to_api()), moment

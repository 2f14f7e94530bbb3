"""The exponential backoff: how many attempts have failed, and when the next attempt is allowed. Pure."""

from __future__ import annotations

from controller.api.clock import Now, exponential_s
from controller.api.values import replace
from controller.api.virtualmachine import Backoff, Reason, Status
from controller.policy.view import Domain, Phase, View, VmMemory
from controller.policy.waits import Waits


def backed_off(status: Status, memory: VmMemory, view: View, waits: Waits, *, failed: bool) -> tuple[Status, VmMemory]:
    """Return the draft and the in-process state, both with the updated backoff.

    A long run removes the backoff. A failed action increases the backoff, but only if its former wait is over.
    """
    backoff, now = status.backoff, view.now
    next_attempt = _next_attempt(backoff, memory, now, waits)
    runs = isinstance(view.observed, Domain) and view.observed.phase is Phase.RUNNING
    forgotten = forgotten_at(memory, next_attempt, view, waits)
    if backoff and runs and forgotten and now.until(forgotten) <= 0:
        backoff = next_attempt = None
    if failed and (next_attempt is None or now.until(next_attempt) <= 0):
        backoff, next_attempt = increased(backoff, now, waits)
    source = backoff.next_attempt_time if backoff else None
    return replace(status, backoff=backoff), replace(memory, next_attempt=next_attempt, next_attempt_from=source)


def forgotten_at(memory: VmMemory, next_attempt: Now | None, view: View, waits: Waits) -> Now | None:
    """Return the moment at which the domain has run long enough to remove the backoff; None: that is unknown.

    After a failed action, the run counts from the next attempt if that is later. The backoff of an action on a domain
    that has been running for long would otherwise be removed at once, and the action repeated without a wait.
    """
    failed = memory.failed is not None or view.vm.status.decided == Reason.ACTION_FAILED
    since = memory.phase_since
    if since and failed and next_attempt:
        since = max(since, next_attempt, key=lambda moment: moment.monotonic_s)
    return since.plus(waits.backoff_forget_s) if since else None


def _next_attempt(backoff: Backoff | None, memory: VmMemory, now: Now, waits: Waits) -> Now | None:
    """Return the moment of the next attempt; the time in the status is converted only once to a monotonic moment."""
    if backoff is None:
        return None
    if memory.next_attempt and memory.next_attempt_from == backoff.next_attempt_time:
        return memory.next_attempt
    return now.expect(backoff.next_attempt_time, at_most_s=waits.backoff_max_s)


def increased(backoff: Backoff | None, now: Now, waits: Waits) -> tuple[Backoff, Now]:
    """Return the backoff after one more failure, and the moment of the next attempt."""
    failures = backoff.failures if backoff else 0
    moment = now.plus(exponential_s(waits.backoff_first_s, waits.backoff_max_s, failures + 1))
    # Rounded up: a wait that is reported in whole seconds must not be shorter than intended.
    return Backoff(failures + 1, moment.plus(1).to_api()), moment

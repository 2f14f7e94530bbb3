"""Runs checks of what a process needs: each on its own thread, with a timeout, so that none blocks another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from enum import StrEnum

from controller.api.text import sanitized
from controller.runtime.errors import Rejected, Transient, Vanished

LIMIT_BYTES = 1000
"""The maximum size of a detail and of a fix, which can contain text that others wrote, such as the holder of a Lease.
"""


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    MISSING = "missing"
    NOT_VISIBLE = "not visible from here"
    """This process cannot find out, so the check says neither that something is missing nor that all is well."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    state: State
    detail: str
    """One line without a full stop."""
    fix: str = ""
    """The command that fixes what is missing; empty unless something is missing."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check of one thing that a process needs."""

    name: str
    run: Callable[[], Finding]
    """Runs on a thread of its own. Must write nothing. May raise, which means that the thing is missing."""
    fix: str
    """The command that fixes or examines the thing if `run` raises, or does not return in time."""
    needs: str = ""
    """The name of the check without which this one cannot find out anything; empty: it needs none."""


def ok(detail: str) -> Finding:
    """Return the finding that the thing is there."""
    return Finding(State.OK, detail)


def missing(detail: str, fix: str) -> Finding:
    """Return the finding that the thing is missing, with the command that fixes it."""
    return Finding(State.MISSING, detail, fix)


def not_visible(detail: str) -> Finding:
    """Return the finding that this process cannot find out."""
    return Finding(State.NOT_VISIBLE, detail)


def run_all(checks: Iterable[Check], timeout_s: float) -> dict[str, Finding]:
    """Return the finding of each check by its name, in the order of the checks.

    Checks run at the same time, except that a check waits for the one that it needs. If that one is not ok, this one
    does not run. Takes at most `timeout_s` for each step of the longest chain of needs. The thread of a check that does
    not return is left behind, as a daemon.
    """
    waiting = {check.name: check for check in checks}
    found: dict[str, Finding | None] = dict.fromkeys(waiting)
    while waiting:
        ready = [check for check in waiting.values() if not check.needs or found[check.needs]]
        found.update(_run_at_once(ready, found, timeout_s))
        for check in ready:
            del waiting[check.name]
    return {name: finding for name, finding in found.items() if finding}


def _run_at_once(ready: list[Check], found: dict[str, Finding | None], timeout_s: float) -> dict[str, Finding]:
    findings: dict[str, Finding] = {}
    running: dict[Check, Future[Finding]] = {}
    for check in ready:
        needed = found[check.needs] if check.needs else None
        if needed and needed.state is not State.OK:
            findings[check.name] = not_visible(f"this needs: {check.needs}")
        else:
            running[check] = _started(check)
    wait(running.values(), timeout_s)
    for check, future in running.items():
        silent = missing(f"no answer within {timeout_s:g} s", check.fix)
        findings[check.name] = future.result() if future.done() else silent
    return findings


def _started(check: Check) -> Future[Finding]:
    future: Future[Finding] = Future()
    threading.Thread(target=lambda: future.set_result(_finding(check)), name=check.name, daemon=True).start()
    return future


def _finding(check: Check) -> Finding:
    found = _run(check)
    return replace(found, detail=sanitized(found.detail, LIMIT_BYTES), fix=sanitized(found.fix, LIMIT_BYTES))


def _run(check: Check) -> Finding:
    try:
        return check.run()
    except (Transient, Rejected, Vanished) as error:
        return missing(str(error), check.fix)
    except Exception as error:  # noqa: BLE001 - the other checks must run whatever happens in this one
        return missing(f"internal error in this check: {type(error).__name__}: {error}", check.fix)

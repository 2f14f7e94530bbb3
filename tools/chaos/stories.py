"""Faults of several steps: each step waits for the one before, and gives up if that does not happen."""

import time
from collections.abc import Callable

PATIENCE_S = 12.0
POLL_S = 0.1


class NotReachedError(Exception):
    """The next step of a story did not happen: other faults prevented it."""


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until this holds. Raises NotReachedError with `what` if it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise NotReachedError(what)
        time.sleep(POLL_S)

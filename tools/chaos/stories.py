"""Faults of several steps: each waits for the one before, and gives up when that does not come."""

import time
from collections.abc import Callable

PATIENCE_S = 12.0
POLL_S = 0.1


class NotReachedError(Exception):
    """The step that a story needs next did not come: other faults were in its way."""


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until it is true. Raises NotReachedError with `what`."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise NotReachedError(what)
        time.sleep(POLL_S)

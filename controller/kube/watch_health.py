"""The health of the watch, derived from its requests and their responses. Does no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable

STEADY_S = 5.0
"""A watch that ends within this time has failed, whatever the API server responded."""
UNREADY_AFTER_S = 60.0
"""If the watch fails for longer than this, the agent is not ready."""


class WatchHealth:
    """The health of the watch. Only the asyncio thread may call the methods that record; any thread may read."""

    def __init__(self, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`what` names the objects in messages."""
        self._what, self._clock = what, clock
        self._opened_s: float | None = None
        """Since when a watch is open, in monotonic seconds. None if no watch is open."""
        self._failing_s = clock()
        """When the last watch ended that was open for at least `STEADY_S`. Before that, when this object was created.
        """
        self._opened_once = False
        self._why = "no watch has been opened yet"
        self.listed_s = float("-inf")
        """When all objects were last listed, in monotonic seconds."""
        self.listings = 0
        """How many times all objects were listed."""
        self.last_request_s = clock()
        """When the last request was sent, in monotonic seconds."""

    @property
    def open(self) -> bool:
        """Whether a watch is open, as far as the last request and its response show."""
        return self._opened_s is not None

    def request_sent(self) -> None:
        """Record that a request is sent. If a watch was open, it has therefore ended."""
        self.last_request_s = self._clock()
        self.ended("each watch ends as soon as it is opened")

    def ended(self, why: str) -> None:
        """Record that no watch is open any more. `why` is the reason if the watch was open for less than `STEADY_S`."""
        opened_s, self._opened_s = self._opened_s, None
        if opened_s is None:
            return
        if self._clock() - opened_s >= STEADY_S:
            self._failing_s, self._why = self._clock(), "the last watch has ended"
        else:
            self._why = why

    def opened(self) -> None:
        """Record that the API server has accepted a watch."""
        self._opened_s, self._opened_once = self._clock(), True

    def failed(self, why: str) -> None:
        """Record that a request failed: the API server returned an error or did not respond."""
        self._why = why

    def listed(self) -> None:
        """Record that all objects were listed."""
        self.listed_s, self.listings = self._clock(), self.listings + 1

    def unready(self) -> str | None:
        """Return why changes might not be observed, as one sentence, or None if the agent is ready."""
        now_s, opened_s = self._clock(), self._opened_s
        if not self._opened_once:
            return f"changes of {self._what} are not watched yet: {self._why}"
        if opened_s is not None and now_s - opened_s >= STEADY_S:
            return None
        failing_s = now_s - self._failing_s
        if failing_s <= UNREADY_AFTER_S:
            return None
        return f"changes of {self._what} have not been watched for {failing_s:.0f} s: {self._why}"

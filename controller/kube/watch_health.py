"""The health of the watch, derived from its requests and their answers. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

STEADY_S = 5.0
"""A watch that ends sooner than this has failed, whatever the API server answered."""
UNREADY_AFTER_S = 60.0
"""A watch that has been failing for longer than this makes the agent unready."""


class WatchHealth:
    """The health of one watch. Only its asyncio thread updates it; any thread may read it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opened_s: float | None = None
        """Since when a watch is open; None: none is open."""
        self._failing_s = clock()
        """When the last watch ended that was open for `STEADY_S`; at first, the start."""
        self._opened_once = False
        self._why = "no watch has been opened yet"
        self.listed_s = float("-inf")
        """When all objects were last listed, in monotonic seconds."""
        self.listings = 0
        """How often all objects were listed."""
        self.last_request_s = clock()
        """When the last request was sent, in monotonic seconds."""

    @property
    def open(self) -> bool:
        """A watch is open, as far as the last request and its answer show."""
        return self._opened_s is not None

    def request_sent(self) -> None:
        """Record that a request is sent: a watch that was open has ended."""
        self.last_request_s = self._clock()
        self.ended("each watch ends as soon as it is opened")

    def ended(self, why: str) -> None:
        """Record that no watch is open any more; `why` counts if it was open for less than `STEADY_S`."""
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
        """Record that a request was answered with an error, or not at all."""
        self._why = why

    def listed(self) -> None:
        """Record that all objects were listed."""
        self.listed_s, self.listings = self._clock(), self.listings + 1

    def unready(self) -> str | None:
        """Why changes might not be observed, as one sentence; None: the watch works."""
        now_s, opened_s = self._clock(), self._opened_s
        if not self._opened_once:
            return f"changes of VirtualMachines are not watched yet: {self._why}"
        if opened_s is not None and now_s - opened_s >= STEADY_S:
            return None
        failing_s = now_s - self._failing_s
        if failing_s <= UNREADY_AFTER_S:
            return None
        return f"changes of VirtualMachines have not been watched for {failing_s:.0f} s: {self._why}"

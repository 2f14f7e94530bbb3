"""What an agent does while the API server does not answer, and in which order when it answers again.

All agents of a cluster lose the API server at the same moment, so everything they do then is spread and rate-limited.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from controller.runtime.retry import Backoff

FIRST_S, MAX_S = 1.0, 8.0
"""The first and the longest wait between two probes. Waits double; jitter takes off up to a half of each."""
RETRY_SPREAD_S = 5.0
"""Keys whose last pass failed are retried within this time."""
RETRY_FAILED_EVERY_S = 10.0
"""The shortest time between two such retries, because a server that answers only some requests recovers repeatedly."""
RELIST_EVERY_S = 60.0
"""The shortest time between two lists that recoveries of the API server cause."""
NEVER = float("inf")


class Outage:
    """When to probe, when to retry what has failed, and when to list. Not thread-safe: one thread at a time."""

    def __init__(
        self,
        relist_spread_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`relist_spread_s`: the API is listed within this time after a recovery."""
        self._relist_spread_s, self._clock, self._uniform = relist_spread_s, clock, uniform
        self._backoff = Backoff(FIRST_S, MAX_S, uniform=uniform)
        self._probe_s = float("-inf")
        self._retry_failed_s = self._relist_s = NEVER
        """The monotonic time at which each is due."""
        self._retried_failed_s = self._relisted_s = float("-inf")

    def probes(self) -> bool:
        """Whether to probe the server now. To be called repeatedly while the server does not answer."""
        now_s = self._clock()
        if now_s < self._probe_s:
            return False
        self._probe_s = now_s + self._backoff.wait_s()
        return True

    def answered(self) -> None:
        """Note that the server answers: the next probe has the shortest wait again."""
        self._backoff.reset()
        self._probe_s = float("-inf")

    def over(self) -> None:
        """Note that the server has given a good answer after failures: a retry becomes due."""
        self._retry_failed_s = min(
            self._retry_failed_s, max(self._clock(), self._retried_failed_s + RETRY_FAILED_EVERY_S)
        )

    def missed(self) -> None:
        """Note that deletions might have been missed: a list becomes due."""
        if self._relist_s == NEVER:
            spread_s = self._uniform(0.0, self._relist_spread_s)
            self._relist_s = max(self._clock() + spread_s, self._relisted_s + RELIST_EVERY_S)

    def retries_failed(self) -> bool:
        """Whether to retry what has failed now; True once for each time that a retry is due."""
        if self._clock() < self._retry_failed_s:
            return False
        self._retried_failed_s, self._retry_failed_s = self._clock(), NEVER
        return True

    def relists(self) -> bool:
        """Whether to list the API now; True once for each time that a list is due."""
        if self._clock() < self._relist_s:
            return False
        self._relisted_s, self._relist_s = self._clock(), NEVER
        return True

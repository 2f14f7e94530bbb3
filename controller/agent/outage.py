"""Schedules the requests of an agent during and after an outage of the API server: probes, retries and lists.

All agents of a cluster lose the API server at the same moment. Therefore their requests have jitter and rate limits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from controller.runtime.retry import Backoff

FIRST_S, MAX_S = 1.0, 8.0
"""The first and the longest wait between two probes. The wait doubles each time; jitter shortens it by up to a half."""
RETRY_SPREAD_S = 5.0
"""When the API server answers again, all keys whose last pass failed are retried within this time."""
RETRY_FAILED_EVERY_S = 10.0
"""The shortest time between two such retries. A server that answers only some requests seems to recover repeatedly."""
RELIST_EVERY_S, RELIST_EVERY_MAX_S = 60.0, 900.0
"""The shortest time between two lists that follow a recovery of the API server. It doubles from the first value to the
second while recoveries follow one another: the lists of all agents could be what the API server does not recover from.
"""
NEVER = float("inf")


class Outage:
    """Determines when to probe the API server, when to retry failed keys, and when to list. Not thread-safe."""

    def __init__(
        self,
        relist_spread_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`relist_spread_s`: the list after a recovery waits a random time, up to this."""
        self._relist_spread_s, self._clock, self._uniform = relist_spread_s, clock, uniform
        self._backoff = Backoff(FIRST_S, MAX_S, uniform=uniform)
        self._probe_s = float("-inf")
        self._retry_failed_s = self._relist_s = NEVER
        """The monotonic times at which the next retry and the next list are due."""
        self._retried_failed_s = self._relisted_s = float("-inf")
        self._relist_every_s = RELIST_EVERY_S
        """The shortest time from the last such list to the next one."""

    def probes(self) -> bool:
        """Whether to probe the server now. The caller calls this repeatedly while the server does not answer."""
        now_s = self._clock()
        if now_s < self._probe_s:
            return False
        self._probe_s = now_s + self._backoff.wait_s()
        return True

    def answered(self) -> None:
        """Note that the server answers. In the next outage, the first probe is sent at once."""
        self._backoff.reset()
        self._probe_s = float("-inf")

    def over(self) -> None:
        """Note that a request has succeeded after failures. A retry of the failed keys becomes due."""
        self._retry_failed_s = min(
            self._retry_failed_s, max(self._clock(), self._retried_failed_s + RETRY_FAILED_EVERY_S)
        )

    def missed(self) -> None:
        """Note that the agent might have missed deletions. A list becomes due."""
        if self._relist_s == NEVER:
            spread_s = self._uniform(0.0, self._relist_spread_s)
            self._relist_s = max(self._clock() + spread_s, self._relisted_s + self._relist_every_s)

    def retries_failed(self) -> bool:
        """Whether to retry the failed keys now. Returns True once when a retry is due."""
        if self._clock() < self._retry_failed_s:
            return False
        self._retried_failed_s, self._retry_failed_s = self._clock(), NEVER
        return True

    def relists(self) -> bool:
        """Whether to list the objects now. Returns True once when a list is due."""
        now_s = self._clock()
        if now_s < self._relist_s:
            return False
        # If the last list was twice as long ago as it had to be, the API server was well in between.
        calm = now_s - self._relisted_s > 2 * self._relist_every_s
        self._relist_every_s = RELIST_EVERY_S if calm else min(2 * self._relist_every_s, RELIST_EVERY_MAX_S)
        self._relisted_s, self._relist_s = now_s, NEVER
        return True

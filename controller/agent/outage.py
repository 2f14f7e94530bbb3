"""What an agent does while the API server is away, and in which order once it is back.

All agents of a cluster lose it in the same moment, so whatever they do then is spread and has a bound.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from controller.runtime.retry import Backoff

FIRST_S, MAX_S = 1.0, 8.0
"""The waits between two attempts, which double; from each up to a half is taken off."""
RETRY_SPREAD_S = 5.0
"""Within this time those that have failed are tried again."""
RETRY_FAILED_EVERY_S = 10.0
"""How often at most: a server that answers some and not others is back all the time."""
RELIST_EVERY_S = 60.0
"""How often at most a comeback makes the API be listed."""
NEVER = float("inf")


class Outage:
    """When to knock, when to try again what has failed, and when to list. One thread at a time."""

    def __init__(
        self,
        relist_spread_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`relist_spread_s`: within this time after a comeback the API is listed."""
        self._relist_spread_s, self._clock, self._uniform = relist_spread_s, clock, uniform
        self._backoff = Backoff(FIRST_S, MAX_S, uniform=uniform)
        self._probe_s = float("-inf")
        self._retry_failed_s = self._relist_s = NEVER
        """When that is due."""
        self._retried_failed_s = self._relisted_s = float("-inf")

    def probes(self) -> bool:
        """Whether a server that is away is to be asked now; called again and again while it is."""
        now_s = self._clock()
        if now_s < self._probe_s:
            return False
        self._probe_s = now_s + self._backoff.wait_s()
        return True

    def answered(self) -> None:
        """It is not away, or no longer."""
        self._backoff.reset()
        self._probe_s = float("-inf")

    def over(self) -> None:
        """It has given a good answer after trouble."""
        self._retry_failed_s = min(
            self._retry_failed_s, max(self._clock(), self._retried_failed_s + RETRY_FAILED_EVERY_S)
        )

    def missed(self) -> None:
        """Something may have been deleted that nobody told of."""
        if self._relist_s == NEVER:
            spread_s = self._uniform(0.0, self._relist_spread_s)
            self._relist_s = max(self._clock() + spread_s, self._relisted_s + RELIST_EVERY_S)

    def retries_failed(self) -> bool:
        """Whether those that have failed are to be tried again now; True once for each time that is due."""
        if self._clock() < self._retry_failed_s:
            return False
        self._retried_failed_s, self._retry_failed_s = self._clock(), NEVER
        return True

    def relists(self) -> bool:
        """Whether the API is to be listed now; True once for each time that is due."""
        if self._clock() < self._relist_s:
            return False
        self._relisted_s, self._relist_s = self._clock(), NEVER
        return True

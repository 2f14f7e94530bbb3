"""Rate limits as token buckets. Pure: the caller passes the time."""

from __future__ import annotations


class TokenBucket:
    """Allows `burst` takes at once, and then `rate_per_s` takes per second. Not thread-safe."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        """Create a full bucket. `rate_per_s` is greater than 0, and `burst` is at least 1."""
        self._interval_s, self._burst = 1 / rate_per_s, burst
        self._full_s = float("-inf")
        """When all `burst` tokens are available again, by the caller's clock."""

    def take(self, now_s: float) -> float:
        """Take a token and return 0, or return after how many seconds there is one, and take none.

        `now_s` is a time in seconds by a clock that never goes back, always the same clock.
        """
        full_s = max(self._full_s, now_s) + self._interval_s
        wait_s = full_s - now_s - self._burst * self._interval_s
        if wait_s > 1e-9:  # a rounding error is no reason to wait
            return wait_s
        self._full_s = full_s
        return 0.0

"""One moment on two clocks, the time format of the API, and the exponential backoff. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


def api_time(time: datetime) -> str:
    """A time in the format of the API: RFC 3339 in UTC, with a fraction of a second only if it is not 0."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on both clocks: the wall clock for users, the monotonic clock for waits. Immutable."""

    wall: datetime
    monotonic_s: float

    def plus(self, seconds: float) -> Now:
        """The moment that many seconds later."""
        return Now(self.wall + timedelta(seconds=seconds), self.monotonic_s + seconds)

    def to_api(self) -> datetime:
        """The wall time in whole seconds, as the API has it."""
        return self.wall.replace(microsecond=0)

    def until(self, later: Now) -> float:
        """Seconds from this moment to the later one, by the monotonic clock; never less than 0."""
        return max(0.0, later.monotonic_s - self.monotonic_s)

    def recall(self, then: datetime, *, at_most_s: float) -> Now:
        """The moment of a past time that was read from a status; on the monotonic clock at most `at_most_s` ago."""
        return Now(then, self.monotonic_s - min(max((self.wall - then).total_seconds(), 0.0), at_most_s))

    def expect(self, then: datetime, *, at_most_s: float) -> Now:
        """The moment of a future time that was read from a status; on the monotonic clock at most `at_most_s` ahead."""
        return Now(then, self.monotonic_s + min(max((then - self.wall).total_seconds(), 0.0), at_most_s))


def exponential_s(first_s: float, max_s: float, failures: int) -> float:
    """The exponential backoff in seconds: `first_s` after the first failure, doubled with each one, up to `max_s`."""
    # The exponent is bounded, because the power of a year of failures would overflow.
    return min(first_s * 2.0 ** min(max(failures - 1, 0), 30), max_s)

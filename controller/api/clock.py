"""One moment on two clocks, how the API writes a time, and how a wait grows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


def api_time(time: datetime) -> str:
    """A time as the API shows it: RFC 3339 in UTC; fractions of a second only where they are not 0."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on both clocks: the wall's for users, the monotonic one for waiting."""

    wall: datetime
    monotonic_s: float

    def plus(self, seconds: float) -> Now:
        """The moment so many seconds later."""
        return Now(self.wall + timedelta(seconds=seconds), self.monotonic_s + seconds)

    def to_api(self) -> datetime:
        """The moment as the API shows it: whole seconds of the wall clock."""
        return self.wall.replace(microsecond=0)

    def until(self, later: Now) -> float:
        """Seconds from here to there, by the clock that nobody sets; never less than 0."""
        return max(0.0, later.monotonic_s - self.monotonic_s)

    def recall(self, then: datetime, *, at_most_s: float) -> Now:
        """The moment of a time in the past that status tells, never further back than the wait that it seeds."""
        return Now(then, self.monotonic_s - min(max((self.wall - then).total_seconds(), 0.0), at_most_s))

    def expect(self, then: datetime, *, at_most_s: float) -> Now:
        """The moment of a time in the future that status tells, never further off than the wait that it ends."""
        return Now(then, self.monotonic_s + min(max((then - self.wall).total_seconds(), 0.0), at_most_s))


def exponential_s(first_s: float, max_s: float, failures: int) -> float:
    """The exponential backoff after so many failures: `first_s` after the first, doubled with each, up to `max_s`."""
    # The exponent is bounded, so that a year of failures is still a number.
    return min(first_s * 2.0 ** min(max(failures - 1, 0), 30), max_s)

"""Times: one moment on two clocks, how times and durations are written, and the waits of a backoff. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def api_time(time: datetime) -> str:
    """Return a time in the format of the API: RFC 3339 in UTC. A fraction of a second is included unless it is 0."""
    in_utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return in_utc.isoformat().removesuffix("+00:00") + "Z"


def micro_time(time: datetime) -> str:
    """Return a time in the format of Leases and Events (MicroTime): RFC 3339 in UTC, always with microseconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def duration(seconds: float) -> str:
    """Return a duration as kubectl writes an age, such as 45s, 12m, 3h5m, 2d4h; a negative one is 0s."""
    left = max(0, int(seconds))
    for place, (size, unit) in enumerate(UNITS):
        if left >= size:
            rest = left % size
            small, smaller = UNITS[place + 1] if place + 1 < len(UNITS) else (1, "s")
            part = f"{rest // small}{smaller}" if rest >= small and (unit != "m" or left < 600) else ""
            return f"{left // size}{unit}{part}" if unit != "s" else f"{left}s"
    return "0s"


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on two clocks: the wall clock, for users, and the monotonic clock, for waits. Immutable."""

    wall: datetime
    monotonic_s: float

    def plus(self, seconds: float) -> Now:
        """Return the moment that is this many seconds later."""
        return Now(self.wall + timedelta(seconds=seconds), self.monotonic_s + seconds)

    def to_api(self) -> datetime:
        """Return the wall time without the fraction of a second, as a status stores it."""
        return self.wall.replace(microsecond=0)

    def until(self, later: Now) -> float:
        """Return the seconds from this moment to the later one, by the monotonic clock; at least 0."""
        return max(0.0, later.monotonic_s - self.monotonic_s)

    def recall(self, then: datetime, *, at_most_s: float) -> Now:
        """Return the moment of a past wall time that was read from a status.

        Its monotonic time is at most `at_most_s` seconds before this moment, even if the wall clock has jumped.
        """
        return Now(then, self.monotonic_s - min(max((self.wall - then).total_seconds(), 0.0), at_most_s))

    def expect(self, then: datetime, *, at_most_s: float) -> Now:
        """Return the moment of a future wall time that was read from a status.

        Its monotonic time is at most `at_most_s` seconds after this moment, even if the wall clock has jumped.
        """
        return Now(then, self.monotonic_s + min(max((then - self.wall).total_seconds(), 0.0), at_most_s))


def exponential_s(first_s: float, max_s: float, failures: int) -> float:
    """Return a wait in seconds: `first_s` after the first failure, doubled with each further one, at most `max_s`."""
    # The exponent is limited, because 2.0 ** 1024 overflows.
    return min(first_s * 2.0 ** min(max(failures - 1, 0), 30), max_s)

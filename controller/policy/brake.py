"""The brake: a circuit breaker for mass stops, which might be a host that is shutting down. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime

from controller.api.clock import Now
from controller.api.virtualmachine import LastStop, PowerState, Status, StopCause, VmKey
from controller.policy.waits import Waits

BY_OTHERS = {StopCause.GUEST, StopCause.EXTERNAL, StopCause.SAVED}


ON = {PowerState.RUNNING, PowerState.PAUSED, PowerState.STARTING, PowerState.SHUTTING_DOWN, PowerState.SUSPENDED}


USUAL_TIMES, USUAL_WITHIN_S = 2, 3600.0
"""What has happened so often within this time, and the host did not go down, is no sign that it does."""


@dataclass(frozen=True, slots=True)
class _Stop:
    time: datetime
    """As the report has it: tells one stop from the next."""
    at: Now
    """Seeded when this process first sees the stop, whatever the wall clock does later."""
    counts: bool
    """It may come of a host that shuts down."""


class _Usual:
    """Whether something has happened often of late, as far as this process knows."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque(maxlen=USUAL_TIMES)

    def happened(self, at: Now) -> None:
        """Once more; what is told twice has happened once."""
        if at.monotonic_s not in self._at_s:
            self._at_s.append(at.monotonic_s)

    def __call__(self, now: Now) -> bool:
        return len(self._at_s) == USUAL_TIMES and now.monotonic_s - self._at_s[0] <= USUAL_WITHIN_S


class Brake:
    """Several VMs that somebody else stops in a row may be a host that shuts down: then nothing is started for a while.

    A VM that powers itself off after each job and is started again (a runner) is no sign of that, unless half of the
    running VMs go off together; and that is none either where the brake was on for nothing before. Fed with reports,
    so that a new process knows what the old one saw; who is a runner it learns anew.
    One thread at a time (see agent/brake.py).
    """

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._waits, self._boot_id = waits, boot_id
        self._stops: dict[VmKey, _Stop] = {}
        self._on: set[VmKey] = set()
        self._answers: dict[VmKey, _Usual] = {}
        """Starts by virtsync that answered power-offs by the guest."""
        self._half: Now | None = None
        """The last stop with which half of the running VMs had gone off within the window."""
        self._held_until: Now | None = None
        self._for_nothing = _Usual()
        """Times that the brake was released, and the host had not gone down."""

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Take in what a report says of the VM: whether it is on, and its last stop."""
        if status.power_state in ON:
            self._on.add(key)
        else:
            self._on.discard(key)
        if status.last_stop is None:
            self._stops.pop(key, None)
        else:
            self._note_stop(key, status.last_stop, now, same_boot=status.node_boot_id == self._boot_id)

    def answered(self, key: VmKey, now: Now) -> None:
        """A start that answers the guest's own power-off has ended well."""
        if key in self._stops:  # else the object is gone
            self._answers.setdefault(key, _Usual()).happened(now)

    def forget(self, key: VmKey) -> None:
        """The object is gone."""
        self._stops.pop(key, None)
        self._answers.pop(key, None)
        self._on.discard(key)

    def until(self, now: Now) -> Now | None:
        """When the brake is released; None: it is not on."""
        runners = {key for key, usual in self._answers.items() if usual(now)}
        last = [self._last_of_several(runners)]
        if runners and not self._for_nothing(now):
            last.append(self._half)
        released = [stop.plus(self._waits.brake_hold_s) for stop in last if stop]
        ahead = [moment for moment in released if now.until(moment) > 0]
        if self._held_until and now.until(self._held_until) == 0:
            self._for_nothing.happened(self._held_until)
        self._held_until = max(ahead, key=lambda moment: moment.monotonic_s, default=None)
        return self._held_until

    def _note_stop(self, key: VmKey, stop: LastStop, now: Now, *, same_boot: bool) -> None:
        known, counts = self._stops.get(key), same_boot and stop.cause in BY_OTHERS
        seen = known is not None and known.time == stop.time
        horizon_s = self._waits.brake_window_s + self._waits.brake_hold_s
        at = known.at if known and seen else now.recall(min(stop.time, now.wall), at_most_s=horizon_s)
        self._stops[key] = _Stop(stop.time, at, counts)
        later = self._half is None or self._half.monotonic_s < at.monotonic_s
        if counts and not seen and later and self._half_went_off(at):
            self._half = at

    def _half_went_off(self, by: Now) -> bool:
        """Whether half of the VMs that ran have gone off within the window that ends here."""
        window_s = self._waits.brake_window_s
        went = {
            key
            for key, stop in self._stops.items()
            if stop.counts and 0 <= by.monotonic_s - stop.at.monotonic_s <= window_s
        }
        return len(went) >= max(self._waits.brake_count, len(self._on - went))

    def _last_of_several(self, runners: set[VmKey]) -> Now | None:
        """The last of several stops within the window that are no runners', the latest such."""
        stops = [stop.at for key, stop in self._stops.items() if stop.counts and key not in runners]
        stops.sort(key=lambda stop: stop.monotonic_s)
        # The latest first: the others do not matter then, and after a storm there are many.
        for first, last in zip(reversed(stops[: 1 - self._waits.brake_count]), reversed(stops), strict=False):
            if last.monotonic_s - first.monotonic_s <= self._waits.brake_window_s:
                return last
        return None

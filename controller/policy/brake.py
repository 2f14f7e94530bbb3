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
"""What has happened this often within this time, without the host going down, is not a sign of a shutdown."""


@dataclass(frozen=True, slots=True)
class _Stop:
    time: datetime
    """As in the report; it distinguishes one stop from the next."""
    at: Now
    """Set when this process first observes the stop; later changes of the wall clock do not move it."""
    counts: bool
    """A host that shuts down might have caused it."""


class _Usual:
    """Whether something has happened often recently, as far as this process knows."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque(maxlen=USUAL_TIMES)

    def happened(self, at: Now) -> None:
        """Count it once more; the same moment counts only once."""
        if at.monotonic_s not in self._at_s:
            self._at_s.append(at.monotonic_s)

    def __call__(self, now: Now) -> bool:
        return len(self._at_s) == USUAL_TIMES and now.monotonic_s - self._at_s[0] <= USUAL_WITHIN_S


class Brake:
    """If others stop several VMs in a row, the host might be shutting down: then virtsync starts none for a while.

    A VM that powers itself off after each job and is started again (a runner) is not a sign of that, unless half of the
    running VMs go off together. Even that is not a sign if the brake was recently on without a shutdown of the host.
    The input is reports, so a new process knows what the old one observed; it learns again which VMs are runners.
    Not thread-safe: one thread at a time (see agent/brake.py).
    """

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._waits, self._boot_id = waits, boot_id
        self._stops: dict[VmKey, _Stop] = {}
        self._on: set[VmKey] = set()
        self._answers: dict[VmKey, _Usual] = {}
        """Starts by virtsync after a guest powered itself off."""
        self._half: Now | None = None
        """The last stop at which half of the running VMs had gone off within the window."""
        self._held_until: Now | None = None
        self._for_nothing = _Usual()
        """Moments at which the brake was released without the host having gone down."""

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Take from a report whether the VM is on, and its last stop."""
        if status.power_state in ON:
            self._on.add(key)
        else:
            self._on.discard(key)
        if status.last_stop is None:
            self._stops.pop(key, None)
        else:
            self._note_stop(key, status.last_stop, now, same_boot=status.node_boot_id == self._boot_id)

    def answered(self, key: VmKey, now: Now) -> None:
        """A start after the guest powered itself off has succeeded."""
        if key in self._stops:  # otherwise the object is gone
            self._answers.setdefault(key, _Usual()).happened(now)

    def forget(self, key: VmKey) -> None:
        """The object is gone."""
        self._stops.pop(key, None)
        self._answers.pop(key, None)
        self._on.discard(key)

    def until(self, now: Now) -> Now | None:
        """When the brake is released; None: the brake is off."""
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
        """Whether half of the VMs that ran have gone off within the window that ends at this moment."""
        window_s = self._waits.brake_window_s
        went = {
            key
            for key, stop in self._stops.items()
            if stop.counts and 0 <= by.monotonic_s - stop.at.monotonic_s <= window_s
        }
        return len(went) >= max(self._waits.brake_count, len(self._on - went))

    def _last_of_several(self, runners: set[VmKey]) -> Now | None:
        """The last stop of the latest window that has several stops, not counting those of runners."""
        stops = [stop.at for key, stop in self._stops.items() if stop.counts and key not in runners]
        stops.sort(key=lambda stop: stop.monotonic_s)
        # The latest first: the first match decides, and after many stops together the list is long.
        for first, last in zip(reversed(stops[: 1 - self._waits.brake_count]), reversed(stops), strict=False):
            if last.monotonic_s - first.monotonic_s <= self._waits.brake_window_s:
                return last
        return None

"""The brake: a circuit breaker for mass stops, because the host might be shutting down. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime

from controller.api.clock import Now
from controller.api.virtualmachine import WITH_QEMU, LastStop, Status, StopCause, VmKey
from controller.policy.waits import Waits

BY_OTHERS = {StopCause.GUEST, StopCause.EXTERNAL, StopCause.SAVED}
"""The causes of stops that count for the brake."""
USUAL_TIMES, USUAL_WITHIN_S = 2, 3600.0
"""An event that has happened this often within this time is usual. It is not a sign that the host is shutting down."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """The last stop of one VM."""

    time: datetime
    """The time in the report, which distinguishes this stop from the next one."""
    at: Now
    """The moment of the stop, computed once: later changes of the wall clock do not change it."""
    counts: bool
    """Whether a host that is shutting down might have caused the stop."""


class _Usual:
    """Counts one kind of event and shows whether it has been usual recently, as far as this process knows."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque(maxlen=USUAL_TIMES)

    def happened(self, at: Now) -> None:
        """Count one event; a second event at the same moment does not count."""
        if at.monotonic_s not in self._at_s:
            self._at_s.append(at.monotonic_s)

    def __call__(self, now: Now) -> bool:
        """Whether the event has been usual within the last USUAL_WITHIN_S."""
        return len(self._at_s) == USUAL_TIMES and now.monotonic_s - self._at_s[0] <= USUAL_WITHIN_S


class Brake:
    """Delays all starts for a while if others have stopped several VMs, because the host might be shutting down.

    A runner is a VM that powers itself off after each job, and that virtsync then starts again. Stops of runners do not
    count, unless half of the running VMs go off together. Even then they do not count if the brake was released twice
    within the last hour and the host had not shut down.
    The brake learns the stops from reports, so a new process knows the stops that the old process observed. A new
    process does not know which VMs are runners; it learns them again.
    Not thread-safe: the owner allows one thread at a time (see agent/brake.py).
    """

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._waits, self._boot_id = waits, boot_id
        self._stops: dict[VmKey, _Stop] = {}
        self._on: set[VmKey] = set()
        self._answers: dict[VmKey, _Usual] = {}
        """Per VM, the starts by virtsync that followed a power-off by the guest."""
        self._half: Now | None = None
        """The last stop at which half of the running VMs had gone off within the window."""
        self._held_until: Now | None = None
        self._for_nothing = _Usual()
        """Counts the moments at which the brake was released and the host had not shut down."""

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Read from a report whether the VM is on, and when and why it last stopped."""
        if status.power_state in WITH_QEMU:
            self._on.add(key)
        else:
            self._on.discard(key)
        if status.last_stop is None:
            self._stops.pop(key, None)
        else:
            self._note_stop(key, status.last_stop, now, same_boot=status.node_boot_id == self._boot_id)

    def answered(self, key: VmKey, now: Now) -> None:
        """Note a successful start that followed a power-off by the guest."""
        if key in self._stops:  # otherwise the object was deleted
            self._answers.setdefault(key, _Usual()).happened(now)

    def forget(self, key: VmKey) -> None:
        """Forget a VM whose object was deleted or moved to another node."""
        self._stops.pop(key, None)
        self._answers.pop(key, None)
        self._on.discard(key)

    def until(self, now: Now) -> Now | None:
        """Return when the brake is released; None: the brake is off."""
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
        """Note the last stop of a VM, and whether half of the running VMs have now gone off together."""
        known, counts = self._stops.get(key), same_boot and stop.cause in BY_OTHERS
        seen = known is not None and known.time == stop.time
        horizon_s = self._waits.brake_window_s + self._waits.brake_hold_s
        at = known.at if known and seen else now.recall(min(stop.time, now.wall), at_most_s=horizon_s)
        self._stops[key] = _Stop(stop.time, at, counts)
        later = self._half is None or self._half.monotonic_s < at.monotonic_s
        if counts and not seen and later and self._half_went_off(at):
            self._half = at

    def _half_went_off(self, by: Now) -> bool:
        """Whether at least half of the VMs that were on, and at least `brake_count`, were stopped by others.

        Only stops within the window that ends at this moment count.
        """
        window_s = self._waits.brake_window_s
        went = {
            key
            for key, stop in self._stops.items()
            if stop.counts and 0 <= by.monotonic_s - stop.at.monotonic_s <= window_s
        }
        return len(went) >= max(self._waits.brake_count, len(self._on - went))

    def _last_of_several(self, runners: set[VmKey]) -> Now | None:
        """Return the last stop of the latest window with `brake_count` stops or more; stops of runners do not count."""
        stops = [stop.at for key, stop in self._stops.items() if stop.counts and key not in runners]
        stops.sort(key=lambda stop: stop.monotonic_s)
        # Begin with the latest stops, because the first match decides and the list can be long.
        for first, last in zip(reversed(stops[: 1 - self._waits.brake_count]), reversed(stops), strict=False):
            if last.monotonic_s - first.monotonic_s <= self._waits.brake_window_s:
                return last
        return None

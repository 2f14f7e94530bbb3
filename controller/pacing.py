"""What holds back a whole node: the brake after several stops at once, and the pace of starts."""

from __future__ import annotations

import math
import threading

from controller.model import Now, Status, StopCause, VmKey
from controller.settings import Waits

ASK_AGAIN_S = 0.05
"""When the next in the line asks again for a turn that was not free."""
LEAST_INTERVAL_S = 0.01
"""How far apart those in the line ask, when turns may follow each other at once."""

BY_OTHERS = {StopCause.GUEST, StopCause.EXTERNAL, StopCause.SAVED}


class Brake:
    """Several VMs that somebody else stops in a row may be a host that shuts down: then nothing is started for a while.

    Fed with reports, so that a new process knows what the old one saw. Any thread may use it.
    """

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._waits, self._boot_id = waits, boot_id
        self._lock = threading.Lock()
        self._stops: dict[VmKey, Now] = {}

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Take in what a report says of the VM's last stop."""
        stop = status.last_stop
        counts = stop is not None and stop.cause in BY_OTHERS and status.node_boot_id == self._boot_id
        with self._lock:
            if stop is None or not counts:
                self._stops.pop(key, None)
            elif key not in self._stops or self._stops[key].wall != stop.time:
                horizon_s = self._waits.brake_window_s + self._waits.brake_hold_s
                self._stops[key] = now.recall(stop.time, at_most_s=horizon_s)

    def forget(self, key: VmKey) -> None:
        """The object is gone."""
        with self._lock:
            self._stops.pop(key, None)

    def until(self, now: Now) -> Now | None:
        """When the brake is released; None: it is not on."""
        with self._lock:
            recent = sorted(self._stops.values(), key=lambda stop: stop.monotonic_s)
        # The latest first: the others do not matter then, and after a storm there are many.
        for first, last in zip(reversed(recent[: 1 - self._waits.brake_count]), reversed(recent), strict=False):
            if last.monotonic_s - first.monotonic_s <= self._waits.brake_window_s:
                released = last.plus(self._waits.brake_hold_s)
                return released if now.until(released) > 0 else None
        return None


class Pace:
    """Turns for starts: a few at a time, one each so many seconds, those that a user waits for first.

    Whoever waits is told to come back when it may be its turn, not before: of a thousand that wait, one asks at a time.
    """

    def __init__(self, parallel: int, interval_s: float) -> None:
        self._parallel, self._interval_s = parallel, interval_s
        self._lock = threading.Lock()
        self._held: set[VmKey] = set()
        self._urgent: dict[VmKey, float] = {}
        self._others: dict[VmKey, float] = {}
        """When those that wait are to come back, in the order of their coming."""
        self._last_s = -math.inf

    def take(self, key: VmKey, now_s: float, *, urgent: bool) -> float:
        """0.0 when the VM has its turn (give it back with `give_back`); else seconds after which to ask again."""
        with self._lock:
            self._forget_who_stays_away(now_s)
            left_s = self._interval_s - (now_s - self._last_s)
            first = urgent or not self._urgent.keys() - {key}
            if len(self._held) < self._parallel and left_s <= 0 and first:
                self._leave_the_line(key)
                self._held.add(key)
                self._last_s = now_s
                return 0.0
            return self._wait(key, now_s, max(left_s, ASK_AGAIN_S), urgent=urgent)

    def give_back(self, key: VmKey) -> None:
        """The start has ended, or was not made."""
        with self._lock:
            self._held.discard(key)

    def _wait(self, key: VmKey, now_s: float, next_s: float, *, urgent: bool) -> float:
        """Take, or keep, a place in the line; how long it is until the turn may come to it."""
        line, other = (self._urgent, self._others) if urgent else (self._others, self._urgent)
        other.pop(key, None)
        place = list(line).index(key) if key in line else len(line)
        ahead = place + (0 if urgent else len(self._urgent))
        wait_s = next_s + ahead * max(self._interval_s, LEAST_INTERVAL_S)
        line[key] = now_s + wait_s
        return wait_s

    def _leave_the_line(self, key: VmKey) -> None:
        self._urgent.pop(key, None)
        self._others.pop(key, None)

    def _forget_who_stays_away(self, now_s: float) -> None:
        """Whoever did not come back when it was to does not hold up the others."""
        for line in (self._urgent, self._others):
            for key in [key for key, due_s in line.items() if now_s - due_s > 3 * self._interval_s + ASK_AGAIN_S]:
                del line[key]

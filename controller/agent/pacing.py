"""What holds back a whole node: the brake after several stops at once, and the pace of starts."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from controller.api.clock import Now
from controller.api.virtualmachine import LastStop, PowerState, Status, StopCause, VmKey
from controller.policy.waits import Waits

STARTS_AT_ONCE = 4
"""Starts that hold a call at a time, hanging ones too: half of the calls that libvirtd bears, the rest is for stops."""
ASK_AGAIN_S, ASK_AGAIN_MAX_S, ASK_AGAIN_SHARE = 0.05, 2.0, 0.05
"""While no turn is free, the next in the line asks again after this share of the time since the last turn was given,
within these bounds: a start that hangs for hours must not be asked about twenty times a second."""
LEAST_INTERVAL_S = 0.01
"""How far apart those in the line ask, when turns may follow each other at once."""

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
    so that a new process knows what the old one saw; who is a runner it learns anew. Any thread may use it.
    """

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._waits, self._boot_id = waits, boot_id
        self._lock = threading.Lock()
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
        with self._lock:
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
        with self._lock:
            if key in self._stops:  # else the object is gone
                self._answers.setdefault(key, _Usual()).happened(now)

    def forget(self, key: VmKey) -> None:
        """The object is gone."""
        with self._lock:
            self._stops.pop(key, None)
            self._answers.pop(key, None)
            self._on.discard(key)

    def until(self, now: Now) -> Now | None:
        """When the brake is released; None: it is not on."""
        with self._lock:
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


class Line:
    """Those that wait, in the order of their coming, and when each is to come back. Its owner has the lock."""

    def __init__(self) -> None:
        self._back_s: dict[VmKey, float] = {}

    def others(self, key: VmKey) -> bool:
        """Whether anybody else waits."""
        return bool(self._back_s.keys() - {key})

    def ahead(self, key: VmKey) -> int:
        """How many are before this one, which may be about to come."""
        return list(self._back_s).index(key) if key in self._back_s else len(self)

    def come_back(self, key: VmKey, at_s: float) -> None:
        """It takes, or keeps, its place."""
        self._back_s[key] = at_s

    def leave(self, key: VmKey) -> None:
        """It waits no longer."""
        self._back_s.pop(key, None)

    def leave_late(self, before_s: float) -> None:
        """Whoever was to come back before then, and did not, holds up the others no longer."""
        for key in [key for key, back_s in self._back_s.items() if back_s < before_s]:
            del self._back_s[key]

    def __len__(self) -> int:
        return len(self._back_s)


class Pace:
    """Turns for starts: a few at a time, one each so many seconds, those that a user waits for first.

    Whoever waits is told to come back when it may be its turn, not before: of a thousand that wait, one asks at a time.
    A turn is for work, not for waiting: for each start that hangs one more may begin, at most as many again.
    """

    def __init__(self, parallel: int, interval_s: float) -> None:
        self._parallel, self._interval_s = parallel, interval_s
        self._lock = threading.Lock()
        self._held: set[VmKey] = set()
        self._urgent, self._others = Line(), Line()
        self._last_s = -math.inf

    def take(self, key: VmKey, now_s: float, *, urgent: bool, hanging: int = 0) -> float:
        """0.0 when the VM has its turn (give it back with `give_back`); else seconds after which to ask again.

        `hanging` is how many of the starts that have their turn have been out for longer than a start takes.
        """
        at_once = min(self._parallel + min(hanging, self._parallel), STARTS_AT_ONCE)
        with self._lock:
            self._forget_who_stays_away(now_s)
            since_s = now_s - self._last_s
            left_s = self._interval_s - since_s
            first = urgent or not self._urgent.others(key)
            if len(self._held) < at_once and left_s <= 0 and first:
                self._leave_the_line(key)
                self._held.add(key)
                self._last_s = now_s
                return 0.0
            ask_again_s = min(max(ASK_AGAIN_S, ASK_AGAIN_SHARE * since_s), ASK_AGAIN_MAX_S)
            return self._wait(key, now_s, max(left_s, ask_again_s), urgent=urgent)

    def give_back(self, key: VmKey) -> None:
        """The start has ended, or was not made."""
        with self._lock:
            self._held.discard(key)

    def _wait(self, key: VmKey, now_s: float, next_s: float, *, urgent: bool) -> float:
        """Take, or keep, a place in the line; how long it is until the turn may come to it."""
        line, other = (self._urgent, self._others) if urgent else (self._others, self._urgent)
        other.leave(key)
        ahead = line.ahead(key) + (0 if urgent else len(self._urgent))
        wait_s = next_s + ahead * max(self._interval_s, LEAST_INTERVAL_S)
        line.come_back(key, now_s + wait_s)
        return wait_s

    def _leave_the_line(self, key: VmKey) -> None:
        self._urgent.leave(key)
        self._others.leave(key)

    def _forget_who_stays_away(self, now_s: float) -> None:
        for line in (self._urgent, self._others):
            line.leave_late(now_s - 3 * self._interval_s - ASK_AGAIN_S)

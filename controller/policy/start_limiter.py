"""The rate limit and concurrency limit of starts on one node, and the queue of VMs that wait. Pure."""

from __future__ import annotations

import math

from controller.api.virtualmachine import VmKey

STARTS_AT_ONCE = 4
"""Concurrent starts at most, including hanging ones: half of the calls that libvirtd serves; the rest is for stops."""


ASK_AGAIN_S, ASK_AGAIN_MAX_S, ASK_AGAIN_SHARE = 0.05, 2.0, 0.05
"""While no turn is free, the next in the line asks again after this share of the time since the last turn was given,
within these bounds: while a start hangs for hours, the next VM must not ask twenty times a second."""


LEAST_INTERVAL_S = 0.01
"""The least time between two requests from the line, if there is no interval between turns."""


class Line:
    """VMs that wait, in order of arrival, and when each asks again. Not thread-safe: the owner holds the lock."""

    def __init__(self) -> None:
        self._back_s: dict[VmKey, float] = {}

    def others(self, key: VmKey) -> bool:
        """Whether another VM waits."""
        return bool(self._back_s.keys() - {key})

    def ahead(self, key: VmKey) -> int:
        """How many VMs are before this one, which might not be in the line yet."""
        return list(self._back_s).index(key) if key in self._back_s else len(self)

    def come_back(self, key: VmKey, at_s: float) -> None:
        """Take, or keep, a place in the line."""
        self._back_s[key] = at_s

    def leave(self, key: VmKey) -> None:
        """Leave the line."""
        self._back_s.pop(key, None)

    def leave_late(self, before_s: float) -> None:
        """Remove the VMs that should have asked again before this time and did not, so that they block no others."""
        for key in [key for key, back_s in self._back_s.items() if back_s < before_s]:
            del self._back_s[key]

    def __len__(self) -> int:
        return len(self._back_s)


class StartLimiter:
    """Turns for starts: a few at a time, one per interval; VMs for which a user waits come first.

    A VM that waits learns when its turn can come, and asks again then: of a thousand that wait, one asks at a time.
    For each start that hangs, one more may begin, at most as many again.
    Not thread-safe: the owner holds the lock.
    """

    def __init__(self, parallel: int, interval_s: float) -> None:
        self._parallel, self._interval_s = parallel, interval_s
        self._held: set[VmKey] = set()
        self._urgent, self._others = Line(), Line()
        self._last_s = -math.inf

    def take(self, key: VmKey, now_s: float, *, urgent: bool, hanging: int = 0) -> float:
        """0.0 if the VM has its turn (give it back with `give_back`); otherwise the seconds after which to ask again.

        `hanging` is how many of the starts that have a turn have taken longer than a start takes.
        """
        at_once = min(self._parallel + min(hanging, self._parallel), STARTS_AT_ONCE)
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
        """The start has ended, or was not called."""
        self._held.discard(key)

    def _wait(self, key: VmKey, now_s: float, next_s: float, *, urgent: bool) -> float:
        """Take, or keep, a place in the line; returns the seconds until the turn can come."""
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

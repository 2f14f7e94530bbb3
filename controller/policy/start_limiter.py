"""The rate limit and the concurrency limit of starts on one node, and the queue of waiting VMs. Pure."""

from __future__ import annotations

import math

from controller.api.virtualmachine import VmKey

STARTS_AT_ONCE = 4
"""The maximum of concurrent starts, including starts that hang. It is half of the calls that libvirtd serves at a time;
the other half is for stops."""
ASK_AGAIN_S, ASK_AGAIN_MAX_S, ASK_AGAIN_SHARE = 0.05, 2.0, 0.05
"""While no turn is free, the first VM in the queue asks again after this share of the time since the last turn began,
within these bounds. Without the share, a VM would ask twenty times a second while a start hangs for hours."""
LEAST_INTERVAL_S = 0.01
"""The least time between the requests of two waiting VMs, if there is no interval between turns."""


class Line:
    """A queue of waiting VMs in order of arrival, with the time at which each VM asks again.

    Not thread-safe: the owner uses it under its own lock.
    """

    def __init__(self) -> None:
        self._asks_again_s: dict[VmKey, float] = {}

    def others(self, key: VmKey) -> bool:
        """Whether any other VM is in the queue."""
        return bool(self._asks_again_s.keys() - {key})

    def ahead(self, key: VmKey) -> int:
        """Return how many VMs are before this VM in the queue; all of them, if this VM is not in the queue."""
        return list(self._asks_again_s).index(key) if key in self._asks_again_s else len(self)

    def come_back(self, key: VmKey, at_s: float) -> None:
        """Note when this VM asks again; put it at the end of the queue if it is not in the queue yet."""
        self._asks_again_s[key] = at_s

    def leave(self, key: VmKey) -> None:
        """Remove this VM from the queue."""
        self._asks_again_s.pop(key, None)

    def leave_late(self, before_s: float) -> None:
        """Remove the VMs that should have asked again before this time and did not, so that they block no other VM."""
        for key in [key for key, asks_again_s in self._asks_again_s.items() if asks_again_s < before_s]:
            del self._asks_again_s[key]

    def __len__(self) -> int:
        return len(self._asks_again_s)


class StartLimiter:
    """Gives VMs their turns to start: few VMs have a turn at the same time, and one turn begins per interval.

    Urgent VMs, for which a user waits, come first. A waiting VM gets the time at which its turn can come, and asks
    again at that time. So even if a thousand VMs wait, they do not all ask at the same time. For each start that
    hangs, one more start can begin, at most as many as `parallel`.
    Not thread-safe: the owner uses it under its own lock.
    """

    def __init__(self, parallel: int, interval_s: float) -> None:
        self._parallel, self._interval_s = parallel, interval_s
        self._held: set[VmKey] = set()
        self._urgent, self._others = Line(), Line()
        self._last_s = -math.inf

    def take(self, key: VmKey, now_s: float, *, urgent: bool, hanging: int = 0) -> float:
        """Return 0.0 if the VM gets a turn, which ends with `give_back`; otherwise in how many seconds to ask again.

        `hanging` is the number of starts that have a turn and have not returned within the usual time.
        """
        at_once = min(self._parallel + min(hanging, self._parallel), STARTS_AT_ONCE)
        self._remove_late(now_s)
        since_s = now_s - self._last_s
        left_s = self._interval_s - since_s
        first = urgent or not self._urgent.others(key)
        if len(self._held) < at_once and left_s <= 0 and first:
            self._leave_queue(key)
            self._held.add(key)
            self._last_s = now_s
            return 0.0
        ask_again_s = min(max(ASK_AGAIN_S, ASK_AGAIN_SHARE * since_s), ASK_AGAIN_MAX_S)
        return self._wait(key, now_s, max(left_s, ask_again_s), urgent=urgent)

    def give_back(self, key: VmKey) -> None:
        """End the turn of a VM, because its start has ended or was not called."""
        self._held.discard(key)

    def _wait(self, key: VmKey, now_s: float, next_s: float, *, urgent: bool) -> float:
        """Put the VM into its queue, or keep its place there. Return the seconds until its turn can come."""
        line, other = (self._urgent, self._others) if urgent else (self._others, self._urgent)
        other.leave(key)
        ahead = line.ahead(key) + (0 if urgent else len(self._urgent))
        wait_s = next_s + ahead * max(self._interval_s, LEAST_INTERVAL_S)
        line.come_back(key, now_s + wait_s)
        return wait_s

    def _leave_queue(self, key: VmKey) -> None:
        self._urgent.leave(key)
        self._others.leave(key)

    def _remove_late(self, now_s: float) -> None:
        for line in (self._urgent, self._others):
            line.leave_late(now_s - 3 * self._interval_s - ASK_AGAIN_S)

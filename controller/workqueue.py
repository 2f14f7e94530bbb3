"""Keys that wait for a pass, as client-go's workqueue keeps them.

A key is never twice in the queue and never in two hands: one that is added while it is being worked on comes back when
that is done. Adding takes one lock for a few instructions, so that libvirt's event thread may do it.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 30.0


class Gauges(Protocol):
    """What the queue tells the metrics; called without the queue's lock."""

    def added(self) -> None:
        """A key has come into the queue."""

    def got(self, waited_s: float) -> None:
        """A key has been taken, after so long in the queue."""

    def done(self, worked_s: float) -> None:
        """A key has been worked on for so long."""

    def retried(self) -> None:
        """A pass has failed, and the key will come back."""


class WorkQueue(Generic[K]):
    """A queue of keys. Every method may be called from any thread."""

    def __init__(self, gauges: Gauges | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gauges, self._clock = gauges, clock
        self._changed = threading.Condition(threading.Lock())
        self._ready: deque[K] = deque()
        self._dirty: dict[K, float] = {}
        """Keys that want a pass, and since when; those in `_ready` and those that wait for their pass to end."""
        self._working: dict[K, float] = {}
        self._due: list[tuple[float, int, K]] = []
        self._due_at: dict[K, float] = {}
        """The earliest time that each delayed key is due; what stands in `_due` besides is void."""
        self._sequence = 0
        self._failures: dict[K, int] = {}
        self._closed = False

    def add(self, key: K) -> None:
        """Let the key have a pass as soon as may be."""
        with self._changed:
            fresh = self._mark(key)
            self._changed.notify()
        if fresh and self._gauges:
            self._gauges.added()

    def add_after(self, key: K, seconds: float) -> None:
        """Let the key have a pass in so many seconds; of several such times the earliest counts."""
        at = self._clock() + seconds
        with self._changed:
            if self._closed or self._due_at.get(key, at + 1) <= at:
                return
            self._sequence += 1
            self._due_at[key] = at
            heapq.heappush(self._due, (at, self._sequence, key))
            self._changed.notify()

    def retry(self, key: K) -> None:
        """Let the key have another pass, later with each failure in a row."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
        delay_s = min(RETRY_FIRST_S * 2 ** min(failures, 20), RETRY_MAX_S)
        if self._gauges:
            self._gauges.retried()
        self.add_after(key, delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing

    def forget(self, key: K) -> None:
        """The key's pass went well: its failures are over."""
        with self._changed:
            self._failures.pop(key, None)

    def get(self) -> K | None:
        """The next key, as soon as there is one; None once the queue is closed. Give it back with `done`."""
        with self._changed:
            while True:
                wait_s = self._release_due()
                if self._closed:
                    return None
                if self._ready:
                    break
                self._changed.wait(wait_s)
            key = self._ready.popleft()
            now = self._clock()
            waited_s = now - self._dirty.pop(key)
            self._working[key] = now
        if self._gauges:
            self._gauges.got(waited_s)
        return key

    def done(self, key: K) -> None:
        """The key's pass has ended; if it was added meanwhile it is back in the queue."""
        with self._changed:
            worked_s = self._clock() - self._working.pop(key)
            if key in self._dirty:
                self._ready.append(key)
            self._changed.notify_all()
        if self._gauges:
            self._gauges.done(worked_s)

    def drain(self, timeout_s: float) -> bool:
        """Wait until no key wants a pass now (delayed ones do not count); whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._dirty and not self._working, timeout_s)

    def close(self) -> None:
        """Let every `get` return None, now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._ready)

    def working_s(self) -> list[float]:
        """For how long each key that is in hand has been so."""
        with self._changed:
            now = self._clock()
            return [now - since for since in self._working.values()]

    def _mark(self, key: K) -> bool:
        if self._closed or key in self._dirty:
            return False
        self._dirty[key] = self._clock()
        if key not in self._working:
            self._ready.append(key)
        return True

    def _release_due(self) -> float | None:
        """Move what is due into the queue; seconds until more is, None: nothing waits."""
        now = self._clock()
        while self._due:
            at, _, key = self._due[0]
            if self._due_at.get(key) != at:
                heapq.heappop(self._due)
            elif at <= now:
                heapq.heappop(self._due)
                del self._due_at[key]
                self._mark(key)
            else:
                return at - now
        return None

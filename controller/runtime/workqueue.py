"""Keys that wait for a pass, as client-go's workqueue keeps them.

A key is never twice in the queue and never in two hands: one that is added while it is worked on comes back when that
is done. Adding takes one lock for a few instructions, so that libvirt's event thread may do it.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from controller.api.clock import exponential_s

K = TypeVar("K", bound=Hashable)

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 30.0
"""The longest wait before a retry. From each wait up to a half is taken off, so that keys do not come in step."""
SPREAD = 1.2
"""A wait that was asked for becomes longer by up to this factor, for the same reason."""


class QueueMetrics(Protocol):
    """What a queue tells the metrics. Called from any thread, never with the queue's lock held."""

    def watch(
        self, depth: Callable[[], int], unfinished_s: Callable[[], float], longest_running_s: Callable[[], float]
    ) -> None:
        """Learn whom to ask, whenever somebody wants to know: they cost the queue nothing until then."""

    def added(self) -> None:
        """A key wants a pass, and did not before."""

    def started(self, waited_s: float) -> None:
        """A key has been handed out, so long after it was added."""

    def finished(self, worked_s: float) -> None:
        """A key has been given back, so long after it was handed out."""

    def retried(self) -> None:
        """A pass has failed, and its key will come back."""


class WorkQueue(Generic[K]):
    """A queue of keys. Every method may be called from any thread."""

    def __init__(
        self,
        metrics: QueueMetrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._metrics, self._clock, self._uniform = metrics, clock, uniform
        self._lock = threading.Lock()
        self._available = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._wanted: dict[K, float] = {}
        """The keys that want a pass, and since when: those in `_ready`, and those added while being worked on."""
        self._ready: deque[K] = deque()
        """The keys that are wanted and in nobody's hand, each once, oldest first."""
        self._working: dict[K, float] = {}
        """The keys in hand, and since when. Never in `_ready` at the same time."""
        self._due_at: dict[K, float] = {}
        """When each delayed key is due: the earliest time that was asked for."""
        self._delayed: list[tuple[float, int, K]] = []
        """A heap of the same; an entry that `_due_at` does not confirm is void."""
        self._delays = 0
        self._failures: dict[K, int] = {}
        self._barred: dict[K, float] = {}
        """Until when a key that has failed is not to be hastened: whoever refused it asked for that."""
        self._closed = False
        if metrics:
            metrics.watch(self.__len__, self._unfinished_s, self._longest_running_s)

    def add(self, key: K) -> None:
        """Let the key have a pass as soon as may be."""
        with self._lock:
            added = self._mark_dirty(key, self._clock())
            if added:
                self._available.notify()
        if added and self._metrics:
            self._metrics.added()

    def add_after(self, key: K, seconds: float) -> None:
        """Let the key have a pass in so many seconds; of several such times the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        with self._lock:
            due_s = self._clock() + seconds
            if not self._closed and due_s < self._due_at.get(key, float("inf")):
                self._delay(key, due_s)

    def retry(self, key: K, *, not_before_s: float = 0.0) -> None:
        """Let the key have another pass, the later the more often it has failed since `forget`.

        `not_before_s`: how long whoever refused it asks to be left alone. An `add` does not wait for that.
        """
        with self._lock:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            if not_before_s:
                self._barred[key] = self._clock() + not_before_s
        longest_s = exponential_s(RETRY_FIRST_S, RETRY_MAX_S, failures)
        if self._metrics:
            self._metrics.retried()
        wait_s = self._uniform(longest_s / 2, longest_s)
        self.add_after(key, max(wait_s, not_before_s * self._uniform(1.0, SPREAD)) if not_before_s else wait_s)

    def forget(self, key: K) -> None:
        """The key's pass went well: its failures are over."""
        with self._lock:
            self._failures.pop(key, None)
            self._barred.pop(key, None)

    def retry_failed_now(self, spread_s: float) -> None:
        """Let all keys whose last pass has failed have another one within `spread_s`: what hindered them is over.

        A key that is to be left alone for a while stays so.
        """
        with self._lock:
            now_s = self._clock()
            for key in self._failures:
                due_s = max(now_s, self._barred.get(key, now_s)) + self._uniform(0.0, spread_s)
                if not self._closed and due_s < self._due_at.get(key, float("inf")) and key not in self._wanted:
                    self._delay(key, due_s)

    def get(self) -> K | None:
        """The next key, as soon as there is one; None once the queue is closed. Give it back with `done`."""
        with self._lock:
            wait_s, fresh = self._release(self._clock())
            while not self._ready and not self._closed:
                self._available.wait(wait_s)
                wait_s, more = self._release(self._clock())
                fresh += more
            if self._closed:
                return None
            key, now_s = self._ready.popleft(), self._clock()
            waited_s = now_s - self._wanted.pop(key)
            self._working[key] = now_s
            # Wake another for the rest: it may have begun to wait before any of that was there.
            if self._ready or self._delayed:
                self._available.notify()
        if self._metrics:
            for _ in range(fresh):
                self._metrics.added()
            self._metrics.started(waited_s)
        return key

    def done(self, key: K) -> None:
        """The key's pass has ended; if it was added meanwhile it is in the queue again."""
        with self._lock:
            worked_s = self._clock() - self._working.pop(key)
            if key in self._wanted and not self._closed:
                self._ready.append(key)
                self._available.notify()
            if self._resting():
                self._idle.notify_all()
        if self._metrics:
            self._metrics.finished(worked_s)

    def drain(self, timeout_s: float) -> bool:
        """Wait until no key wants a pass now and none is worked on, delayed ones aside; False: not in that time."""
        with self._lock:
            return self._idle.wait_for(self._resting, timeout_s)

    def close(self) -> None:
        """Drop what waits, and let every `get` return None, now and from now on."""
        with self._lock:
            self._closed = True
            for waiting in (self._wanted, self._ready, self._due_at, self._delayed, self._failures, self._barred):
                waiting.clear()
            self._available.notify_all()
            self._idle.notify_all()

    def __len__(self) -> int:
        """How many keys could be handed out now."""
        with self._lock:
            now_s = self._clock()
            return len(self._ready) + sum(
                at <= now_s and key not in self._wanted and key not in self._working for key, at in self._due_at.items()
            )

    def _mark_dirty(self, key: K, now_s: float) -> bool:
        if self._closed or key in self._wanted:
            return False
        self._wanted[key] = now_s
        if key not in self._working:
            self._ready.append(key)
        return True

    def _delay(self, key: K, due_s: float) -> None:
        self._due_at[key] = due_s
        self._delays += 1
        # Void entries go when they are due, which may be a day: not before they outnumber the others.
        if len(self._delayed) > 2 * len(self._due_at) + 16:
            self._delayed = [(at, number, key) for number, (key, at) in enumerate(self._due_at.items())]
            heapq.heapify(self._delayed)
        else:
            heapq.heappush(self._delayed, (due_s, self._delays, key))
        if self._delayed[0][0] == due_s:
            self._available.notify()

    def _release(self, now_s: float) -> tuple[float | None, int]:
        """Let in what is due: seconds until more is (None: nothing is delayed), and how many keys came in."""
        fresh = 0
        while self._delayed:
            due_s, _, key = self._delayed[0]
            current = self._due_at.get(key) == due_s
            if current and due_s > now_s:
                return due_s - now_s, fresh
            heapq.heappop(self._delayed)
            if current:
                del self._due_at[key]
                fresh += self._mark_dirty(key, now_s)
        return None, fresh

    def _resting(self) -> bool:
        return not self._wanted and not self._working

    def _unfinished_s(self) -> float:
        with self._lock:
            now_s = self._clock()
            return sum(now_s - since_s for since_s in self._working.values())

    def _longest_running_s(self) -> float:
        with self._lock:
            return self._clock() - min(self._working.values()) if self._working else 0.0

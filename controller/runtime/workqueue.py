"""Keys that wait for a reconcile pass: a work queue like that of client-go.

A key is never in the queue twice, and never processed by two workers at a time. A key that is added while it is
processed is queued again after that. `add` holds one lock for a few instructions, so the event thread can call it.
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
"""The longest wait before a retry. Jitter takes off up to a half of each wait, so that keys do not retry together."""
SPREAD = 1.2
"""A requested wait (`not_before_s`) becomes longer by up to this factor, for the same reason."""


class QueueMetrics(Protocol):
    """The metrics of a queue. Called from any thread, never with the queue's lock held."""

    def watch(
        self, depth: Callable[[], int], unfinished_s: Callable[[], float], longest_running_s: Callable[[], float]
    ) -> None:
        """Keep these functions and call them at each scrape: until then they cost the queue nothing."""

    def added(self) -> None:
        """Count a key that was added and was not in the queue before."""

    def started(self, waited_s: float) -> None:
        """A pass begins, `waited_s` after its key was added."""

    def finished(self, worked_s: float) -> None:
        """A pass has ended after `worked_s`."""

    def retried(self) -> None:
        """A pass has failed, and its key will be retried."""


class WorkQueue(Generic[K]):
    """A queue of keys. Thread-safe; only `get` and `drain` wait."""

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
        self._dirty: dict[K, float] = {}
        """The keys that need a pass, and since when: those in `_ready`, and those added while they are processed."""
        self._ready: deque[K] = deque()
        """The keys of `_dirty` that no worker processes, each once, oldest first."""
        self._processing: dict[K, float] = {}
        """The keys that workers process, and since when. Never in `_ready` at the same time."""
        self._due_at: dict[K, float] = {}
        """When each delayed key is due: the earliest requested time."""
        self._delayed: list[tuple[float, int, K]] = []
        """A heap of the same times; an entry that differs from `_due_at` is void."""
        self._delays = 0
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        """The earliest retry of a failed key, as the server asked: `retry_failed_now` does not retry it before."""
        self._closed = False
        if metrics:
            metrics.watch(self.__len__, self._unfinished_s, self._longest_running_s)

    def add(self, key: K) -> None:
        """Queue the key for a pass as soon as possible."""
        with self._lock:
            added = self._mark_dirty(key, self._clock())
            if added:
                self._available.notify()
        if added and self._metrics:
            self._metrics.added()

    def add_after(self, key: K, seconds: float) -> None:
        """Queue the key for a pass after `seconds`. Of several such times the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        with self._lock:
            due_s = self._clock() + seconds
            if not self._closed and due_s < self._due_at.get(key, float("inf")):
                self._delay(key, due_s)

    def retry(self, key: K, *, not_before_s: float = 0.0) -> None:
        """Queue the key for another pass, with exponential backoff by its failures since `forget`.

        `not_before_s`: how long the server asked to wait, in seconds. `add` does not wait for that.
        """
        with self._lock:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            if not_before_s:
                self._not_before[key] = self._clock() + not_before_s
        longest_s = exponential_s(RETRY_FIRST_S, RETRY_MAX_S, failures)
        if self._metrics:
            self._metrics.retried()
        wait_s = self._uniform(longest_s / 2, longest_s)
        self.add_after(key, max(wait_s, not_before_s * self._uniform(1.0, SPREAD)) if not_before_s else wait_s)

    def forget(self, key: K) -> None:
        """Reset the failures of the key, because its pass succeeded."""
        with self._lock:
            self._failures.pop(key, None)
            self._not_before.pop(key, None)

    def retry_failed_now(self, spread_s: float) -> None:
        """Retry all keys whose last pass failed, within `spread_s` seconds, because the cause of the failures is over.

        A key with a `not_before_s` that has not passed waits until then.
        """
        with self._lock:
            now_s = self._clock()
            for key in self._failures:
                due_s = max(now_s, self._not_before.get(key, now_s)) + self._uniform(0.0, spread_s)
                if not self._closed and due_s < self._due_at.get(key, float("inf")) and key not in self._dirty:
                    self._delay(key, due_s)

    def get(self) -> K | None:
        """Wait for the next key and return it; None: the queue is closed. The caller must call `done` with the key."""
        with self._lock:
            wait_s, fresh = self._admit_due(self._clock())
            while not self._ready and not self._closed:
                self._available.wait(wait_s)
                wait_s, more = self._admit_due(self._clock())
                fresh += more
            if self._closed:
                return None
            key, now_s = self._ready.popleft(), self._clock()
            waited_s = now_s - self._dirty.pop(key)
            self._processing[key] = now_s
            # Wake another worker for the remaining keys: it might have begun to wait before they were added.
            if self._ready or self._delayed:
                self._available.notify()
        if self._metrics:
            for _ in range(fresh):
                self._metrics.added()
            self._metrics.started(waited_s)
        return key

    def done(self, key: K) -> None:
        """Note that the pass of the key has ended. If the key was added during the pass, it is queued again."""
        with self._lock:
            worked_s = self._clock() - self._processing.pop(key)
            if key in self._dirty and not self._closed:
                self._ready.append(key)
                self._available.notify()
            if self._is_idle():
                self._idle.notify_all()
        if self._metrics:
            self._metrics.finished(worked_s)

    def drain(self, timeout_s: float) -> bool:
        """Wait until no key is queued or processed, except delayed ones. Returns False after `timeout_s` seconds."""
        with self._lock:
            return self._idle.wait_for(self._is_idle, timeout_s)

    def close(self) -> None:
        """Drop all waiting keys, and make every present and later `get` return None."""
        with self._lock:
            self._closed = True
            for waiting in (self._dirty, self._ready, self._due_at, self._delayed, self._failures, self._not_before):
                waiting.clear()
            self._available.notify_all()
            self._idle.notify_all()

    def __len__(self) -> int:
        """Number of keys that `get` could return now."""
        with self._lock:
            now_s = self._clock()
            return len(self._ready) + sum(
                at <= now_s and key not in self._dirty and key not in self._processing
                for key, at in self._due_at.items()
            )

    def _mark_dirty(self, key: K, now_s: float) -> bool:
        if self._closed or key in self._dirty:
            return False
        self._dirty[key] = now_s
        if key not in self._processing:
            self._ready.append(key)
        return True

    def _delay(self, key: K, due_s: float) -> None:
        self._due_at[key] = due_s
        self._delays += 1
        # A void entry leaves the heap when it is due, perhaps in a day, or here when void entries outnumber the others.
        if len(self._delayed) > 2 * len(self._due_at) + 16:
            self._delayed = [(at, number, key) for number, (key, at) in enumerate(self._due_at.items())]
            heapq.heapify(self._delayed)
        else:
            heapq.heappush(self._delayed, (due_s, self._delays, key))
        if self._delayed[0][0] == due_s:
            self._available.notify()

    def _admit_due(self, now_s: float) -> tuple[float | None, int]:
        """Queue the due keys. Returns seconds until the next is due (None: there is none) and how many it queued."""
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

    def _is_idle(self) -> bool:
        return not self._dirty and not self._processing

    def _unfinished_s(self) -> float:
        with self._lock:
            now_s = self._clock()
            return sum(now_s - since_s for since_s in self._processing.values())

    def _longest_running_s(self) -> float:
        with self._lock:
            return self._clock() - min(self._processing.values()) if self._processing else 0.0

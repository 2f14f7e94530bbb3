"""The work queue, which has the keys that wait for a reconcile pass. It works like the work queue of client-go.

A key is never in the queue twice, and two workers never process it at the same time. If a key is added while a worker
processes it, the key is queued again when the worker is done. `add` blocks only for a few instructions, so the event
thread can call it.
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
"""The longest wait before a retry. Jitter shortens each wait by up to a half, so that keys do not retry together."""
LONGEST_WAIT_S = 3600.0
"""A worker looks at the queue again after this time at the latest. Python's locks cannot wait for 293 years."""
SPREAD = 1.2
"""A wait that the server asked for (`not_before_s`) is multiplied by a random factor between 1 and this one, so that
keys do not retry together."""


class QueueMetrics(Protocol):
    """The metrics of a queue. Its methods are called on any thread, and never while the queue's lock is held."""

    def watch(
        self, depth: Callable[[], int], unfinished_s: Callable[[], float], longest_running_s: Callable[[], float]
    ) -> None:
        """Keep these functions, and call each of them at each scrape. The queue computes the values only then."""

    def added(self) -> None:
        """Count a key that was added and was not in the queue before."""

    def started(self, waited_s: float) -> None:
        """Note that a pass begins. Its key was added `waited_s` seconds earlier."""

    def finished(self, worked_s: float) -> None:
        """Note that a pass has ended. It took `worked_s` seconds."""

    def retried(self) -> None:
        """Note that a pass has failed and that its key will be retried."""


class WorkQueue(Generic[K]):
    """A work queue. Thread-safe. Only `get` and `drain` wait."""

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
        """The keys that need a pass, each with the time since when: the keys in `_ready`, and the keys that were added
        while a worker processed them."""
        self._ready: deque[K] = deque()
        """The keys of `_dirty` that no worker is processing, each once, oldest first."""
        self._processing: dict[K, float] = {}
        """The keys that workers are processing, each with the time since when. None of them is in `_ready`."""
        self._due_at: dict[K, float] = {}
        """The time at which each delayed key is due. Of several requested times, the earliest counts."""
        self._delayed: list[tuple[float, int, K]] = []
        """A heap of the times in `_due_at`: (time, serial number, key). An entry whose time differs from `_due_at` is
        void."""
        self._delays = 0
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        """For failed keys, the time before which the server asked for no retry. `retry_failed_now` respects it."""
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
        """Queue the key for a pass after this time. If this is called several times, the earliest time counts."""
        if seconds <= 0:
            self.add(key)
            return
        with self._lock:
            due_s = self._clock() + seconds
            if not self._closed and due_s < self._due_at.get(key, float("inf")):
                self._delay(key, due_s)

    def retry(self, key: K, *, not_before_s: float = 0.0) -> None:
        """Queue the key for another pass after a failed one. The wait is an exponential backoff with jitter.

        `forget` resets the backoff. `not_before_s` is how many seconds the server asked to wait; the wait is at least
        as long, with jitter. A call of `add` queues the key at once in spite of both.
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
        """Reset the backoff of the key, because its pass succeeded."""
        with self._lock:
            self._failures.pop(key, None)
            self._not_before.pop(key, None)

    def retry_failed_now(self, spread_s: float) -> None:
        """Retry all keys whose last pass failed, because the cause of the failures is over.

        Each key waits a random time of up to `spread_s` seconds. If the wait that the server asked for (`not_before_s`)
        has not passed, the random time begins when it has passed.
        """
        with self._lock:
            now_s = self._clock()
            for key in self._failures:
                due_s = max(now_s, self._not_before.get(key, now_s)) + self._uniform(0.0, spread_s)
                if not self._closed and due_s < self._due_at.get(key, float("inf")) and key not in self._dirty:
                    self._delay(key, due_s)

    def get(self) -> K | None:
        """Wait for the next key, and return it; None: the queue is closed.

        The caller must call `done` with the key after its pass.
        """
        with self._lock:
            wait_s, fresh = self._admit_due(self._clock())
            while not self._ready and not self._closed:
                self._available.wait(None if wait_s is None else min(wait_s, LONGEST_WAIT_S))
                wait_s, more = self._admit_due(self._clock())
                fresh += more
            if self._closed:
                return None
            key, now_s = self._ready.popleft(), self._clock()
            waited_s = now_s - self._dirty.pop(key)
            self._processing[key] = now_s
            # Wake up another worker for the remaining keys, because it might have begun to wait before they were added.
            if self._ready or self._delayed:
                self._available.notify()
        if self._metrics:
            for _ in range(fresh):
                self._metrics.added()
            self._metrics.started(waited_s)
        return key

    def done(self, key: K) -> None:
        """Note that the pass of the key has ended. Queues the key again if it was added during the pass."""
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
        """Wait until no key is queued or processed. Delayed keys do not count.

        Returns False if this takes longer than `timeout_s` seconds.
        """
        with self._lock:
            return self._idle.wait_for(self._is_idle, timeout_s)

    def close(self) -> None:
        """Drop all waiting keys, and make each current and later call of `get` return None."""
        with self._lock:
            self._closed = True
            for waiting in (self._dirty, self._ready, self._due_at, self._delayed, self._failures, self._not_before):
                waiting.clear()
            self._available.notify_all()
            self._idle.notify_all()

    def __len__(self) -> int:
        """Return the number of keys that `get` could return now."""
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
        # A void entry is removed when it is due, which might be in a day. If void entries are the majority, they are
        # removed here.
        if len(self._delayed) > 2 * len(self._due_at) + 16:
            self._delayed = [(at, number, key) for number, (key, at) in enumerate(self._due_at.items())]
            heapq.heapify(self._delayed)
        else:
            heapq.heappush(self._delayed, (due_s, self._delays, key))
        if self._delayed[0][0] == due_s:
            self._available.notify()

    def _admit_due(self, now_s: float) -> tuple[float | None, int]:
        """Queue the delayed keys that are due. The caller holds the lock.

        Returns the seconds until the next delayed key is due (None: there is none), and how many keys it queued.
        """
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

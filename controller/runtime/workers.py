"""Threads that take keys from a queue: get, handle, then forget or retry, then done. The only catch-all of a process.

As client-go's processNextWorkItem.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import structlog

from controller.runtime.errors import Rejected, Transient
from controller.runtime.workqueue import WorkQueue

K = TypeVar("K", bound=Hashable)

log = structlog.get_logger()


class Workers(Generic[K]):
    """`count` daemon threads: one that a call never answers must not keep the process from ending."""

    def __init__(
        self,
        count: int,
        queue: WorkQueue[K],
        handle: Callable[[K], None],
        *,
        wait: Callable[[], None],
        failed: Callable[[], None],
        key_field: str = "key",
    ) -> None:
        """`handle` may raise Transient or Rejected, and is called for one key by one thread at a time.

        Each thread calls `wait` before its first key. `failed` is called after an exception that is a fault of ours.
        Log lines have the key in the field `key_field`.
        """
        self._queue, self._handle, self._wait, self._failed = queue, handle, wait, failed
        self._key_field = key_field
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """All of them run."""
        return all(thread.is_alive() for thread in self._threads)

    def join(self, until_s: float) -> None:
        """Wait until all have ended after the queue was closed, until this monotonic time at most."""
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _work(self) -> None:
        self._wait()
        while (key := self._queue.get()) is not None:
            self._pass(key)

    def _pass(self, key: K) -> None:
        field = {self._key_field: str(key)}
        try:
            self._handle(key)
        except Transient as error:
            log.warning("reconcile pass failed, will retry", error=str(error), **field)
            self._queue.retry(key, not_before_s=error.retry_after_s)
        except Rejected as error:
            log.warning("the API server rejected a request, will retry", error=str(error), **field)
            self._queue.retry(key)
        except Exception:
            log.exception("reconcile pass failed inside virtsync", **field)
            self._failed()
            self._queue.retry(key)
        else:
            self._queue.forget(key)
        finally:
            self._queue.done(key)

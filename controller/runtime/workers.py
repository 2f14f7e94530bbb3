"""Worker threads, which take keys from a work queue and run a reconcile pass for each key.

Each thread repeats the steps of client-go's processNextWorkItem: get a key, handle it, forget or retry it, and mark it
as done. It catches all exceptions of a pass, so that a bug ends no worker.
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
    """The worker threads of one queue.

    They are daemon threads, because a thread in a call that never returns must not keep the process from exiting.
    """

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
        """`handle` runs the pass of a key, and can raise Transient or Rejected. A key has one pass at a time.

        Each thread calls `wait` before its first key. `failed` is called after any other exception, which is a bug. Log
        lines have the key in the field that `key_field` names.
        """
        self._queue, self._handle, self._wait, self._failed = queue, handle, wait, failed
        self._key_field = key_field
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """Whether all threads are alive."""
        return all(thread.is_alive() for thread in self._threads)

    def join(self, until_s: float) -> None:
        """Wait until all threads have ended, at most until this monotonic time. Close the queue before this call."""
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
            log.exception("internal error in a reconcile pass", **field)
            self._failed()
            self._queue.retry(key)
        else:
            self._queue.forget(key)
        finally:
            self._queue.done(key)

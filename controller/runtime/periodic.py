"""A thread that runs one task periodically."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

JITTER = 0.1
"""Jitter, as a share of the period, because agents that were started together must not list together."""


log = structlog.get_logger()


class PeriodicTask:
    """A daemon thread that runs one task periodically, and at once when nudged. `nudge` is thread-safe."""

    def __init__(
        self,
        name: str,
        period_s: float,
        do: Callable[[], float | None],
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`do` returns after how many seconds to call it again; None: after `period_s`, with jitter."""
        self.name, self._period_s, self._do, self._uniform = name, period_s, do, uniform
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; the first run begins at once."""
        self._thread.start()

    def nudge(self) -> None:
        """Run the task now, or again after the present run."""
        self._wake.set()

    def alive(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after the present run. Does not wait."""
        self._closed.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._do_once())
            # Cleared after the wait and before the run, so that a nudge during the run is not lost.
            self._wake.clear()

    def _do_once(self) -> float:
        """Run the task once, and return how many seconds to wait then."""
        try:
            again_s = self._do()
        except Exception:
            log.exception("internal error in a periodic task", task=self.name)
            again_s = None
        return self._period_s * self._uniform(1 - JITTER, 1 + JITTER) if again_s is None else again_s

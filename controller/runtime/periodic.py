"""Runs a task periodically on its own thread."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

JITTER = 0.2
"""The jitter, as a share of the period. Without it, agents that were started together would list together."""


log = structlog.get_logger()


class PeriodicTask:
    """A daemon thread that runs one task periodically, and also when `wake_up` is called. `wake_up` is thread-safe."""

    def __init__(
        self,
        name: str,
        period_s: float,
        do: Callable[[], float | None],
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`do` is the task. It returns the seconds until its next run; None: about `period_s`, with jitter."""
        self.name, self._period_s, self._do, self._uniform = name, period_s, do, uniform
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; the first run begins at once."""
        self._thread.start()

    def wake_up(self) -> None:
        """Make the thread run the task now, or once more if the task is running. Does not wait."""
        self._wake.set()

    def alive(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Make the thread end, after the current run if there is one. Does not wait."""
        self._closed.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._do_once())
            # Cleared after the wait and before the run, so that a call of wake_up during the run is not lost.
            self._wake.clear()

    def _do_once(self) -> float:
        """Run the task once, and return the seconds until the next run."""
        try:
            again_s = self._do()
        except Exception:
            log.exception("internal error in a periodic task", task=self.name)
            again_s = None
        return self._period_s * self._uniform(1 - JITTER, 1 + JITTER) if again_s is None else again_s

"""A thread that does one thing now and then."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

JITTER = 0.1
"""By how much of its period each is longer or shorter: agents that were started together must not list together."""


log = structlog.get_logger()


class PeriodicTask:
    """A thread that does one thing now and then, and at once when asked. `nudge` may be called from any thread."""

    def __init__(
        self,
        name: str,
        period_s: float,
        do: Callable[[], float | None],
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`do` returns after how many seconds it wants to be called again, or None for the period, give or take."""
        self.name, self._period_s, self._do, self._uniform = name, period_s, do, uniform
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first time is now."""
        self._thread.start()

    def nudge(self) -> None:
        """Do it now."""
        self._wake.set()

    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after the call that is under way."""
        self._closed.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait so long until it has stopped."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._do_once())
            # After the wait, and before what it was for: whoever wakes it later is heard.
            self._wake.clear()

    def _do_once(self) -> float:
        """Do it; how long to wait then."""
        try:
            again_s = self._do()
        except Exception:
            log.exception("periodic task failed inside virtsync", task=self.name)
            again_s = None
        return self._period_s * self._uniform(1 - JITTER, 1 + JITTER) if again_s is None else again_s

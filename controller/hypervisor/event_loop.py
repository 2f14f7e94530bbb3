"""libvirt's event loop, on its own thread."""

from __future__ import annotations

import threading
import time

import libvirt

HEARTBEAT_MS = 1000
DRAIN_MS = 10
"""How long the loop runs after `stop`: it frees closed connections when it has nothing else to do."""


class EventLoop:
    """libvirt's event loop. A process can have only one, and it must run before any connection is opened.

    Any thread may call `alive`; one thread calls `start` and `stop`.
    """

    def __init__(self) -> None:
        self._heartbeat_s = time.monotonic()
        self._stopping = False
        self._timers: list[int] = []
        self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)

    def start(self) -> None:
        """Register the loop with libvirt and start its thread."""
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(lambda *_: None, None)  # libvirt would print each error; they are raised anyway
        self._timers.append(libvirt.virEventAddTimeout(HEARTBEAT_MS, self._heartbeat, None))
        self._thread.start()

    def alive(self, max_age_s: float) -> bool:
        """The thread runs, and its last heartbeat is at most `max_age_s` old."""
        return self._thread.is_alive() and time.monotonic() - self._heartbeat_s <= max_age_s

    def stop(self, timeout_s: float) -> None:
        """End the loop, and wait at most `timeout_s` for its thread."""
        if self._thread.is_alive():
            # The loop wakes up only for traffic or a timer.
            self._timers.append(libvirt.virEventAddTimeout(DRAIN_MS, self._end, None))
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            libvirt.virEventRunDefaultImpl()

    def _end(self, _timer: int, _opaque: object) -> None:
        self._stopping = True
        while self._timers:
            libvirt.virEventRemoveTimeout(self._timers.pop())

    def _heartbeat(self, _timer: int, _opaque: object) -> None:
        self._heartbeat_s = time.monotonic()

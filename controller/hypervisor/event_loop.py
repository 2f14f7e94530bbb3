"""Runs libvirt's event loop on a thread."""

from __future__ import annotations

import threading
import time

import libvirt

HEARTBEAT_MS = 1000
DRAIN_MS = 10
"""How long the loop continues after `stop`. In this time it frees closed connections."""


class EventLoop:
    """libvirt's event loop. A process can have only one loop, which must run before any connection is opened.

    Any thread may call `alive`. Only one thread may call `start` and `stop`.
    """

    def __init__(self) -> None:
        self._heartbeat_s = time.monotonic()
        self._stopping = False
        self._timers: list[int] = []
        self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)

    def start(self) -> None:
        """Register the loop with libvirt and start its thread."""
        libvirt.virEventRegisterDefaultImpl()
        # Without this handler, libvirt prints each error, although libvirt-python also raises it.
        libvirt.registerErrorHandler(lambda *_: None, None)
        self._timers.append(libvirt.virEventAddTimeout(HEARTBEAT_MS, self._heartbeat, None))
        self._thread.start()

    def alive(self, max_age_s: float) -> bool:
        """Whether the thread runs and its last heartbeat is at most `max_age_s` old."""
        return self._thread.is_alive() and time.monotonic() - self._heartbeat_s <= max_age_s

    def stop(self, timeout_s: float) -> None:
        """End the loop, and wait at most `timeout_s` seconds for its thread to end."""
        if self._thread.is_alive():
            # Only traffic or a timer wakes up the loop.
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

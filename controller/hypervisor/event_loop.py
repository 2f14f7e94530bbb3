"""libvirt's event loop, on a native thread."""

from __future__ import annotations

import threading
import time

import libvirt

BEAT_MS = 1000
LAST_MS = 10
"""What has just been closed is given back by the loop, when it has nothing else to do: it goes on for so long."""


class EventLoop:
    """libvirt's event loop on a thread of its own; there can be one a process, and it must run before any open."""

    def __init__(self) -> None:
        self._beat_s = time.monotonic()
        self._stopping = False
        self._timers: list[int] = []
        self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)

    def start(self) -> None:
        """Register and run it."""
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; they need not be printed as well
        self._timers.append(libvirt.virEventAddTimeout(BEAT_MS, self._beat, None))
        self._thread.start()

    def alive(self, max_age_s: float) -> bool:
        """The thread runs, and its last heartbeat is no older than this."""
        return self._thread.is_alive() and time.monotonic() - self._beat_s <= max_age_s

    def stop(self, timeout_s: float) -> None:
        """End it. It wakes only for traffic or a timer, so it is given one."""
        if self._thread.is_alive():
            self._timers.append(libvirt.virEventAddTimeout(LAST_MS, self._end, None))
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            libvirt.virEventRunDefaultImpl()

    def _end(self, _timer: int, _opaque: object) -> None:
        self._stopping = True
        while self._timers:
            libvirt.virEventRemoveTimeout(self._timers.pop())

    def _beat(self, _timer: int, _opaque: object) -> None:
        self._beat_s = time.monotonic()

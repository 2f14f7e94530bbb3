"""Lookups in flight. A worker whose lookup hangs is blocked in libvirt, so another thread must detect it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controller.api.clock import Now
from controller.api.virtualmachine import VmKey

LOOKUP_OVERDUE_S = 5.0
"""A lookup that libvirt has not answered for this long is reported for its VM: as HypervisorBusy if libvirt has
answered about another VM since, otherwise as LibvirtUnreachable."""


class Lookups:
    """The lookups in flight: the VM of each, and since when. Thread-safe."""

    def __init__(self, clock: Callable[[], Now]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since_s: dict[VmKey, float] = {}
        self._answered_s = float("-inf")
        """When libvirt last answered about any domain."""

    @contextmanager
    def asking(self, key: VmKey) -> Iterator[None]:
        """Surround each libvirt call about the domain of this VM. A call that raises does not count as an answer."""
        with self._lock:
            self._since_s[key] = self._clock().monotonic_s
        try:
            yield
            with self._lock:
                self._answered_s = self._clock().monotonic_s
        finally:
            with self._lock:
                del self._since_s[key]

    def overdue(self) -> dict[VmKey, bool]:
        """The VMs whose lookup is overdue. The value is True if libvirt has answered about another VM since."""
        now_s = self._clock().monotonic_s
        with self._lock:
            return {
                key: self._answered_s > since_s
                for key, since_s in self._since_s.items()
                if now_s - since_s > LOOKUP_OVERDUE_S
            }

"""Records the lookups of domains that are in flight, so that another thread can detect those that hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controller.api.clock import Now
from controller.api.virtualmachine import VmKey

LOOKUP_OVERDUE_S = 5.0
"""A lookup that takes longer than this is overdue. Its VM is then reported as HypervisorBusy if libvirt has answered
another lookup since, otherwise as LibvirtUnreachable."""


class Lookups:
    """The lookups in flight: the VM of each lookup, and the time when it began. Thread-safe."""

    def __init__(self, clock: Callable[[], Now]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since_s: dict[VmKey, float] = {}
        self._answered_s = float("-inf")
        """The monotonic time at which libvirt last answered a lookup."""

    @contextmanager
    def asking(self, key: VmKey) -> Iterator[None]:
        """Return a context manager for one lookup of this VM's domain. An exception does not count as an answer."""
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
        """Return the VMs whose lookup is overdue, and for each whether libvirt has answered another lookup since."""
        now_s = self._clock().monotonic_s
        with self._lock:
            return {
                key: self._answered_s > since_s
                for key, since_s in self._since_s.items()
                if now_s - since_s > LOOKUP_OVERDUE_S
            }

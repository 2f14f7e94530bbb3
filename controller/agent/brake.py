"""Makes the brake of a node (a circuit breaker for mass stops) thread-safe."""

from __future__ import annotations

import threading

from controller.api.clock import Now
from controller.api.virtualmachine import Status, VmKey
from controller.policy import brake
from controller.policy.waits import Waits


class NodeBrake:
    """A `policy.brake.Brake` that several threads can use. No method calls libvirt or the API server."""

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._lock = threading.Lock()
        self._brake = brake.Brake(waits, boot_id)

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Pass a report to the brake: it shows whether the VM is on, and when and why the VM last stopped."""
        with self._lock:
            self._brake.note(key, status, now)

    def answered(self, key: VmKey, now: Now) -> None:
        """Note that virtsync has started the VM again after its guest had powered it off.

        If this happens repeatedly, the brake ignores power-offs by this guest, with exceptions (see `brake.Brake`).
        """
        with self._lock:
            self._brake.answered(key, now)

    def forget(self, key: VmKey) -> None:
        """Drop all data about the VM, because its object is gone or belongs to another node."""
        with self._lock:
            self._brake.forget(key)

    def until(self, now: Now) -> Now | None:
        """Return the moment at which the brake will be released; None: the brake is not engaged."""
        with self._lock:
            return self._brake.until(now)

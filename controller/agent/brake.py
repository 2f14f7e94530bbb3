"""The brake of one node (a circuit breaker for mass stops), shared by the threads of an agent."""

from __future__ import annotations

import threading

from controller.api.clock import Now
from controller.api.virtualmachine import Status, VmKey
from controller.policy import brake
from controller.policy.waits import Waits


class NodeBrake:
    """`policy.brake.Brake` behind a lock. Thread-safe; no method makes a call."""

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._lock = threading.Lock()
        self._brake = brake.Brake(waits, boot_id)

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Take in from a report whether the VM is on, and its last stop."""
        with self._lock:
            self._brake.note(key, status, now)

    def answered(self, key: VmKey, now: Now) -> None:
        """Note that a start succeeded which followed the guest's own power-off."""
        with self._lock:
            self._brake.answered(key, now)

    def forget(self, key: VmKey) -> None:
        """Forget the VM, because its object is gone or belongs to another node."""
        with self._lock:
            self._brake.forget(key)

    def until(self, now: Now) -> Now | None:
        """When the brake is released; None: the brake is not engaged."""
        with self._lock:
            return self._brake.until(now)

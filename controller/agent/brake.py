"""The brake of one node, for the threads of an agent."""

from __future__ import annotations

import threading

from controller.api.clock import Now
from controller.api.virtualmachine import Status, VmKey
from controller.policy import brake
from controller.policy.waits import Waits


class NodeBrake:
    """`policy.brake.Brake` behind a lock. Any thread may use it, and none waits for a call."""

    def __init__(self, waits: Waits, boot_id: str) -> None:
        self._lock = threading.Lock()
        self._brake = brake.Brake(waits, boot_id)

    def note(self, key: VmKey, status: Status, now: Now) -> None:
        """Take in what a report says of the VM: whether it is on, and its last stop."""
        with self._lock:
            self._brake.note(key, status, now)

    def answered(self, key: VmKey, now: Now) -> None:
        """A start that answers the guest's own power-off has ended well."""
        with self._lock:
            self._brake.answered(key, now)

    def forget(self, key: VmKey) -> None:
        """The object is gone."""
        with self._lock:
            self._brake.forget(key)

    def until(self, now: Now) -> Now | None:
        """When the brake is released; None: it is not on."""
        with self._lock:
            return self._brake.until(now)

"""Stores the in-process state of each VM between two reconcile passes. It is lost on restart."""

from __future__ import annotations

import threading

from controller.api.values import replace
from controller.api.virtualmachine import VmKey
from controller.policy.stops import still_unreported
from controller.policy.view import Step, View, VmMemory


class PassMemories:
    """What one agent keeps of each VM between two passes. Thread-safe.

    For each VM: the VmMemory, the number of consecutive write conflicts, and the time of the first event that no
    report has covered yet. No method calls libvirt or the API server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memories: dict[VmKey, VmMemory] = {}
        self._conflicts: dict[VmKey, int] = {}
        """For each VM, the number of consecutive reports that failed because another writer was first."""
        self._event_at_s: dict[VmKey, float] = {}
        """For each VM, the monotonic time of the first event since its last pass began."""
        self._unreported_at_s: dict[VmKey, float] = {}
        """For each VM, the time of the first event that a pass has taken and that no report covers yet."""

    def of(self, key: VmKey) -> VmMemory:
        """Return the memory that the last pass has stored."""
        with self._lock:
            return self._memories.get(key, VmMemory())

    def event(self, key: VmKey, at_s: float) -> None:
        """Note an event about this VM, with its monotonic time. Only the first event since the last pass counts."""
        self._event_at_s.setdefault(key, at_s)

    def take_event(self, key: VmKey) -> float | None:
        """Return the monotonic time of the first event that no report covers yet; None: there is none.

        The pass that begins covers the event, unless its report fails.
        """
        if (at_s := self._event_at_s.pop(key, None)) is not None:
            self._unreported_at_s.setdefault(key, at_s)
        return self._unreported_at_s.get(key)

    def oldest_event_s(self) -> float | None:
        """Return the monotonic time of the oldest event of any VM that no report covers yet; None: there is none."""
        # Copying a dictionary's values is one step for other threads, so the event thread needs no lock.
        return min((*self._event_at_s.values(), *self._unreported_at_s.values()), default=None)

    def remember(self, key: VmKey, memory: VmMemory) -> None:
        """Store the memory of a pass whose report was written."""
        self._unreported_at_s.pop(key, None)
        with self._lock:
            self._memories[key] = memory
            self._conflicts.pop(key, None)

    def remember_unreported(self, view: View, step: Step) -> None:
        """Store the memory of a pass whose report failed.

        The memory keeps what the next pass needs again: the last stop, which could not be reported, the outcome of the
        last action, and the shutdown request that this outcome is about.
        """
        stop = still_unreported(view.vm.status, step.status, view.memory)
        with self._lock:
            self._memories[view.vm.key] = replace(
                step.memory,
                outcome=view.memory.outcome,
                unreported_stop=stop,
                unsent_shutdown=step.memory.unsent_shutdown or view.memory.unsent_shutdown,
            )

    def start_called(self, key: VmKey) -> None:
        """Note that the recorded start has begun. From now on, its record must not be dropped."""
        with self._lock:
            if key in self._memories:
                self._memories[key] = replace(self._memories[key], start_called=True)

    def conflicted(self, key: VmKey) -> int:
        """Note that a report failed with a conflict. Returns how many consecutive reports have failed in this way."""
        with self._lock:
            self._conflicts[key] = self._conflicts.get(key, 0) + 1
            return self._conflicts[key]

    def forget(self, key: VmKey) -> None:
        """Drop all data about the VM, because its object is gone or belongs to another node."""
        with self._lock:
            self._memories.pop(key, None)
            self._conflicts.pop(key, None)
        self._event_at_s.pop(key, None)
        self._unreported_at_s.pop(key, None)

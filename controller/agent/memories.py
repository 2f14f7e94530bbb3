"""In-process state of each VM between two reconcile passes, lost on restart."""

from __future__ import annotations

import threading

from controller.api.values import replace
from controller.api.virtualmachine import VmKey
from controller.policy.view import Step, View, VmMemory


class PassMemories:
    """The VmMemory of every VM of one agent. Thread-safe; no method makes a call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memories: dict[VmKey, VmMemory] = {}
        self._conflicts: dict[VmKey, int] = {}
        """How many reports in a row have failed with a conflict, because another writer was first."""
        self._event_at_s: dict[VmKey, float] = {}

    def of(self, key: VmKey) -> VmMemory:
        """The memory that the last pass left."""
        with self._lock:
            return self._memories.get(key, VmMemory())

    def event(self, key: VmKey, at_s: float) -> None:
        """Note that an event named this VM, at this monotonic time. The first event since the last pass counts."""
        self._event_at_s.setdefault(key, at_s)

    def take_event(self, key: VmKey) -> float | None:
        """Return and clear the monotonic time of the first event since the last pass; None: there was none."""
        return self._event_at_s.pop(key, None)

    def remember(self, key: VmKey, memory: VmMemory) -> None:
        """Keep the memory of a pass whose report was written."""
        with self._lock:
            self._memories[key] = memory
            self._conflicts.pop(key, None)

    def remember_unreported(self, view: View, step: Step) -> None:
        """Keep the memory of a pass whose report failed, with the first unreported stop and the last outcome."""
        stop, known = step.status.last_stop, view.vm.status.last_stop
        first = view.memory.unreported_stop or (stop if stop != known else None)
        with self._lock:
            self._memories[view.vm.key] = replace(step.memory, outcome=view.memory.outcome, unreported_stop=first)

    def start_called(self, key: VmKey) -> None:
        """Note that libvirt has received the recorded start, which from now on is a fact."""
        with self._lock:
            if key in self._memories:
                self._memories[key] = replace(self._memories[key], start_called=True)

    def conflicted(self, key: VmKey) -> int:
        """Note a report that failed with a conflict. Returns how many have failed so in a row."""
        with self._lock:
            self._conflicts[key] = self._conflicts.get(key, 0) + 1
            return self._conflicts[key]

    def forget(self, key: VmKey) -> None:
        """Drop the memory, because the object is gone or belongs to another node."""
        with self._lock:
            self._memories.pop(key, None)
            self._conflicts.pop(key, None)
        self._event_at_s.pop(key, None)

"""What this process remembers of each VM between two passes, and loses when it ends."""

from __future__ import annotations

import threading

from controller.api.values import replace
from controller.api.virtualmachine import VmKey
from controller.policy.view import Step, View, VmMemory


class PassMemories:
    """The memory of every VM of one agent. Any thread may use it, and none waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memories: dict[VmKey, VmMemory] = {}
        self._conflicts: dict[VmKey, int] = {}
        """How many reports in a row somebody else's write has made void."""
        self._event_at_s: dict[VmKey, float] = {}

    def of(self, key: VmKey) -> VmMemory:
        """What the last pass remembered."""
        with self._lock:
            return self._memories.get(key, VmMemory())

    def event(self, key: VmKey, at_s: float) -> None:
        """An event named this VM, at this monotonic time; the first one since the last pass counts."""
        self._event_at_s.setdefault(key, at_s)

    def take_event(self, key: VmKey) -> float | None:
        """When the first event since the last pass came, if one did."""
        return self._event_at_s.pop(key, None)

    def remember(self, key: VmKey, memory: VmMemory) -> None:
        """A pass has been reported."""
        with self._lock:
            self._memories[key] = memory
            self._conflicts.pop(key, None)

    def remember_unreported(self, view: View, step: Step) -> None:
        """A pass could not be reported: keep the first stop that nobody was told of, and the last action's outcome."""
        stop, known = step.status.last_stop, view.vm.status.last_stop
        first = view.memory.unreported_stop or (stop if stop != known else None)
        with self._lock:
            self._memories[view.vm.key] = replace(step.memory, outcome=view.memory.outcome, unreported_stop=first)

    def start_called(self, key: VmKey) -> None:
        """The start that is on record is with libvirt: from now on it is a fact."""
        with self._lock:
            if key in self._memories:
                self._memories[key] = replace(self._memories[key], start_called=True)

    def conflicted(self, key: VmKey) -> int:
        """Somebody else's write has made the report void; how many in a row that makes."""
        with self._lock:
            self._conflicts[key] = self._conflicts.get(key, 0) + 1
            return self._conflicts[key]

    def forget(self, key: VmKey) -> None:
        """The object is gone, or another node's."""
        with self._lock:
            self._memories.pop(key, None)
            self._conflicts.pop(key, None)
        self._event_at_s.pop(key, None)

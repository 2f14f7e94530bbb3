"""Recognizes the watch events that report this agent's own writes, because nothing in them is new.

The API server sends each write to the watch as well, often before the answer to the write. From the answer, the agent
has the new version already.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controller.api.virtualmachine import VmKey


class Echoes:
    """The answers that the watch has not repeated yet, and the events that came before an answer. Thread-safe.

    An event is recognized by its bytes, because a resource version is not enough: after a restore of etcd, the API
    server assigns the same numbers again.
    """

    def __init__(self, changed: Callable[[bytes], None]) -> None:
        """`changed` gets the text of each kept event that was not the echo of the write. `writing` calls it."""
        self._changed = changed
        self._lock = threading.Lock()
        self._writing: Counter[VmKey] = Counter()
        """The number of writes in flight of each object."""
        self._kept: dict[VmKey, bytes] = {}
        """For objects that are being written, the last event of the watch."""
        self._answers: dict[VmKey, bytes] = {}
        """The stored versions of objects whose echo is expected."""

    @contextmanager
    def writing(self, key: VmKey) -> Iterator[None]:
        """Return a context manager for a write of this object, from the request until its answer is stored."""
        with self._lock:
            self._writing[key] += 1
        try:
            yield
        finally:
            if (text := self._written(key)) is not None:
                self._changed(text)

    def answered(self, key: VmKey, text: bytes) -> None:
        """Note that the object with this JSON text, which a write has returned, is stored now."""
        with self._lock:
            self._answers[key] = text

    def replaced(self, key: VmKey) -> None:
        """Note that another version of the object is stored now, or none."""
        with self._lock:
            self._answers.pop(key, None)

    def forget_kept(self, key: VmKey) -> None:
        """Drop a kept event, because the object will be read again."""
        with self._lock:
            self._kept.pop(key, None)

    def take(self, key: VmKey, text: bytes) -> bool:
        """Take the event of the watch with this text of the object, if possible: it is an echo, or it is kept.

        Returns False if the object is not being written and the text is not the expected one. Never waits.
        """
        with self._lock:
            if self._answers.get(key) == text:
                del self._answers[key]
                return True
            if key in self._writing:
                self._kept[key] = text
                return True
            return False

    def _written(self, key: VmKey) -> bytes | None:
        """End a write. Return the kept event if it must be processed now."""
        with self._lock:
            self._writing[key] -= 1
            if self._writing[key]:
                return None
            del self._writing[key]
            kept = self._kept.pop(key, None)
            if kept is not None and kept == self._answers.get(key):
                del self._answers[key]
                return None
            return kept

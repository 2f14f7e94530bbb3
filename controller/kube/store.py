"""Caches the objects of this node from watch events and responses, and writes their status.

A higher resource version is not always later: after a restore, etcd assigns the same numbers again. The response to a
request is therefore stored whatever its version, unless the cached object has changed or was marked uncertain while the
request was in flight. A watch event might be late, so it is stored only if its version is newer. Otherwise the object
is marked uncertain, and read again. A watch event that arrives during a write of its object waits for the answer,
because it probably reports this write (`Echoes`).

A watch begins with a list, and has no event for an object that was deleted before this list. Therefore each object that
the list lacks is marked uncertain too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

from controller.api.codec import parse, status_patch
from controller.api.json_mapping import Json, as_map, as_text
from controller.api.names import AGENT
from controller.api.virtualmachine import Status, VirtualMachine, VmKey
from controller.kube import paths
from controller.kube.client import MERGE_PATCH, Api, as_json
from controller.kube.collection import items
from controller.kube.echoes import Echoes
from controller.runtime import retry
from controller.runtime.errors import Behind, Conflicted, Transient, Vanished

TRIES = 3
"""How often `refresh` reads an object if the cached object changes during each read."""

log = structlog.get_logger()


class Update(Enum):
    """What the store did with a received version of an object."""

    STORED = "stored"
    UNCHANGED = "equal to the stored one"
    UNCERTAIN = "not stored: it might be older or newer than the stored one, so the object must be read again"


@dataclass(frozen=True, slots=True)
class _Stored:
    raw: Json
    vm: VirtualMachine
    stored: int
    """The sequence number at which this version was stored."""


class KubeStore:
    """Implements `reconcile.Store` with the API server. Thread-safe. No thread waits for the request of another thread.

    Each change of the cache gets the next sequence number. By these numbers, the store finds out whether an object has
    changed since a request was sent.
    """

    def __init__(
        self,
        api: Api,
        node_name: str,
        *,
        on_rewound: Callable[[], None],
        on_kept: Callable[[Json], None],
        on_absent: Callable[[VmKey], None],
    ) -> None:
        """`on_rewound` is called when the API server returns an older version than before. It must not block.

        It must restart the watch: a watch that continues from a version that does not exist yet receives no events.
        `on_kept` is called with each object from the watch that had to wait for the end of a write. It must not block.
        `on_absent` is called with each stored object that a list of the watch lacks. It must not block, and the object
        must then be read again (`refresh_uncertain`).
        """
        self._echoes = Echoes(lambda text: on_kept(as_json(text)))
        self._api, self._node_name = api, node_name
        self._on_rewound, self._on_absent = on_rewound, on_absent
        self._lock = threading.Lock()
        self._objects: dict[VmKey, _Stored] = {}
        self._sequence = 0
        self._removed: dict[VmKey, int] = {}
        """The sequence number at which each object was removed. An entry is kept as long as the response to a request
        in flight might still contain the object."""
        self._listed: tuple[int, frozenset[VmKey]] = 0, frozenset()
        """The sequence number at which the watch has listed the objects last, and the objects in this list."""
        self._in_flight: list[int] = []
        """The sequence numbers at which the requests in flight were sent."""
        self._newest = int(paths.ANY_VERSION)
        """The newest resource version that the store has seen."""
        self._uncertain: dict[VmKey, int] = {}
        """The objects to read again, each with the sequence number at which it was marked."""

    def read(self, key: VmKey) -> VirtualMachine | None:
        """Return the stored object, or None. Sends no request."""
        with self._lock:
            known = self._objects.get(key)
        return known.vm if known else None

    def known(self) -> list[VmKey]:
        """Return the keys of all stored objects. Sends no request."""
        with self._lock:
            return list(self._objects)

    def vms(self) -> list[VirtualMachine]:
        """Return all stored objects. Sends no request."""
        with self._lock:
            return [known.vm for known in self._objects.values()]

    def put(self, raw: Json) -> Update:
        """Store an object from the watch if it is newer than the stored one. Otherwise mark the object uncertain.

        An object that is equal to the stored one has no effect. `refresh_uncertain` reads uncertain objects again.
        Never raises, and never waits for a request.
        """
        with self._lock:
            known = self._objects.get(key_of(raw))
            if known and known.raw == raw:
                return Update.UNCHANGED
            self._note_version(raw)
            vm = parse(raw)
            if vm.node_name == self._node_name and (known is None or _is_newer(vm, known.vm)):
                self._store(raw, vm)
                return Update.STORED
            return self._mark_uncertain(vm.key)

    def take(self, key: VmKey, text: bytes) -> bool:
        """Take an object of the watch, if it reports a write of this agent or might do so. Otherwise return False.

        If it reports something else, `on_kept` is called when the write has ended. Never waits for a request.
        """
        return self._echoes.take(key, text)

    def is_known(self, raw: Json) -> bool:
        """Whether the object is equal to the stored one. Never waits for a request."""
        with self._lock:
            known = self._objects.get(key_of(raw))
        return known is not None and known.raw == raw

    def listed(self, answer: Json) -> None:
        """Mark the stored objects uncertain that this list of the watch lacks. Sends no request.

        Such an object was deleted before the list, or it was created after the list, which might be old. An object that
        only the answer to a request in flight has is treated in the same way (`_store_answer`).
        """
        keys = frozenset(map(key_of, items(answer)))
        with self._lock:
            self._note_version(answer)
            self._listed = self._next_sequence(), keys
            absent = [key for key in self._objects if key not in keys]
        for key in absent:
            self._doubt(key)
            self._on_absent(key)

    def gone(self, raw: Json) -> None:
        """Mark an object uncertain that is deleted or belongs to another node, as the watch says. Sends no request."""
        with self._lock:
            self._note_version(raw)
        self._doubt(key_of(raw))

    def refresh_uncertain(self, key: VmKey) -> None:
        """Read the object again if it is marked uncertain: the cached version might not be the current one.

        Otherwise send no request. Raises Transient, Rejected.
        """
        with self._lock:
            uncertain = key in self._uncertain
        if uncertain:
            self.refresh(key)

    def refresh(self, key: VmKey) -> VirtualMachine | None:
        """Read, store and return the object. Return None if it was deleted or belongs to another node.

        Raises Transient, Rejected.
        """
        for _ in range(TRIES):
            with self._request() as sent:
                raw = self._get(key)
                vm, update = self._store_answer(key, raw, sent)
            if update is not Update.UNCERTAIN:
                return vm
        raise Transient("the object changes each time it is read")

    def report(self, vm: VirtualMachine, status: Status) -> VirtualMachine:
        """Write the fields of the status that differ from the stored status. Return the object as written.

        Sends no request and returns `vm` if no field differs. Raises Conflicted if the object has changed since `vm`
        was read; also Vanished, Transient, Rejected.
        """
        with self._lock:
            known = self._objects.get(vm.key)
        if known is None or known.vm != vm:
            # `vm` is not the version that is stored now. The API server would refuse the write too.
            raise Vanished("the object was deleted") if known is None else Conflicted("the object has changed")
        patch = status_patch(known.raw.get("status") or {}, status)
        if patch is None:
            return vm
        with self._echoes.writing(vm.key), self._request() as sent:
            text = retry.call(
                self._api.request_text,
                "PATCH",
                f"{paths.virtual_machine(vm.key)}/status",
                {"metadata": {"resourceVersion": vm.resource_version}, "status": patch},
                content_type=MERGE_PATCH,
                fieldManager=AGENT,
            )
            raw = _same(vm.key, as_json(text))
            written, update = self._store_answer(vm.key, raw, sent)
            if update is Update.STORED:
                self._echoes.answered(vm.key, text.rstrip())
        return written if written and update is not Update.UNCERTAIN else parse(raw)

    def relist(self) -> tuple[set[VmKey], set[VmKey]]:
        """List the node's objects. Return the keys of the changed and uncertain objects, and of the removed objects.

        Raises Transient, Rejected.
        """
        changed: set[VmKey] = set()
        removed: set[VmKey] = set()
        with self._request() as sent:
            listed = {key_of(item): item for item in self._list()}
            for key in dict.fromkeys([*listed, *self.known()]):
                vm, update = self._store_answer(key, listed.get(key), sent)
                if update is not Update.UNCHANGED:
                    (changed if vm or update is Update.UNCERTAIN else removed).add(key)
        return changed, removed

    def _list(self) -> list[Json]:
        """List the node's objects in a state that is not older than anything that the store has seen.

        The API server answers from its watch cache, so that the lists of many agents at once never reach etcd
        (docs/adr/039). If the cache does not have that state, asks for the present state. Raises Transient, Rejected.
        """

        def listed(**state: Any) -> Json:
            selector = f"spec.nodeName={self._node_name}"
            return retry.call(self._api.request, "GET", paths.VIRTUAL_MACHINES, fieldSelector=selector, **state)

        with self._lock:
            newest = self._newest
        try:
            answer = listed(resourceVersion=str(newest), resourceVersionMatch="NotOlderThan")
        except Behind:
            answer = listed()
        found = items(answer)
        with self._lock:
            if _version(answer) < newest:  # etcd was restored
                self._newest = 0
            self._note_version(answer)
        return found

    def _get(self, key: VmKey) -> Json | None:
        try:
            return _same(key, retry.call(self._api.request, "GET", paths.virtual_machine(key)))
        except Vanished:
            return None

    @contextmanager
    def _request(self) -> Iterator[int]:
        """Register a request as in flight until its response is stored. Yields the sequence number when it is sent."""
        with self._lock:
            sent = self._sequence
            self._in_flight.append(sent)
        try:
            yield sent
        finally:
            with self._lock:
                self._in_flight.remove(sent)
                oldest = min(self._in_flight, default=self._sequence)
                self._removed = {key: at for key, at in self._removed.items() if at > oldest}

    def _store_answer(self, key: VmKey, raw: Json | None, sent: int) -> tuple[VirtualMachine | None, Update]:
        """Store the response to a request that was sent at the sequence number `sent`.

        Marks the object uncertain instead if the cached object has changed since then. `raw` is None if this node has
        no such object. Returns the object that is now stored, or None.
        """
        with self._lock:
            self._note_version(raw or {})
            known = self._objects.get(key)
            same = known is not None and known.raw == raw
            vm = known.vm if known and same else self._own(raw)
            same = same or (known is None and vm is None)
            changed = known.stored if known else max(self._removed.get(key, 0), self._absent_since(key))
            if self._uncertain.get(key, 0) > sent or (changed > sent and not same):
                return known.vm if known else None, self._mark_uncertain(key)
            self._uncertain.pop(key, None)
            if raw and vm and not same:
                self._store(raw, vm)
            elif known and not same:
                del self._objects[key]
                self._echoes.replaced(key)
                self._removed[key] = self._next_sequence()
        if known and vm and not same and _is_newer(known.vm, vm):
            log.warning(
                "the API server returns older resource versions than before, as after a restore of etcd; accepting them"
            )
            self._on_rewound()
        return vm, Update.UNCHANGED if same else Update.STORED

    def _absent_since(self, key: VmKey) -> int:
        """Return the sequence number of the last list of the watch if it lacks the object, otherwise 0."""
        listed, keys = self._listed
        return 0 if key in keys else listed

    def _own(self, raw: Json | None) -> VirtualMachine | None:
        """Return the parsed object, or None if there is none or it belongs to another node."""
        vm = parse(raw) if raw else None
        return vm if vm and vm.node_name == self._node_name else None

    def _store(self, raw: Json, vm: VirtualMachine) -> None:
        """Store the object. The caller must have acquired the lock."""
        self._echoes.replaced(vm.key)
        self._objects[vm.key] = _Stored(raw, vm, self._next_sequence())

    def _note_version(self, raw: Json) -> None:
        """Note the version of an object or list. The caller must have acquired the lock."""
        self._newest = max(self._newest, _version(raw))

    def _doubt(self, key: VmKey) -> None:
        """Mark an object uncertain that might be gone. Events from before, which still wait, must not bring it back."""
        self._echoes.forget_kept(key)
        with self._lock:
            self._mark_uncertain(key)

    def _mark_uncertain(self, key: VmKey) -> Update:
        """Mark the object uncertain. The caller must have acquired the lock."""
        self._uncertain[key] = self._next_sequence()
        return Update.UNCERTAIN

    def _next_sequence(self) -> int:
        """Return the next sequence number. The caller must have acquired the lock."""
        self._sequence += 1
        return self._sequence


def _is_newer(vm: VirtualMachine, than: VirtualMachine) -> bool:
    """Whether `vm` is a newer version of the object `than`. Resource versions compare as numbers (KEP-5504)."""
    versions = vm.resource_version, than.resource_version
    return vm.uid == than.uid and all(map(str.isdecimal, versions)) and int(versions[0]) > int(versions[1])


def _version(raw: Json) -> int:
    """Return the resource version of an object or list as a number, 0 if it has none (KEP-5504)."""
    version = as_text(as_map(raw.get("metadata")).get("resourceVersion")) or ""
    return int(version) if version.isdecimal() else 0


def _same(key: VmKey, answer: Json) -> Json:
    """Return the answer to a request for this object.

    Raises Transient if it is something else, as that of a proxy: it must not mean that the object is gone.
    """
    meta = as_map(answer.get("metadata"))
    if (meta.get("namespace"), meta.get("name")) != (key.namespace, key.name):
        raise Transient("the API server answered something else instead of the object")
    return answer


def key_of(raw: Json) -> VmKey:
    """Return the key of an object."""
    return VmKey(raw["metadata"]["namespace"], raw["metadata"]["name"])

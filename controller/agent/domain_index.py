"""Finds the VirtualMachines that refer to a domain, and the one that owns it if several refer to the same domain."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import datetime
from uuid import UUID

from controller.api.virtualmachine import Address, VirtualMachine, VmKey
from controller.policy.view import Domain


class DomainIndex:
    """An index of this node's VirtualMachines by the UUID and the name of their domains. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[VmKey, tuple[datetime, Address, bool]] = {}
        self._by_uuid: defaultdict[UUID, set[VmKey]] = defaultdict(set)
        self._by_name: defaultdict[str, set[VmKey]] = defaultdict(set)
        self._refused: dict[VmKey, set[VmKey]] = {}
        """For each owner, the objects whose domain it has. They might refer to the domain in another way than it does,
        one by UUID and one by name."""

    def enter(self, vm: VirtualMachine) -> set[VmKey]:
        """Add or update the object. Returns the other objects that refer to its domain, or to its former domain."""
        entry = (vm.created, vm.address, vm.knows_uuid)
        with self._lock:
            if self._entries.get(vm.key) == entry:
                return set()
            touched = self._remove(vm.key)
            self._entries[vm.key] = entry
            if vm.address.uuid:
                self._by_uuid[vm.address.uuid].add(vm.key)
            if vm.address.name:
                self._by_name[vm.address.name].add(vm.key)
            return (touched | self._same(vm.address.uuid, vm.address.name)) - {vm.key}

    def leave(self, key: VmKey) -> set[VmKey]:
        """Remove the object. Returns the other objects that refer to its domain."""
        with self._lock:
            for refused in self._refused.values():
                refused.discard(key)
            return self._remove(key)

    def keys(self, uuid: UUID, name: str) -> set[VmKey]:
        """Return the objects that refer to this domain by its UUID or its name, or whose status has its UUID."""
        with self._lock:
            return self._same(uuid, name)

    def owner(self, domain: Domain, key: VmKey) -> VmKey | None:
        """Return the owner of this domain, for the object `key`, which is woken when another owner leaves the domain.

        The owner is the oldest object that refers to the domain, whatever its spec.powerState is. An object that is
        bound to another UUID does not count, even if it has the name of this domain. Nor does one with another name
        that has the UUID only from the report of another host.
        """
        with self._lock:
            owner = self._owner(domain.uuid, domain.name)
            if owner is not None and owner != key:
                self._refused.setdefault(owner, set()).add(key)
        return owner

    def is_claimed(self, uuid: UUID, name: str) -> bool:
        """Return whether this domain has an owner."""
        with self._lock:
            return self._owner(uuid, name) is not None

    def _owner(self, uuid: UUID, name: str) -> VmKey | None:
        claims = [
            (created, other)
            for other in self._same(uuid, name)
            for created, address, knows_uuid in [self._entries[other]]
            if address.uuid in {None, uuid} and (knows_uuid or address.name == name)
        ]
        return min(claims)[1] if claims else None

    def _same(self, uuid: UUID | None, name: str | None) -> set[VmKey]:
        # .get, because indexing a defaultdict would add an empty set for each unknown UUID and name.
        by_uuid = self._by_uuid.get(uuid, set()) if uuid else set()
        return by_uuid | (self._by_name.get(name, set()) if name else set())

    def _remove(self, key: VmKey) -> set[VmKey]:
        entry = self._entries.pop(key, None)
        if entry is None:
            return set()
        address = entry[1]
        for index, value in ((self._by_uuid, address.uuid), (self._by_name, address.name)):
            if value is not None:
                keys = index[value]  # type: ignore[index]
                keys.discard(key)
                if not keys:
                    del index[value]  # type: ignore[arg-type]
        return self._same(address.uuid, address.name) | self._refused.pop(key, set())

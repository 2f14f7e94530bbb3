"""The objects of this node: remembered from watch, list and answers, and written to."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import quote

from controller import retry
from controller.codec import parse, status_patch
from controller.errors import Conflicted, Vanished
from controller.kube import GROUP, PLURAL, VERSION
from controller.kube.config import Api
from controller.model import Status, VirtualMachine, VmKey

FIELD_MANAGER = "virtsync-agent"
MERGE_PATCH = "application/merge-patch+json"
COLLECTION = f"/apis/{GROUP}/{VERSION}/{PLURAL}"

Json = dict[str, Any]


class KubeStore:
    """`reconcile.Store`, on the API server. Any thread may call it; the lock is never held over a request."""

    def __init__(self, api: Api, node_name: str) -> None:
        self._api, self._node_name = api, node_name
        self._lock = threading.Lock()
        self._objects: dict[VmKey, tuple[Json, VirtualMachine]] = {}

    def read(self, key: VmKey) -> VirtualMachine | None:
        """The object as it was last heard of. No request."""
        with self._lock:
            known = self._objects.get(key)
        return known[1] if known else None

    def known(self) -> list[VmKey]:
        """All objects of the node that were heard of."""
        with self._lock:
            return list(self._objects)

    def vms(self) -> list[VirtualMachine]:
        """All objects of the node, each as it was last heard of. No request."""
        with self._lock:
            return [vm for _, vm in self._objects.values()]

    def put(self, raw: Json) -> bool:
        """Take in an object as the API server shows it; whether that is news."""
        # Most of what the watch shows are our own writes, long known from their answers: not worth reading.
        with self._lock:
            if not self._is_news(raw):
                return False
        return self._take(raw, parse(raw))

    def forget(self, key: VmKey) -> None:
        """The object is gone, or another node's."""
        with self._lock:
            self._objects.pop(key, None)

    def refresh(self, key: VmKey) -> VirtualMachine | None:
        """The object as it is now; None: it is gone. Raises Transient, Rejected."""
        try:
            raw = retry.call(self._api.request, "GET", _path(key))
        except Vanished:
            self.forget(key)
            return None
        return self._taken(raw)

    def report(self, vm: VirtualMachine, status: Status) -> VirtualMachine:
        """Write what differs, onto this very version; without a request when nothing does, and then returns `vm`.

        Raises Conflicted, Vanished, Transient, Rejected.
        """
        with self._lock:
            known = self._objects.get(vm.key)
        if known is None or known[1].resource_version != vm.resource_version:
            # The very version that was decided on is no longer at hand; the API server would say the same.
            raise Vanished("gone meanwhile") if known is None else Conflicted("changed meanwhile")
        patch = status_patch(known[0].get("status") or {}, status)
        if patch is None:
            return vm
        raw = retry.call(
            self._api.request,
            "PATCH",
            f"{_path(vm.key)}/status",
            {"metadata": {"resourceVersion": vm.resource_version}, "status": patch},
            content_type=MERGE_PATCH,
            fieldManager=FIELD_MANAGER,
        )
        return self._taken(raw)

    def relist(self) -> tuple[set[VmKey], set[VmKey]]:
        """List the node's objects; returns those that are news and those that are gone. Raises Transient, Rejected."""
        before = set(self.known())
        answer = retry.call(self._api.request, "GET", COLLECTION, fieldSelector=f"spec.nodeName={self._node_name}")
        listed, news = set(), set()
        for item in answer.get("items", []):
            key = VmKey(item["metadata"]["namespace"], item["metadata"]["name"])
            listed.add(key)
            if self.put(item):
                news.add(key)
        gone = before - listed
        for key in gone:
            self.forget(key)
        return news, gone

    def _taken(self, raw: Json) -> VirtualMachine:
        vm = parse(raw)
        self._take(raw, vm)
        return vm

    def _take(self, raw: Json, vm: VirtualMachine) -> bool:
        with self._lock:
            if not self._is_news(raw):
                return False
            self._objects[vm.key] = (raw, vm)
            return True

    def _is_news(self, raw: Json) -> bool:
        """With the lock held."""
        meta = raw["metadata"]
        known = self._objects.get(VmKey(meta["namespace"], meta["name"]))
        return (
            known is None or known[1].uid != meta["uid"] or _newer(meta["resourceVersion"], known[1].resource_version)
        )


def _newer(version: str, than: str) -> bool:
    """Kubernetes compares resource versions of one resource as numbers (KEP-5504)."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than


def _path(key: VmKey) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{quote(key.namespace)}/{PLURAL}/{quote(key.name)}"

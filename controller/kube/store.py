"""The objects of this node: remembered from watch, list and answers, and written to.

Resource versions are no clock: a restored etcd gives them out anew. What the API server says when it is asked is
believed whatever its version, unless something else came in while it was asked. What the watch tells may be late: it is
taken in where it is newer; where it is not, the API server is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

import structlog

from controller.api.codec import parse, status_patch
from controller.api.names import AGENT, GROUP, PLURAL, VERSION
from controller.api.virtualmachine import Status, VirtualMachine, VmKey
from controller.kube.client import Api
from controller.runtime import retry
from controller.runtime.errors import Conflicted, Transient, Vanished

MERGE_PATCH = "application/merge-patch+json"
COLLECTION = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
TRIES = 3
"""How often an object is asked for of which something else comes in each time that it is asked for."""

log = structlog.get_logger()

Json = dict[str, Any]


class News(Enum):
    """What has come in about an object, as against what is known of it."""

    NEW = "taken in"
    KNOWN = "known already"
    DOUBTFUL = "not taken in: it may be older or younger than what is known, and the API server must be asked"


@dataclass(frozen=True, slots=True)
class _Known:
    raw: Json
    vm: VirtualMachine
    taken: int
    """The moment at which it came in."""


class KubeStore:
    """`reconcile.Store`, on the API server. Any thread may call it; the lock is never held over a request.

    Moments are numbers of its own, one more with each thing that comes in: so it is known what came in before a request
    was sent, and what while it was under way.
    """

    def __init__(self, api: Api, node_name: str, *, on_rewound: Callable[[], None]) -> None:
        """`on_rewound` is called when the API server shows older versions than before; it must not wait.

        A watch that goes on from a version of the future is told nothing.
        """
        self._api, self._node_name, self._on_rewound = api, node_name, on_rewound
        self._lock = threading.Lock()
        self._objects: dict[VmKey, _Known] = {}
        self._moment = 0
        self._gone: dict[VmKey, int] = {}
        """When objects went, for as long as a request is under way whose answer may still have them."""
        self._under_way: list[int] = []
        """When the requests without an answer were sent."""
        self._doubts: dict[VmKey, int] = {}
        """Since when it is not clear how these are."""

    def read(self, key: VmKey) -> VirtualMachine | None:
        """The object as it was last heard of. No request."""
        with self._lock:
            known = self._objects.get(key)
        return known.vm if known else None

    def known(self) -> list[VmKey]:
        """All objects of the node that were heard of."""
        with self._lock:
            return list(self._objects)

    def vms(self) -> list[VirtualMachine]:
        """All objects of the node, each as it was last heard of. No request."""
        with self._lock:
            return [known.vm for known in self._objects.values()]

    def put(self, raw: Json) -> News:
        """Take in an object as the watch tells it, if it is newer than what is known.

        Where that cannot be told it is doubtful, and `make_sure` asks. Never raises, never waits for a request.
        """
        with self._lock:
            known = self._objects.get(_key_of(raw))
            # Most of what the watch shows are our own writes, long known from their answers: not worth reading.
            if known and known.raw == raw:
                return News.KNOWN
            vm = parse(raw)
            if vm.node_name == self._node_name and (known is None or _is_newer(vm, known.vm)):
                self._keep(raw, vm)
                return News.NEW
            return self._doubt(vm.key)

    def doubt(self, key: VmKey) -> None:
        """Something was heard of it that does not say how it is now, such as that it has gone. No request."""
        with self._lock:
            self._doubt(key)

    def make_sure(self, key: VmKey) -> None:
        """Ask for an object that is in doubt; no request for any other. Raises Transient, Rejected."""
        with self._lock:
            doubtful = key in self._doubts
        if doubtful:
            self.refresh(key)

    def refresh(self, key: VmKey) -> VirtualMachine | None:
        """The object as it is now; None: it is gone, or another node's. Raises Transient, Rejected."""
        for _ in range(TRIES):
            with self._asking() as sent:
                raw = self._get(key)
                vm, news = self._answered(key, raw, sent)
            if news is not News.DOUBTFUL:
                return vm
        raise Transient("the object changes each time that it is asked for")

    def report(self, vm: VirtualMachine, status: Status) -> VirtualMachine:
        """Write what differs, onto this very version; without a request when nothing does, and then returns `vm`.

        Raises Conflicted, Vanished, Transient, Rejected.
        """
        with self._lock:
            known = self._objects.get(vm.key)
        if known is None or known.vm != vm:
            # What was decided on is no longer at hand; the API server would say the same.
            raise Vanished("gone meanwhile") if known is None else Conflicted("changed meanwhile")
        patch = status_patch(known.raw.get("status") or {}, status)
        if patch is None:
            return vm
        with self._asking() as sent:
            raw = retry.call(
                self._api.request,
                "PATCH",
                f"{_path(vm.key)}/status",
                {"metadata": {"resourceVersion": vm.resource_version}, "status": patch},
                content_type=MERGE_PATCH,
                fieldManager=AGENT,
            )
            written, news = self._answered(vm.key, raw, sent)
        return written if written and news is not News.DOUBTFUL else parse(raw)

    def relist(self) -> tuple[set[VmKey], set[VmKey]]:
        """List the node's objects; returns those that are news or in doubt, and those that are gone.

        Raises Transient, Rejected.
        """
        news: set[VmKey] = set()
        gone: set[VmKey] = set()
        with self._asking() as sent:
            answer = retry.call(self._api.request, "GET", COLLECTION, fieldSelector=f"spec.nodeName={self._node_name}")
            listed = {_key_of(item): item for item in answer.get("items", [])}
            for key in dict.fromkeys([*listed, *self.known()]):
                vm, what = self._answered(key, listed.get(key), sent)
                if what is not News.KNOWN:
                    (news if vm or what is News.DOUBTFUL else gone).add(key)
        return news, gone

    def _get(self, key: VmKey) -> Json | None:
        try:
            return retry.call(self._api.request, "GET", _path(key))
        except Vanished:
            return None

    @contextmanager
    def _asking(self) -> Iterator[int]:
        """Around a request and the taking in of its answer; the moment at which it is sent."""
        with self._lock:
            sent = self._moment
            self._under_way.append(sent)
        try:
            yield sent
        finally:
            with self._lock:
                self._under_way.remove(sent)
                oldest = min(self._under_way, default=self._moment)
                self._gone = {key: at for key, at in self._gone.items() if at > oldest}

    def _answered(self, key: VmKey, raw: Json | None, sent: int) -> tuple[VirtualMachine | None, News]:
        """Believe the answer to a request that was sent at that moment, unless something else has come in since.

        Returns what is known now. None as `raw`: there is no such object of this node.
        """
        with self._lock:
            known = self._objects.get(key)
            same = known is not None and known.raw == raw
            vm = known.vm if known and same else self._own(raw)
            same = same or (known is None and vm is None)
            changed = known.taken if known else self._gone.get(key, 0)
            if self._doubts.get(key, 0) > sent or (changed > sent and not same):
                return known.vm if known else None, self._doubt(key)
            self._doubts.pop(key, None)
            if raw and vm and not same:
                self._keep(raw, vm)
            elif known and not same:
                del self._objects[key]
                self._gone[key] = self._next_moment()
        if known and vm and not same and _is_newer(known.vm, vm):
            log.warning(
                "the API server shows older resource versions than before, as after a restore of etcd; accepting them"
            )
            self._on_rewound()
        return vm, News.KNOWN if same else News.NEW

    def _own(self, raw: Json | None) -> VirtualMachine | None:
        """The object, if there is one and it is this node's."""
        vm = parse(raw) if raw else None
        return vm if vm and vm.node_name == self._node_name else None

    def _keep(self, raw: Json, vm: VirtualMachine) -> None:
        """With the lock held."""
        self._objects[vm.key] = _Known(raw, vm, self._next_moment())

    def _doubt(self, key: VmKey) -> News:
        """With the lock held."""
        self._doubts[key] = self._next_moment()
        return News.DOUBTFUL

    def _next_moment(self) -> int:
        """With the lock held."""
        self._moment += 1
        return self._moment


def _is_newer(vm: VirtualMachine, than: VirtualMachine) -> bool:
    """Kubernetes compares resource versions of one resource as numbers (KEP-5504)."""
    versions = vm.resource_version, than.resource_version
    return vm.uid == than.uid and all(map(str.isdecimal, versions)) and int(versions[0]) > int(versions[1])


def _key_of(raw: Json) -> VmKey:
    return VmKey(raw["metadata"]["namespace"], raw["metadata"]["name"])


def _path(key: VmKey) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{quote(key.namespace)}/{PLURAL}/{quote(key.name)}"

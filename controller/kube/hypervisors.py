"""Reads and creates the Hypervisor of this node, and writes its status."""

from __future__ import annotations

import threading

from controller.api.hypervisor import Hypervisor, HypervisorStatus
from controller.api.hypervisor_codec import hypervisor_status_patch, parse_hypervisor
from controller.api.json_mapping import Json
from controller.api.names import AGENT, GROUP, HYPERVISOR_KIND, HYPERVISOR_PLURAL, VERSION
from controller.kube import paths
from controller.kube.client import MERGE_PATCH, Api
from controller.runtime import retry
from controller.runtime.errors import Transient, Unserved, Vanished


class OwnHypervisor:
    """The Hypervisor that has the name of this node. Only one thread may send requests; `is_current` is thread-safe."""

    def __init__(self, api: Api, node_name: str) -> None:
        self._api, self.name = api, node_name
        self._path = paths.hypervisor(node_name)
        self._lock = threading.Lock()
        self._raw: Json = {}
        """The object as the API server last returned it. Empty if it was not read yet or does not exist."""

    def is_current(self, raw: Json) -> bool:
        """Whether an object from the watch is the version that the API server last returned. Sends no request."""
        with self._lock:
            return raw == self._raw

    def read(self) -> Hypervisor | None:
        """Read the object. Return None if it does not exist.

        Raises Unserved if the API server does not know Hypervisor, Forbidden, Transient, Rejected.
        """
        try:
            return self._stored(retry.call(self._api.request, "GET", self._path))
        except Vanished:
            self._store({})
            return None
        except Unserved:
            self._check_unserved()
            self._store({})
            raise

    def create(self) -> Hypervisor:
        """Create the object with an empty spec.

        Raises Conflicted if it exists, Unserved, Forbidden, Transient, Rejected.
        """
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": HYPERVISOR_KIND,
            "metadata": {"name": self.name},
            "spec": {},
        }
        return self._stored(retry.call(self._api.request, "POST", paths.HYPERVISORS, body, fieldManager=AGENT))

    def differs(self, status: HypervisorStatus) -> bool:
        """Whether `report` would write this status. Sends no request."""
        return hypervisor_status_patch(self._raw.get("status") or {}, status) is not None

    def report(self, status: HypervisorStatus) -> Hypervisor:
        """Write the agent's fields of the status that differ, and return the object as written.

        Raises Conflicted if the object has changed since it was read, Vanished, Forbidden, Transient, Rejected.
        """
        patch = hypervisor_status_patch(self._raw.get("status") or {}, status)
        if patch is None:
            return parse_hypervisor(self._raw)
        version = self._raw["metadata"]["resourceVersion"]
        answer = retry.call(
            self._api.request,
            "PATCH",
            f"{self._path}/status",
            {"metadata": {"resourceVersion": version}, "status": patch},
            content_type=MERGE_PATCH,
            fieldManager=AGENT,
        )
        return self._stored(answer)

    def _check_unserved(self) -> None:
        """Raise Transient if the API server does know Hypervisor. An answer of a proxy must not pass for its absence.

        Also raises Forbidden, Rejected.
        """
        try:
            known = retry.call(self._api.request, "GET", paths.RESOURCES).get("resources", [])
        except Unserved:
            return
        if any(one.get("name") == HYPERVISOR_PLURAL for one in known):
            raise Transient(f"the API server answers 404 for {self._path}, although it knows {HYPERVISOR_KIND}")

    def _stored(self, raw: Json) -> Hypervisor:
        self._store(raw)
        return parse_hypervisor(raw)

    def _store(self, raw: Json) -> None:
        with self._lock:
            self._raw = raw

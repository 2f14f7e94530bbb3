"""An API server that keeps VirtualMachines in memory; tests/contract asks the real one the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from controller.api.names import KIND, PLURAL
from controller.api.virtualmachine import VmKey
from controller.runtime.errors import Behind, Conflicted, Vanished

Json = dict[str, Any]
State = tuple[int, dict[VmKey, Json]]
"""A resource version, and the objects at this version."""

CRD = yaml.safe_load((Path(__file__).parents[2] / "deploy/crds/virtsync.dev_virtualmachines.yaml").read_text())
NEW_STATUS: Json = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]


class SimulatedApi:
    """What `kube.config.Api` is to the store: one request, one answer."""

    def __init__(self, wall: Callable[[], datetime]) -> None:
        self.objects: dict[VmKey, Json] = {}
        """As they are now. An object is replaced and never changed, so that who holds one holds that version."""
        self._wall = wall
        self._versions = 0
        self.cache: State | None = None
        """What the watch cache has; None: the present state."""

    def create(self, key: VmKey, spec: Json) -> None:
        """What a user creates."""
        self._put(
            key,
            {
                "metadata": {
                    "namespace": key.namespace,
                    "name": key.name,
                    "uid": f"{key.name}-{self._versions}",
                    "creationTimestamp": f"{self._wall():%Y-%m-%dT%H:%M:%SZ}",
                    "generation": 1,
                },
                "spec": spec,
                "status": NEW_STATUS,
            },
        )

    def edit(self, key: VmKey, spec: Json, annotations: Json | None = None) -> None:
        """Merge into the spec, and into the annotations, as a user may."""
        old = self.objects[key]
        new = copy.deepcopy(old)
        new["spec"] = merged(new["spec"], spec)
        new["metadata"]["annotations"] = merged(new["metadata"].get("annotations") or {}, annotations or {})
        new["metadata"]["generation"] += new["spec"] != old["spec"]
        if new != old:
            self._put(key, new)

    def delete(self, key: VmKey) -> Json:
        """The user wants no object of it any more. Returns what a watch then shows."""
        self._versions += 1
        old = self.objects.pop(key)
        return old | {"metadata": old["metadata"] | {"resourceVersion": str(self._versions)}}

    def write_status(self, key: VmKey, status: Json) -> None:
        """Merge into the status, as another writer may."""
        old = self.objects[key]
        self._put(key, copy.deepcopy(old) | {"status": merged(old["status"], status)})

    def status(self, key: VmKey) -> Json:
        """The status as it is now."""
        status: Json = self.objects[key]["status"]
        return status

    def restore(self, objects: dict[VmKey, Json]) -> None:
        """Be as a backup was: with these objects, and with versions that are given out once more."""
        self.objects = dict(objects)
        self._versions = max((int(raw["metadata"]["resourceVersion"]) for raw in objects.values()), default=0)

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Json:
        """GET of an object or of those of one node; PATCH of a status. Raises Conflicted, Vanished."""
        if path.endswith(PLURAL):
            return self._list(query["fieldSelector"].removeprefix("spec.nodeName="), query.get("resourceVersion"))
        namespace, _, name = path.partition("/namespaces/")[2].removesuffix("/status").split("/")
        key = VmKey(namespace, name)
        old = self.objects.get(key)
        if old is None:
            raise Vanished(f"{key} not found")
        if method == "GET":
            return old
        assert (method, content_type) == ("PATCH", "application/merge-patch+json")
        assert path.endswith("/status")
        assert body is not None
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise Conflicted("the object has been modified")
        new = copy.deepcopy(old) | {"status": merged(old.get("status") or {}, body["status"])}
        if new != old:
            self._put(key, new)
        return self.objects[key]

    def request_text(self, method: str, path: str, body: Json | None = None, **query: str) -> bytes:
        """The same as JSON."""
        return json.dumps(self.request(method, path, body, **query)).encode()

    def state(self) -> State:
        """The present state."""
        return self._versions, dict(self.objects)

    def _list(self, node: str, at_least: str | None) -> Json:
        version, objects = self.state() if at_least is None or self.cache is None else self.cache
        if version < int(at_least or 0):
            raise Behind(f"Too large resource version: {at_least}, current: {version}")
        items = [raw for raw in objects.values() if raw["spec"].get("nodeName") == node]
        return {"kind": f"{KIND}List", "metadata": {"resourceVersion": str(version)}, "items": items}

    def _put(self, key: VmKey, raw: Json) -> None:
        self._versions += 1
        raw["metadata"]["resourceVersion"] = str(self._versions)
        self.objects[key] = raw


def merged(old: Json, patch: Json) -> Json:
    """A merge patch, applied (RFC 7386)."""
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            inner = new.get(name)
            new[name] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            new[name] = value
    return new

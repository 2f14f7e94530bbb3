"""The requests of the commands that only read: VirtualMachines, Hypervisors and Events, as the API server has them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from controller.api.json_mapping import Json
from controller.api.names import KIND
from controller.api.tables import TABLE, rows
from controller.api.virtualmachine import VmKey
from controller.kube import paths
from controller.kube.client import Api
from controller.kube.collection import items, pages
from controller.runtime.errors import Rejected

PAGE, HYPERVISORS_PAGE, NAMES_PAGE = 500, 100, 10_000
"""The objects in one answer to a list. A VirtualMachine has about 2 kB, a Hypervisor up to 60, a name in a row 0.2."""


class Reads:
    """Reads objects as JSON. Thread-safe. Each method raises Transient or Rejected if a request fails; none retries."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def virtual_machines(self, namespace: str | None, selector: str = "") -> Iterator[Json]:
        """Yield the VirtualMachines of a namespace (None: of all) that have these labels. Requests page by page."""
        where = paths.virtual_machines(namespace) if namespace else paths.VIRTUAL_MACHINES
        return self._objects(where, PAGE, labelSelector=selector)

    def virtual_machine(self, key: VmKey) -> Json:
        """Return this object. Raises Vanished if there is none."""
        return self._api.request("GET", paths.virtual_machine(key))

    def hypervisors(self, selector: str = "") -> Iterator[Json]:
        """Yield the Hypervisors that have these labels. Requests page by page."""
        return self._objects(paths.HYPERVISORS, HYPERVISORS_PAGE, labelSelector=selector)

    def hypervisor(self, name: str) -> Json:
        """Return the Hypervisor of this node. Raises Vanished if there is none."""
        return self._api.request("GET", paths.hypervisor(name))

    def pods(self, namespace: str, selector: str) -> Iterator[Json]:
        """Yield the Pods of a namespace that have these labels. Requests page by page."""
        return self._objects(paths.pods(namespace), PAGE, labelSelector=selector)

    def names(self, path: str) -> Iterator[str]:
        """Yield the names of the objects of a collection. Requests page by page, without the objects themselves."""
        for page in pages(self._api.request, path, accept=TABLE, limit=str(NAMES_PAGE), includeObject="None"):
            try:
                yield from (name for (name,) in rows(page, ["Name"]))
            except ValueError as error:
                raise Rejected(str(error)) from error

    def events(self, key: VmKey) -> Iterator[Json]:
        """Yield the Events (events.k8s.io/v1) about a VirtualMachine of this name, also about a deleted one."""
        where = f"/apis/events.k8s.io/v1/namespaces/{quote(key.namespace)}/events"
        return self._objects(where, PAGE, fieldSelector=f"regarding.kind={KIND},regarding.name={key.name}")

    def _objects(self, path: str, limit: int, **query: str) -> Iterator[Json]:
        given = {name: value for name, value in query.items() if value}
        for page in pages(self._api.request, path, limit=str(limit), **given):
            # The items of a list have no kind.
            kind = {"apiVersion": page.get("apiVersion"), "kind": str(page.get("kind", "")).removesuffix("List")}
            yield from (kind | raw for raw in items(page))

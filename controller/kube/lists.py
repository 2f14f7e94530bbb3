"""The manager's requests: lists of Leases, VirtualMachines and Hypervisors, and patches of the conditions of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from controller.api.codec import parse
from controller.api.hypervisor import Hypervisor
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.json_mapping import Json
from controller.api.names import MANAGER
from controller.api.tables import TABLE, rows
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.fleet.silence import AgentLease
from controller.kube import paths
from controller.kube.client import JSON, MERGE_PATCH, Api
from controller.kube.collection import items, pages
from controller.kube.lease import COMPONENT_LABEL
from controller.kube.lease_fields import lease_fields
from controller.runtime.errors import Rejected, Vanished

PAGE = 500
"""How many VirtualMachines, of about 2 kB each, are in one page of a list of those of a node or a UUID."""
WHOLE_LIST_S = 60.0
"""How long the answer to a list of all objects may take to begin. The API server gives up after the same time."""


class FleetRequests:
    """Reads and writes what the manager needs of all nodes. Thread-safe.

    Each method raises Transient or Rejected if a request fails. None retries: its caller asks again later.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def leases(self, namespace: str) -> dict[str, AgentLease]:
        """Return the Leases of all agents in this namespace, by the names of their nodes.

        The request has no resourceVersion, so the API server answers with the present state, never with a stale cache.
        """
        answer = self._api.request("GET", paths.leases(namespace), labelSelector=f"{COMPONENT_LABEL}=agent")
        return {raw["metadata"]["name"]: _agent_lease(raw) for raw in items(answer)}

    def virtual_machines(self, *, node_name: str) -> Iterator[VirtualMachine]:
        """Yield the VirtualMachines with this `spec.nodeName`. Sends a request for each page."""
        return self._virtual_machines(f"spec.nodeName={node_name}")

    def virtual_machines_of(self, uuid: UUID) -> Iterator[VirtualMachine]:
        """Yield the VirtualMachines that have this UUID of a domain in their status. Sends a request for each page."""
        return self._virtual_machines(f"status.domain.uuid={uuid}")

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield the texts of these columns for each VirtualMachine.

        With 100,000 VirtualMachines the answer has 20 MB and takes the API server 5 to 13 s (measured, ADR 040).
        """
        table = self._everything(paths.VIRTUAL_MACHINES, accept=TABLE)
        try:
            yield from rows(table, columns)
        except ValueError as error:
            raise Rejected(str(error)) from error

    def virtual_machine(self, key: VmKey) -> VirtualMachine | None:
        """Return this object; None: there is none."""
        try:
            return parse(self._api.request("GET", paths.virtual_machine(key)))
        except Vanished:
            return None

    def hypervisors(self, known: Mapping[str, Hypervisor] | None = None) -> Iterator[Hypervisor]:
        """Yield all Hypervisors.

        `known` are earlier ones by name. Those that have not changed are yielded again, which saves 0.25 ms for a
        Hypervisor with 50 domains (measured).
        """
        for raw in items(self._everything(paths.HYPERVISORS)):
            meta = raw["metadata"]
            before = (known or {}).get(meta["name"])
            same = before is not None and before.resource_version == meta["resourceVersion"]
            yield before if before and same else parse_hypervisor(raw)

    def hypervisor(self, name: str) -> Json | None:
        """Return the JSON of the Hypervisor of this node; None: there is none."""
        try:
            return self._api.request("GET", paths.hypervisor(name))
        except Vanished:
            return None

    def patch_vm(self, vm: VirtualMachine, status: Json) -> None:
        """Merge these fields into the status of this version of the object.

        Raises Conflicted if the object has changed, Vanished if it was deleted.
        """
        self._patch(paths.virtual_machine(vm.key), vm.resource_version, status)

    def patch_hypervisor(self, hypervisor: Hypervisor, status: Json) -> None:
        """Merge these fields into the status of this version of the Hypervisor. Raises as `patch_vm`."""
        self._patch(paths.hypervisor(hypervisor.name), hypervisor.resource_version, status)

    def _everything(self, path: str, *, accept: str = JSON) -> Json:
        """Return one list of all objects of a collection, in their present state; a Table has no objects.

        Pages would be expensive: the API server decodes each page after the first from etcd. A list without a version
        would be too, if the watch cache is behind. A list of one object returns the present version, and the whole list
        must be at least that new. Then the API server answers from its watch cache, or refuses (ADR 040).
        """
        first = self._api.request("GET", path, limit="1")
        items(first)  # raises Transient
        present = first["metadata"]["resourceVersion"]
        return self._api.request(
            "GET",
            path,
            accept=accept,
            read_timeout_s=WHOLE_LIST_S,
            resourceVersion=present,
            resourceVersionMatch="NotOlderThan",
            includeObject="None",  # only a Table could include them
        )

    def _virtual_machines(self, selector: str) -> Iterator[VirtualMachine]:
        for page in pages(self._api.request, paths.VIRTUAL_MACHINES, limit=str(PAGE), fieldSelector=selector):
            yield from map(parse, items(page))

    def _patch(self, path: str, resource_version: str, status: Json) -> None:
        self._api.request(
            "PATCH",
            f"{path}/status",
            {"metadata": {"resourceVersion": resource_version}, "status": status},
            content_type=MERGE_PATCH,
            fieldManager=MANAGER,
        )


def _agent_lease(raw: Json) -> AgentLease:
    fields = lease_fields(raw)
    return AgentLease(fields.holder, fields.renewed, float(fields.duration_s) if fields.duration_s else None)

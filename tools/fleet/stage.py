"""What the fleet needs before it can start: rights, flow control, and the objects in the API server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import yaml

from fleet.client import Client, Login
from fleet.objects import (
    HYPERVISORS,
    LEASE_NAMESPACE,
    LEASES,
    NAMESPACES,
    hypervisor,
    hypervisor_status,
    lease,
    namespace,
    node_names,
    vm,
    vm_names,
    vm_path,
    vm_status,
)
from lab.controlplane import ControlPlane

BASE = Path(__file__).parents[2] / "deploy" / "base"
AGENT_ACCOUNT, MANAGER_ACCOUNT = "virtsync-agent", "virtsync-manager"
RIGHTS = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount", "Namespace"}
FLOW_CONTROL = {"FlowSchema", "PriorityLevelConfiguration"}
AT_ONCE = 16
"""How many objects are written at the same time."""

Json = dict[str, Any]


class Stage:
    """The API server, and what is installed in it. Blocks while it works."""

    def __init__(self, controlplane: ControlPlane) -> None:
        self.controlplane = controlplane
        rendered = controlplane.kubectl("kustomize", str(BASE)).stdout
        self._manifests: list[Json] = [one for one in yaml.safe_load_all(rendered) if one]

    def prepare(self) -> None:
        """Install the definitions, the rights and the flow control. The admission policies are left out."""
        self.controlplane.install_crds()
        self.controlplane.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
        namespaces = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(n)}} for n in range(NAMESPACES)
        ]
        self._apply([*namespaces, *self._of(RIGHTS)])
        self.set_flow_control(on=True)

    def set_flow_control(self, *, on: bool) -> bool:
        """Install the FlowSchemas and priority levels, or delete them; whether there are any."""
        found = self._of(FLOW_CONTROL)
        if found:
            self._apply(found) if on else self._delete(found)
        return bool(found)

    def set_agents_rights(self, *, on: bool) -> None:
        """Give the agents their rights, or take all of them away."""
        bindings = [
            one
            for one in self._of({"ClusterRoleBinding", "RoleBinding"})
            if any(subject["name"] == AGENT_ACCOUNT for subject in one["subjects"])
        ]
        self._apply(bindings) if on else self._delete(bindings)

    def administrator(self) -> Login:
        """Who may do everything, and is exempt from flow control."""
        return self._login(self.controlplane.token)

    def agents(self) -> Login:
        """The ServiceAccount of the agents."""
        config = json.loads(self.kubeconfig(AGENT_ACCOUNT).read_text())
        return self._login(config["users"][0]["user"]["token"])

    def kubeconfig(self, account: str) -> Path:
        """A kubeconfig of a ServiceAccount of virtsync."""
        return self.controlplane.service_account(LEASE_NAMESPACE, account)

    def _login(self, token: str) -> Login:
        return Login(self.controlplane.url, ssl.create_default_context(cafile=self.controlplane.ca), token)

    def _of(self, kinds: set[str]) -> list[Json]:
        return [one for one in self._manifests if one["kind"] in kinds]

    def _apply(self, items: list[Json]) -> None:
        self.controlplane.kubectl("apply", "-f", "-", input=_list_of(items))

    def _delete(self, items: list[Json]) -> None:
        self.controlplane.kubectl("delete", "--ignore-not-found", "-f", "-", input=_list_of(items))


def _list_of(items: list[Json]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


async def create_vms(client: Client, nodes: int, vms: int, progress: Callable[[int], None]) -> None:
    """Create the VirtualMachines without a status. `progress` is called after each. Raises Failed."""
    names = node_names(nodes)

    async def create(number: int, name: str) -> None:
        await client.send("create", "POST", vm_path(name, collection=True), vm(name, names[number % nodes]))

    await _at_once((create(*one) for one in enumerate(vm_names(vms))), progress)


async def report_vms(client: Client, nodes: int, vms: int, progress: Callable[[int], None]) -> None:
    """Write the status of every VirtualMachine. Raises Failed."""
    names = node_names(nodes)

    async def report(number: int, name: str) -> None:
        patch = {"status": vm_status(name, names[number % nodes])}
        await client.send("report", "PATCH", f"{vm_path(name)}/status", patch, fieldManager=AGENT_ACCOUNT)

    await _at_once((report(*one) for one in enumerate(vm_names(vms))), progress)


async def create_nodes(client: Client, nodes: int, vms: int, lease_duration_s: float) -> None:
    """Create a Hypervisor with its status, and a Lease, for each node. Raises Failed."""

    async def create(name: str) -> None:
        await client.send("create", "POST", HYPERVISORS, hypervisor(name))
        status = {"status": hypervisor_status(name, vms // nodes)}
        await client.send("report", "PATCH", f"{HYPERVISORS}/{name}/status", status, fieldManager=AGENT_ACCOUNT)
        await client.send("create", "POST", LEASES, lease(name, lease_duration_s, {}))

    await _at_once((create(name) for name in node_names(nodes)), lambda _: None)


async def _at_once(works: Iterable[Coroutine[Any, Any, None]], progress: Callable[[int], None]) -> None:
    """Do these works, `AT_ONCE` at a time. The first failure ends all of them."""
    left, done = iter(works), 0

    async def work() -> None:
        nonlocal done
        for one in left:
            await one
            done += 1
            progress(done)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())

"""The objects of the fleet as JSON: VirtualMachines, Hypervisors and Leases, as full as those of a real host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from controller import __version__
from controller.api.clock import api_time, micro_time
from controller.api.codec import render_status
from controller.api.hypervisor import HypervisorReason
from controller.api.names import AGENT, GROUP, HYPERVISOR_KIND, HYPERVISOR_PLURAL, KIND, PLURAL, VERSION
from controller.api.virtualmachine import (
    Condition,
    DesiredPowerState,
    DomainRecord,
    PowerState,
    Reason,
    Status,
)

NAMESPACES = 10
"""The VMs are in this number of namespaces."""
LEASE_NAMESPACE = "virtsync-system"
API = f"/apis/{GROUP}/{VERSION}"
VIRTUAL_MACHINES = f"{API}/{PLURAL}"
HYPERVISORS = f"{API}/{HYPERVISOR_PLURAL}"
LEASE_LABELS = {
    "app.kubernetes.io/name": "virtsync",
    "app.kubernetes.io/component": "agent",
    "app.kubernetes.io/part-of": "virtsync",
}
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"

Json = dict[str, Any]


def node_names(nodes: int) -> list[str]:
    """The names of the nodes."""
    return [f"node-{number:04}" for number in range(nodes)]


def vm_names(vms: int) -> list[str]:
    """The VMs as `namespace/name`."""
    return [f"{namespace(number)}/vm-{number:06}" for number in range(vms)]


def namespace(number: int) -> str:
    """The namespace of the VM with this number."""
    return f"fleet-{number % NAMESPACES}"


def vm_path(vm: str, *, collection: bool = False) -> str:
    """The path of a VM (`namespace/name`), or of the collection in which it is."""
    where, _, name = vm.partition("/")
    return f"{API}/namespaces/{where}/{PLURAL}" + ("" if collection else f"/{name}")


def vm(name: str, node: str) -> Json:
    """A VirtualMachine without a status; `name` is `namespace/name`."""
    where, _, short = name.partition("/")
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": short, "namespace": where, "labels": {"app.kubernetes.io/part-of": "shop"}},
        "spec": {
            "nodeName": node,
            "domain": {"uuid": str(uuid5(NAMESPACE_URL, name))},
            "powerState": "Running",
            "shutdown": {"gracePeriodSeconds": 300},
        },
    }


def vm_status(name: str, node: str, *, power: PowerState = PowerState.RUNNING) -> Json:
    """The status of a VM that is as its spec asks. `power` differs from one report to the next."""
    now = datetime.now(UTC)
    past = now.replace(microsecond=0) - timedelta(days=1)
    ready = Condition("Ready", "True", Reason.IN_SYNC, "The VM is as its spec asks.", now, 1)
    status = Status(
        observed_generation=1,
        node_name=node,
        node_boot_id=str(uuid5(NAMESPACE_URL, f"boot of {node}")),
        host_uuid=uuid5(NAMESPACE_URL, node),
        desired=DesiredPowerState.RUNNING,
        power_state=power,
        power_state_transition_time=now,
        run_transition_time=past,
        decided_reason=Reason.IN_SYNC,
        libvirt_state="RUNNING",
        libvirt_reason="BOOTED",
        domain=DomainRecord(
            name.partition("/")[2], uuid5(NAMESPACE_URL, name), "uuid", id=7, persistent=True, autostart=False
        ),
        conditions=(ready,),
    )
    return render_status(status)


def hypervisor(node: str) -> Json:
    """A Hypervisor as its agent creates it."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": HYPERVISOR_KIND,
        "metadata": {"name": node},
        "spec": {},
    }


def hypervisor_status(node: str, vms: int) -> Json:
    """The status of a Hypervisor whose agent works."""
    counts = {"total": vms, "running": vms}
    return {
        "observedGeneration": 1,
        "leaseNamespace": LEASE_NAMESPACE,
        "nodeBootID": str(uuid5(NAMESPACE_URL, f"boot of {node}")),
        "agentVersion": __version__,
        "libvirtVersion": "9.0.0",
        "qemuVersion": "7.2.0",
        "capacity": {"cpus": 64, "memoryMiB": 262144},
        "domains": counts,
        "virtualMachines": counts | {"notReady": 0},
        "unmanaged": {"total": 0, "running": 0, "domains": []},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": HypervisorReason.ACTIVE,
                "message": "The agent observes and switches the VMs of this host.",
                "lastTransitionTime": api_time(datetime.now(UTC)),
            }
        ],
    }


def lease(node: str, duration_s: float, old: Json) -> Json:
    """The Lease of a node as its agent writes it now; `old`: as it is, with its resource version."""
    renewed = micro_time(datetime.now(UTC))
    spec = {"holderIdentity": f"{AGENT}-{node}", "leaseDurationSeconds": int(duration_s), "renewTime": renewed}
    return old | {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": old.get("metadata", {}) | {"name": node, "namespace": LEASE_NAMESPACE, "labels": LEASE_LABELS},
        "spec": {"acquireTime": renewed, "leaseTransitions": 0} | old.get("spec", {}) | spec,
    }


def ready_reason(item: Json) -> str:
    """The reason of the condition Ready."""
    conditions = item.get("status", {}).get("conditions", ())
    return next((str(one["reason"]) for one in conditions if one["type"] == "Ready"), "")

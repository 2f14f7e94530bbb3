"""VirtualMachines and Hypervisors with a status, as agents would have written them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from controller import __version__
from controller.api.clock import api_time
from controller.api.codec import render_status
from controller.api.conditions import READINESS
from controller.api.names import GROUP, HOLD_PREFIX, HYPERVISOR_KIND, KIND, VERSION
from controller.api.virtualmachine import (
    Condition,
    DesiredPowerState,
    DomainRecord,
    LastStop,
    PowerState,
    Reason,
    Status,
    StopCause,
    VmKey,
)
from controller.kube import paths
from controller.kube.client import MERGE_PATCH, Api
from lab.controlplane import ControlPlane

API_VERSION = f"{GROUP}/{VERSION}"
AT_A_TIME = 8
"""Requests at a time."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM, and what its agent says about it."""

    namespace: str
    name: str
    node: str
    reason: Reason = Reason.IN_SYNC
    power: PowerState = PowerState.RUNNING
    desired: DesiredPowerState | None = DesiredPowerState.RUNNING
    message: str = "The VM is as its spec asks."
    minutes: float = 60 * 24 * 9
    """For how long it has had this reason."""
    stop: tuple[StopCause, float, str] | None = None
    """The cause of its last stop, how many minutes ago it was, and what the agent says about it."""
    restarts: int = 0
    holds: dict[str, str] = field(default_factory=dict)

    def manifest(self) -> Json:
        """The object without its status."""
        spec = {"nodeName": self.node} | ({"powerState": str(self.desired)} if self.desired else {})
        holds = {f"{HOLD_PREFIX}{who}": why for who, why in self.holds.items()}
        metadata = {"name": self.name, "namespace": self.namespace, "annotations": holds}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}

    def status(self, now: datetime) -> Json:
        """The status."""
        begun = now - timedelta(minutes=self.minutes)
        ready = Condition("Ready", READINESS[self.reason].value[0], self.reason, self.message, begun, 1)
        stop = None
        if self.stop:
            cause, minutes, message = self.stop
            stop = LastStop(cause, now - timedelta(minutes=minutes), message)
        uuid = uuid5(NAMESPACE_URL, f"{self.namespace}/{self.name}")
        status = Status(
            observed_generation=1,
            node_name=self.node,
            node_boot_id=str(uuid5(NAMESPACE_URL, self.node)),
            host_uuid=uuid5(NAMESPACE_URL, self.node),
            desired=self.desired,
            power_state=self.power,
            power_state_transition_time=begun,
            run_transition_time=begun,
            decided_reason=self.reason,
            decided_transition_time=begun,
            libvirt_state="RUNNING",
            libvirt_reason="BOOTED",
            domain=DomainRecord(self.name, uuid, self.name, id=7, persistent=True, autostart=False),
            last_stop=stop,
            restart_count=self.restarts,
            conditions=(ready,),
        )
        return render_status(status)


@dataclass(frozen=True, slots=True)
class Host:
    """A host, and what its agent says about it."""

    name: str
    vms: int = 0
    running: int = 0
    not_ready: int = 0
    unmanaged: int = 0
    reason: str = "Active"
    message: str = "The agent observes and switches the VMs of this host."
    minutes: float = 60 * 24 * 12
    maintenance: tuple[str, str] | None = None
    """The mode and the reason of a maintenance that is in force."""

    def manifest(self) -> Json:
        """The object without its status."""
        mode = self.maintenance
        spec = {"maintenance": {"mode": mode[0], "reason": mode[1]}} if mode else {}
        return {"apiVersion": API_VERSION, "kind": HYPERVISOR_KIND, "metadata": {"name": self.name}, "spec": spec}

    def status(self, now: datetime) -> Json:
        """The status."""
        begun = api_time((now - timedelta(minutes=self.minutes)).replace(microsecond=0))
        ready = "True" if self.reason == "Active" else "Unknown"
        conditions = [_condition("Ready", ready, self.reason, self.message, begun)]
        progress: Json = {}
        if self.maintenance:
            conditions.append(_condition("Quiesced", "True", "Quiet", "No action is under way.", begun))
            progress = {"maintenance": {"startTime": begun, "remaining": self.running}}
        return progress | {
            "observedGeneration": 1,
            "leaseNamespace": "virtsync-system",
            "nodeBootID": str(uuid5(NAMESPACE_URL, self.name)),
            "agentVersion": __version__,
            "libvirtVersion": "9.0.0",
            "qemuVersion": "7.2.0",
            "capacity": {"cpus": 64, "memoryMiB": 262144},
            "domains": {"total": self.vms + self.unmanaged, "running": self.running},
            "virtualMachines": {"total": self.vms, "running": self.running, "notReady": self.not_ready},
            "unmanaged": {"total": self.unmanaged, "running": 0, "domains": []},
            "conditions": conditions,
        }


def _condition(kind: str, status: str, reason: str, message: str, time: str) -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time}


def create(controlplane: ControlPlane, api: Api, vms: Iterable[Vm], hosts: Iterable[Host]) -> None:
    """Create all these objects, and write their status."""
    now = datetime.now(UTC).replace(microsecond=0)
    every = list(vms)
    for namespace in sorted({vm.namespace for vm in every}):
        controlplane.kubectl("create", "namespace", namespace)

    def write(collection: str, path: str, one: Vm | Host) -> None:
        api.request("POST", collection, one.manifest())
        api.request("PATCH", f"{path}/status", {"status": one.status(now)}, content_type=MERGE_PATCH)

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        done = [threads.submit(write, paths.HYPERVISORS, paths.hypervisor(host.name), host) for host in hosts]
        for vm in every:
            path = paths.virtual_machine(VmKey(vm.namespace, vm.name))
            done.append(threads.submit(write, paths.virtual_machines(vm.namespace), path, vm))
        for one in done:
            one.result()


def fleet(vms: int) -> tuple[list[Vm], list[Host]]:
    """A fleet of this size, 50 VMs on each host, of which 1 in 100 is not as wanted."""
    hosts = max(1, vms // 50)
    made = []
    for number in range(vms):
        place = f"team-{number % 20:02}", f"vm-{number:05}", f"node-{number % hosts:03}"
        held = number % 100 == 0
        made.append(Vm(*place, Reason.HELD, PowerState.STOPPED, message="backup holds it.") if held else Vm(*place))
    return made, [Host(f"node-{number:03}", vms=50, running=50, not_ready=1) for number in range(hosts)]

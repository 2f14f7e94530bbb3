"""The inventory of one host: how many domains and VMs it has, and which domains no VirtualMachine refers to. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from controller.api.hypervisor import LISTED_LIMIT, DomainCounts, Unmanaged, UnmanagedDomain, VmCounts
from controller.api.names import ConditionType
from controller.api.virtualmachine import PowerState, VirtualMachine


@dataclass(frozen=True, slots=True)
class ListedDomain:
    """A domain in a list of libvirt."""

    uuid: UUID
    name: str
    power_state: PowerState
    on: bool
    """Whether the domain has a QEMU."""
    reason: str
    """libvirt's reason for the state, such as BOOTED."""
    transient: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one list of libvirt shows, compared with the objects of the node."""

    domains: DomainCounts
    managed: DomainCounts
    """Those of `domains` that the report of an object shows."""
    unmanaged: Unmanaged


def take_inventory(
    domains: Collection[ListedDomain],
    managed: Collection[UUID],
    *,
    names: bool = True,
    ignored: re.Pattern[str] | None = None,
) -> Inventory:
    """Count the domains of a list, and list those that the report of no object shows.

    `managed` has the UUIDs of the other domains (`managed_by`). If `names` is False, the unmanaged domains are only
    counted. Domains whose whole name matches `ignored` are counted in `domains` alone.
    """
    offered = [
        domain for domain in domains if domain.uuid not in managed and not (ignored and ignored.fullmatch(domain.name))
    ]
    listed = sorted(offered, key=lambda domain: (not domain.on, domain.name, domain.uuid))[:LISTED_LIMIT]
    if not names:
        listed = []
    return Inventory(
        domains=_counted(domains),
        managed=_counted([domain for domain in domains if domain.uuid in managed]),
        unmanaged=Unmanaged(
            total=len(offered),
            running=sum(domain.on for domain in offered),
            truncated=len(listed) < len(offered),
            domains=tuple(
                UnmanagedDomain(domain.uuid, domain.name, domain.power_state, domain.reason, domain.transient)
                for domain in listed
            ),
        ),
    )


def observed(vms: Iterable[VirtualMachine], node_name: str) -> Iterator[VirtualMachine]:
    """Yield the objects whose reports the agent of this node keeps up to date. Those of others can be of any age.

    The agent does not report on an object that is being deleted, or whose spec it does not understand.
    """
    for vm in vms:
        if vm.status.node_name == node_name and not vm.deleting and not vm.misunderstood:
            yield vm


def managed_by(vms: Iterable[VirtualMachine], node_name: str) -> set[UUID]:
    """Return the UUIDs of the domains that the reports of these objects show.

    A domain to which an object refers is not among them before the object has a report about it: until then, only the
    list of unmanaged domains shows the manager that the domain runs.
    """
    records = (vm.status.domain for vm in observed(vms, node_name))
    return {record.uuid for record in records if record and record.uuid}


def count_vms(vms: Iterable[VirtualMachine], node_name: str) -> VmCounts:
    """Count the objects of the node by their reports.

    A VM whose last report is by another node does not count as running here.
    """
    of_node = [vm for vm in vms if not vm.deleting]
    return VmCounts(
        total=len(of_node),
        running=sum(vm.status.was_on and vm.status.node_name == node_name for vm in of_node),
        not_ready=sum(not _is_ready(vm) for vm in of_node),
    )


def has_open_start(vms: Iterable[VirtualMachine], node_name: str) -> bool:
    """Whether this node has recorded a start whose result is not known yet."""
    return any(vm.status.operation is not None and vm.status.operation.starts for vm in observed(vms, node_name))


def _counted(domains: Collection[ListedDomain]) -> DomainCounts:
    return DomainCounts(len(domains), sum(domain.on for domain in domains))


def _is_ready(vm: VirtualMachine) -> bool:
    ready = vm.status.condition(ConditionType.READY)
    return ready is not None and ready.status == "True"

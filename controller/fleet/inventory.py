"""The inventory of one host: how many domains and VMs it has, and which domains no VirtualMachine refers to. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
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
    """Those of `domains` that belong to an object."""
    unmanaged: Unmanaged


def take_inventory(
    domains: Collection[ListedDomain],
    managed: Collection[UUID],
    *,
    names: bool = True,
    ignored: re.Pattern[str] | None = None,
) -> Inventory:
    """Count the domains of a list, and list those that belong to no object.

    `managed` has the UUIDs of the domains that belong to an object of the node. If `names` is False, the unmanaged
    domains are only counted. Domains whose whole name matches `ignored` are counted in `domains` alone.
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
    return any(
        vm.status.operation is not None and vm.status.operation.starts and vm.status.node_name == node_name
        for vm in vms
    )


def _counted(domains: Collection[ListedDomain]) -> DomainCounts:
    return DomainCounts(len(domains), sum(domain.on for domain in domains))


def _is_ready(vm: VirtualMachine) -> bool:
    ready = vm.status.condition(ConditionType.READY)
    return ready is not None and ready.status == "True"

"""Which nodes there should be, and how many VMs each has, from lists of all objects. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.api.hypervisor import Hypervisor


@dataclass(frozen=True, slots=True)
class Census:
    """What the lists of all Hypervisors and VirtualMachines have shown."""

    expected: frozenset[str]
    """The nodes that should have a Lease in the manager's namespace: their Hypervisor says so, or a VirtualMachine
    names a node that has no Hypervisor."""
    no_lease_here: frozenset[str]
    """The nodes whose Hypervisor says that their agent has its Lease in another namespace, or has none. A Lease in this
    one is left over."""
    maintenance: Mapping[str, str]
    """The mode of the maintenance, by node; only nodes that are in one."""
    vms: Mapping[str, int]
    """The number of VirtualMachines by `spec.nodeName`."""


def vms_by_node(nodes: Iterable[str]) -> Counter[str]:
    """Count the VirtualMachines of each node. `nodes` has `spec.nodeName` of each; an empty one does not count."""
    return Counter(filter(None, nodes))


def census(hypervisors: Iterable[Hypervisor], vms: Mapping[str, int], namespace: str) -> Census:
    """Return the census of these objects. `vms` is what `vms_by_node` has counted.

    `namespace` is the namespace of the Leases that the manager lists.
    """
    lease_namespaces: dict[str, str] = {}
    no_lease_here: set[str] = set()
    maintenance: dict[str, str] = {}
    for hypervisor in hypervisors:
        lease_namespaces[hypervisor.name] = hypervisor.status.lease_namespace
        if hypervisor.status.has_no_lease_in(namespace):
            no_lease_here.add(hypervisor.name)
        if hypervisor.maintenance:
            maintenance[hypervisor.name] = hypervisor.maintenance.mode.value
    ours = {node for node, where in lease_namespaces.items() if where == namespace}
    expected = ours | (vms.keys() - lease_namespaces.keys())
    return Census(frozenset(expected), frozenset(no_lease_here), maintenance, vms)

"""What the rows of all VMs show that no agent reports: nodes without a Lease, VMs without a node, UUIDs on two nodes.

Pure. The rows are those of a Table, so they can show a few VMs that do not belong to a finding, but miss none. Exact
requests follow for what was found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controller.api.json_mapping import Json, as_uuid
from controller.api.names import ConditionType
from controller.api.virtualmachine import Reason, VirtualMachine
from controller.fleet.marking import unknown

COLUMNS = ("Node", "UUID", "Reason")
"""The columns of a VirtualMachine that `find` reads."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one sweep found."""

    vms: int
    """The number of all VMs."""
    uuids: frozenset[UUID]
    """The UUIDs of all domains that a VM has in its status."""
    without_lease: frozenset[str]
    """The nodes to which VMs are bound and that have no Lease."""
    without_node: int
    """How many VMs were reported by an agent, and are not bound to a node any more."""
    on_two_nodes: frozenset[UUID]
    """The UUIDs of the VMs that are bound to different nodes."""


def find(rows: Iterable[tuple[str, ...]], leases: Collection[str]) -> Findings:
    """Return the findings. `rows` have the texts of `COLUMNS`; `leases` are the names of all Leases."""
    vms = without_node = 0
    names: set[str] = set()
    nodes: dict[UUID, set[str]] = defaultdict(set)
    for node, text, reason in rows:
        vms += 1
        # A VM that no agent has reported has the reason Pending, and so has one that this finding has corrected.
        without_node += not node and reason != Reason.PENDING
        if node:
            names.add(node)
        if uuid := as_uuid(text):
            nodes[uuid].add(node)
    return Findings(
        vms=vms,
        uuids=frozenset(nodes),
        without_lease=frozenset(names.difference(leases)),
        without_node=without_node,
        on_two_nodes=frozenset(uuid for uuid, where in nodes.items() if len(where - {""}) > 1),
    )


def conflicts(uuid: UUID, found: Collection[VirtualMachine]) -> Iterator[tuple[VirtualMachine, str]]:
    """Yield each VM whose UUID a VM of another node also has, with a sentence about it. `found` has all VMs of it."""
    for vm in found:
        others = sorted(
            f"{other.key} (node {other.node_name})"
            for other in found
            if vm.node_name and other.node_name not in {"", vm.node_name}
        )
        if others:
            yield vm, f"UUID {uuid} is also that of {' and '.join(others)}: two nodes may use the same disks."


def mark_without_node(vm: VirtualMachine, now: datetime) -> Json | None:
    """Return the fields of the status that mark a VM which has no node any more; None: it needs no mark.

    Without the mark, the last report of its former node would stay for ever, and look current. As the mark of a silent
    node, it replaces all conditions, and is not for a VM whose agent remembers its last decision only in Ready.
    """
    before = vm.status.condition(ConditionType.READY)
    if vm.node_name or vm.deleting or not vm.status.decided_reason or before is None or before.reason == Reason.PENDING:
        return None
    message = (
        "No node is responsible for it: set spec.nodeName."
        f" The status shows what the agent of {vm.status.node_name} reported last."
    )
    return {"conditions": [unknown(before, Reason.PENDING, message, now)]}

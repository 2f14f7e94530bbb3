"""VMs and hosts as the page keeps them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from controller.api.conditions import READINESS
from controller.api.hypervisor import Hypervisor, HypervisorStatus, Maintenance, MaintenanceMode, VmCounts
from controller.api.virtualmachine import (
    Condition,
    DesiredPowerState,
    Hold,
    PowerState,
    Reason,
    Status,
    VirtualMachine,
    VmKey,
)
from controller.page.rows import HostRow, VmRow, host_row, vm_row
from controller.page.view import Fleet, Served

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SERVED = Served("manager-1", leads=True, version="0.1.0")


def before(**delta: int) -> datetime:
    return NOW - timedelta(**delta)


def machine(
    reason: str = "InSync",
    name: str = "web-1",
    *,
    namespace: str = "shop",
    node: str = "node-a",
    message: str = "The VM is as the spec asks.",
    minutes: int = 12,
    generation: int = 3,
    holds: tuple[Hold, ...] = (),
    **status: Any,
) -> VirtualMachine:
    """A VM whose agent has answered with this reason."""
    known = READINESS.get(Reason(reason)) if reason in set(Reason) else None
    ready = Condition("Ready", known.value[0] if known else "False", reason, message, before(minutes=minutes), 3)
    given: dict[str, Any] = {
        "observed_generation": 3,
        "node_name": node,
        "power_state": PowerState.RUNNING,
        "conditions": (ready,),
        "decided_reason": reason,
        "decided_transition_time": before(minutes=minutes),
    }
    return VirtualMachine(
        key=VmKey(namespace, name),
        uid="u1",
        generation=generation,
        resource_version="7",
        created=before(days=3),
        node_name=node,
        desired=DesiredPowerState.RUNNING,
        holds=holds,
        status=Status(**given | status),
    )


def vm(*words: Any, **fields: Any) -> VmRow:
    return vm_row(machine(*words, **fields))


def hypervisor(name: str = "node-a", *, ready: bool = True, maintenance: str = "", **status: Any) -> Hypervisor:
    reason, message = ("Active", "") if ready else ("AgentUnreachable", "The agent was not heard.")
    condition = Condition("Ready", "True" if ready else "Unknown", reason, message, before(hours=3, minutes=5), 1)
    given: dict[str, Any] = {
        "agent_version": "0.1.0",
        "conditions": (condition,),
        "virtual_machines": VmCounts(7, 6, 1),
    }
    return Hypervisor(
        name=name,
        uid="h",
        generation=1,
        resource_version="1",
        created=before(days=3),
        maintenance=Maintenance(MaintenanceMode.HOLD, maintenance) if maintenance else None,
        status=HypervisorStatus(**given | status),
    )


def host(*words: Any, **fields: Any) -> HostRow:
    return host_row(hypervisor(*words, **fields))


def fleet(*rows: VmRow | HostRow, trouble: str = "", complete: bool = True) -> Fleet:
    vms = [row for row in rows if isinstance(row, VmRow)]
    return Fleet(vms, [row for row in rows if isinstance(row, HostRow)], trouble, complete)

"""Hypervisors and VirtualMachines for the tests of the fleet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from controller.api.hypervisor import (
    Hypervisor,
    HypervisorReason,
    HypervisorStatus,
    RunsElsewhere,
    Unmanaged,
    UnmanagedDomain,
)
from controller.api.names import ConditionType, HypervisorConditionType
from controller.api.values import replace
from controller.api.virtualmachine import Condition, DomainRecord, PowerState, Reason, Status, VirtualMachine, VmKey

T0 = datetime(2026, 1, 1, tzinfo=UTC)
WEB, DB = UUID(int=7), UUID(int=8)


def domain(uuid: UUID = WEB, power: PowerState = PowerState.RUNNING, reason: str = "BOOTED") -> UnmanagedDomain:
    return UnmanagedDomain(uuid, f"domain-{uuid.int}", power, reason, transient=False)


def host(
    name: str,
    *domains: UnmanagedDomain,
    ready: bool = True,
    running: int = 0,
    truncated: bool = False,
    entries: Iterable[RunsElsewhere] = (),
) -> Hypervisor:
    """A Hypervisor that reports these domains without an object, and `running` more if `truncated`."""
    condition = Condition(
        HypervisorConditionType.READY,
        "True" if ready else "Unknown",
        HypervisorReason.ACTIVE if ready else HypervisorReason.AGENT_UNREACHABLE,
        "",
        T0,
        1,
    )
    on = sum(d.power_state is PowerState.RUNNING for d in domains) + running
    status = HypervisorStatus(
        unmanaged=Unmanaged(len(domains) + running, on, truncated, domains),
        runs_elsewhere=tuple(entries),
        conditions=(condition,),
    )
    return Hypervisor(name, f"uid-{name}", 1, "1", T0, status=status)


def in_sync(of: VirtualMachine) -> VirtualMachine:
    """The VM with the report of an agent that has decided about it: the manager can mark it."""
    ready = Condition(ConditionType.READY, "True", Reason.IN_SYNC, "", T0, 1)
    return replace(of, status=replace(of.status, decided_reason=Reason.IN_SYNC, conditions=(ready,)))


def vm(
    node: str,
    power: PowerState = PowerState.STOPPED,
    *,
    uuid: UUID = WEB,
    name: str = "web",
    reporter: str | None = None,
) -> VirtualMachine:
    """A VirtualMachine that is bound to this node, and that `reporter` (by default the same node) has reported."""
    reporter = node if reporter is None else reporter
    status = Status(node_name=reporter, power_state=power, domain=DomainRecord(name, uuid, name))
    return VirtualMachine(VmKey("default", name), f"uid-{name}", 1, "1", T0, node, status=status)

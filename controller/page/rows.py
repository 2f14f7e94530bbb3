"""What the page keeps of each VM and of each host. Pure.

The rows have no more than the page shows, because a manager can have 100,000 of them. Texts of others are sanitized
here, and escaped where they become HTML (markup.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from sys import intern

from controller.api.clock import api_time
from controller.api.conditions import Readiness
from controller.api.hypervisor import Hypervisor
from controller.api.names import HypervisorConditionType
from controller.api.virtualmachine import LastStop, VirtualMachine
from controller.presentation.hosts import attention, maintenance_word, remarks
from controller.presentation.vms import is_as_wanted, is_outdated, readiness, reason_since, why_not
from controller.presentation.words import plain, since


@dataclass(frozen=True)
class _Row:
    @cached_property
    def version(self) -> str:
        """A text that differs if the row differs, within one process."""
        return f"{hash(self) & 0xFFFFFFFFFFFF:x}"


@dataclass(frozen=True)
class VmRow(_Row):
    """What the page shows of a VM."""

    namespace: str
    name: str
    node: str
    power: str
    desired: str
    """Empty: virtsync only observes it."""
    reason: str
    """The reason of Ready."""
    meaning: Readiness
    """What this reason means."""
    as_wanted: bool
    outdated: bool
    """Whether the status is about an older spec."""
    since: datetime | None
    """Since when it has this reason; None: nobody has reported."""
    message: str
    """Why it is not as wanted; empty: it is, or nobody has reported."""
    holds: str
    """Who holds it."""
    stop: LastStop | None
    restarts: int


@dataclass(frozen=True)
class HostRow(_Row):
    """What the page shows of a host."""

    name: str
    reason: str
    """The reason of Ready."""
    ready: bool
    since: datetime | None
    vms: int | None
    """How many VirtualMachines it has; None: not reported."""
    running: int | None
    not_ready: int | None
    unmanaged: int | None
    """How many domains no VirtualMachine refers to; None: not reported."""
    maintenance: str
    """The mode and how far it is; empty: none."""
    remarks: tuple[str, ...]
    agent_version: str
    attention: tuple[bool, bool, str]
    """A key by which the hosts that a person should look at come first."""


def vm_row(vm: VirtualMachine) -> VmRow:
    """Return the row of a VM."""
    status, stop = vm.status, vm.status.last_stop
    return VmRow(
        namespace=intern(vm.key.namespace),
        name=vm.key.name,
        node=intern(plain(vm.node_name)),
        power=intern(str(status.power_state)),
        desired=intern(str(vm.desired or "")),
        reason=intern(plain(status.reason)),
        meaning=readiness(status.reason),
        as_wanted=is_as_wanted(vm),
        outdated=is_outdated(vm),
        since=reason_since(vm),
        message=plain(why_not(vm)),
        holds=", ".join(plain(hold.holder) for hold in vm.holds),
        stop=LastStop(stop.cause, stop.time, plain(stop.message)) if stop else None,
        restarts=status.restart_count,
    )


def host_row(host: Hypervisor) -> HostRow:
    """Return the row of a host."""
    status, counts = host.status, host.status.virtual_machines
    return HostRow(
        name=intern(host.name),
        reason=plain(status.reason),
        ready=status.ready,
        since=since(status.condition(HypervisorConditionType.READY)),
        vms=counts.total if counts else None,
        running=counts.running if counts else None,
        not_ready=counts.not_ready if counts else None,
        unmanaged=status.unmanaged.total if status.unmanaged else None,
        maintenance=maintenance_word(host),
        remarks=tuple(remarks(host, api_time)),
        agent_version=plain(status.agent_version),
        attention=attention(host),
    )

"""The Hypervisor: what one KVM host is and has, and whether it is in maintenance.

An administrator writes the spec. The agent of the host writes the status, except for two things that the manager
writes: the condition Ready while the agent is unreachable, and `status.runsElsewhere`. Immutable values only.
docs/api.md explains the fields to users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from controller.api.clock import api_time
from controller.api.json_mapping import INT64_MAX, whole
from controller.api.libvirt_words import OffReason
from controller.api.names import HypervisorConditionType
from controller.api.virtualmachine import WITH_QEMU, Condition, PowerState

LISTED_LIMIT = 512
"""The maximum number of entries in `status.unmanaged.domains` and in `status.runsElsewhere`, as in the CRD."""


class MaintenanceMode(StrEnum):
    """`spec.maintenance.mode`."""

    HOLD = "Hold"
    """virtsync takes no action on any VM of the host."""
    SHUTDOWN = "Shutdown"
    """virtsync shuts down the VMs of the host that their owners let it switch, and starts none."""


class HypervisorReason(StrEnum):
    """The reasons of the conditions of a Hypervisor."""

    ACTIVE = "Active"
    OBSERVE_ONLY = "ObserveOnly"
    ACTION_BLOCKED = "ActionBlocked"
    LIBVIRT_UNREACHABLE = "LibvirtUnreachable"
    AGENT_UNREACHABLE = "AgentUnreachable"
    PENDING = "Pending"
    QUIET = "Quiet"
    """Quiesced is True: no action is under way, and with mode Shutdown no VM runs."""
    ACTIONS_UNDER_WAY = "ActionsUnderWay"
    """Quiesced is False: an action has not ended yet."""
    DOMAINS_RUNNING = "DomainsRunning"
    """Quiesced is False: with mode Shutdown, domains still run."""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """`spec.maintenance`."""

    mode: MaintenanceMode
    reason: str


# --- status


@dataclass(frozen=True, slots=True)
class Capacity:
    """`status.capacity`: what the host has. The status has no usage."""

    cpus: int
    memory_mib: int = field(metadata=whole(most=INT64_MAX))


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """`status.domains`: all domains of the host's libvirt."""

    total: int
    running: int


@dataclass(frozen=True, slots=True)
class VmCounts:
    """`status.virtualMachines`: the VirtualMachine objects of this host."""

    total: int
    running: int
    not_ready: int
    """How many are not Ready: drift, failures and holds in one number."""


@dataclass(frozen=True, slots=True)
class UnmanagedDomain:
    """A domain of the host that no VirtualMachine object of the host refers to."""

    uuid: UUID
    name: str
    power_state: PowerState
    reason: str
    """libvirt's reason for the state, such as BOOTED."""
    transient: bool
    """Whether its next stop removes the domain."""

    @property
    def has_qemu(self) -> bool:
        """Whether the domain is known to have a QEMU process, running or not. One that has crashed can be kept."""
        if self.power_state is PowerState.CRASHED:
            return self.reason != OffReason.CRASHED
        return self.power_state in WITH_QEMU


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """`status.unmanaged`."""

    total: int
    running: int
    truncated: bool = False
    """Whether `domains` lacks some of them: there are more than `LISTED_LIMIT`, or the agent leaves names out."""
    domains: tuple[UnmanagedDomain, ...] = ()
    """The running domains first, then by name."""


@dataclass(frozen=True, slots=True)
class MaintenanceProgress:
    """`status.maintenance`: present while the maintenance is in force."""

    start_time: datetime
    remaining: int
    """How many domains of the host still run."""


@dataclass(frozen=True, slots=True)
class RunsElsewhere:
    """An entry of `status.runsElsewhere`: a VM of this host whose domain runs on another host."""

    uuid: UUID
    node_name: str
    """The other host."""
    since: datetime
    """When the manager first observed this."""

    @property
    def confirmation(self) -> str:
        """The value of the annotation confirmed-off with which a user confirms that this run is over."""
        return f"{self.node_name} {api_time(self.since)}"


@dataclass(frozen=True, slots=True)
class HypervisorStatus:
    """`status`: the agent's report on its host. `runs_elsewhere` is the manager's."""

    observed_generation: int = field(default=-1, metadata=whole(-1, INT64_MAX))
    """The generation of the spec that the agent has read and obeys."""
    lease_namespace: str = ""
    """The namespace of the agent's Lease; empty: it has none, so nobody can find out that the agent has died."""
    node_boot_id: str = ""
    agent_version: str = ""
    libvirt_version: str = ""
    qemu_version: str = ""
    capacity: Capacity | None = None
    domains: DomainCounts | None = None
    virtual_machines: VmCounts | None = None
    unmanaged: Unmanaged | None = None
    maintenance: MaintenanceProgress | None = None
    runs_elsewhere: tuple[RunsElsewhere, ...] = ()
    conditions: tuple[Condition, ...] = ()

    def has_no_lease_in(self, namespace: str) -> bool:
        """Whether the agent has reported that its Lease is in another namespace than this, or that it has none.

        Before the first report, nothing is known about this.
        """
        return self.lease_namespace != namespace if self.lease_namespace else self.observed_generation >= 0

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of this type; None: there is none."""
        return next((c for c in self.conditions if c.type == kind), None)

    @property
    def reason(self) -> str:
        """The reason of Ready."""
        ready = self.condition(HypervisorConditionType.READY)
        return ready.reason if ready else HypervisorReason.PENDING

    @property
    def ready(self) -> bool:
        """Whether Ready is True: the report is fresh, and the agent observes its host."""
        ready = self.condition(HypervisorConditionType.READY)
        return ready is not None and ready.status == "True"


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """A Hypervisor object from the API server. Its name is the name of the host, as in `spec.nodeName` of a VM."""

    name: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool = False
    maintenance: Maintenance | None = None
    misunderstood: str = ""
    """The fields of the spec that this version does not understand, as one phrase; empty: it understands all."""
    status: HypervisorStatus = field(default_factory=HypervisorStatus)

"""The VirtualMachine: its spec, which the user writes, and its status, which the agent writes.

Immutable values only. The enums have the strings that the API uses, and docs/api.md explains these to users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from controller.api.json_mapping import INT64_MAX, named, whole
from controller.api.libvirt_words import State
from controller.api.names import HOLD_PREFIX, ConditionType

BEYOND = datetime(9999, 12, 31, tzinfo=UTC)
"""Replaces a `status.lastRestartTime` that cannot be read. It is later than any request, so no restart is repeated."""


class DesiredPowerState(StrEnum):
    """`spec.powerState`."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"


class RestartPolicy(StrEnum):
    """`spec.restartPolicy`: whether virtsync restarts a VM that stopped although virtsync did not stop it."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class ShutdownMode(StrEnum):
    """`spec.shutdown.mode`."""

    GRACEFUL_THEN_FORCE = "GracefulThenForce"
    GRACEFUL = "Graceful"
    FORCE = "Force"


class PowerState(StrEnum):
    """`status.powerState`."""

    RUNNING = "Running"
    PAUSED = "Paused"
    STARTING = "Starting"
    SHUTTING_DOWN = "ShuttingDown"
    SUSPENDED = "Suspended"
    SAVED = "Saved"
    STOPPED = "Stopped"
    CRASHED = "Crashed"
    ABSENT = "Absent"
    UNKNOWN = "Unknown"


WITH_QEMU = frozenset(
    {
        PowerState.RUNNING,
        PowerState.PAUSED,
        PowerState.STARTING,
        PowerState.SHUTTING_DOWN,
        PowerState.SUSPENDED,
    }
)
"""The power states of a VM that is on: it surely has a QEMU process. Crashed and Unknown are in neither set, because a
QEMU that has crashed can be kept."""
WITHOUT_QEMU = frozenset({PowerState.STOPPED, PowerState.SAVED, PowerState.ABSENT})
"""The power states of a VM that is off: it surely has no QEMU process."""


class StopCause(StrEnum):
    """`status.lastStop.cause`."""

    GUEST = "Guest"
    AGENT = "Agent"
    EXTERNAL = "External"
    NODE_REBOOT = "NodeReboot"
    CRASH = "Crash"
    SAVED = "Saved"
    MIGRATED = "Migrated"
    UNKNOWN = "Unknown"


class OperationType(StrEnum):
    """`status.operation.type`."""

    START = "Start"
    STOP = "Stop"
    RESTART = "Restart"


class Reason(StrEnum):
    """The reasons of the condition Ready. Events and the log use the same words."""

    IN_SYNC = "InSync"
    OBSERVED = "Observed"
    COMPLETED = "Completed"
    SUSPENDED_BY_GUEST = "SuspendedByGuest"
    SETTLING = "Settling"
    STARTING = "Starting"
    SHUTTING_DOWN = "ShuttingDown"
    PAUSING = "Pausing"
    RESUMING = "Resuming"
    WAKING = "Waking"
    RESTARTING = "Restarting"
    HYPERVISOR_BUSY = "HypervisorBusy"
    START_FAILED = "StartFailed"
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    PAUSED_BY_IO_ERROR = "PausedByIOError"
    ACTION_FAILED = "ActionFailed"
    FAILED = "Failed"
    DOMAIN_NOT_FOUND = "DomainNotFound"
    DOMAIN_REPLACED = "DomainReplaced"
    DOMAIN_CONFLICT = "DomainConflict"
    SHUTDOWN_TIMED_OUT = "ShutdownTimedOut"
    PAUSED_BY_WATCHDOG = "PausedByWatchdog"
    CRASHED_PRESERVED = "CrashedPreserved"
    POST_COPY_FAILED = "PostCopyFailed"
    MIGRATED_AWAY = "MigratedAway"
    SAVED_ELSEWHERE = "SavedElsewhere"
    HANDOVER_UNCONFIRMED = "HandoverUnconfirmed"
    RUNS_ELSEWHERE = "RunsElsewhere"
    HELD = "Held"
    OBSERVE_ONLY = "ObserveOnly"
    ACTION_BLOCKED = "ActionBlocked"
    UNKNOWN_STATE = "UnknownState"
    SPEC_NOT_UNDERSTOOD = "SpecNotUnderstood"
    LIBVIRT_UNREACHABLE = "LibvirtUnreachable"
    AGENT_UNREACHABLE = "AgentUnreachable"
    PENDING = "Pending"


@dataclass(frozen=True, slots=True, order=True)
class VmKey:
    """The namespace and the name of a VirtualMachine object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """Identifies a domain: by its UUID, if that is known, and by its name, if the spec gives no UUID."""

    name: str | None = None
    uuid: UUID | None = None


# --- status


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """`status.domain`: the domain that was found, or only `bound_by` if none has been found."""

    name: str
    uuid: UUID | None
    bound_by: str
    """The name or UUID by which the agent looked for the domain."""
    id: int | None = None
    persistent: bool | None = None
    autostart: bool | None = None
    shutdown_request_time: datetime | None = None
    """When virtsync first asked the guest of this run to shut down, for its last stop; None: it has not asked."""


@dataclass(frozen=True, slots=True)
class LastStop:
    """`status.lastStop`."""

    cause: StopCause
    time: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`status.operation`: the write-ahead record of a start, a stop or a restart."""

    type: OperationType
    start_time: datetime
    deadline: datetime | None = None
    """The end of the grace period of a Stop or Restart. None: this is a Start, or libvirt has been unreachable since,
    so the grace period begins again when the domain is observed."""
    domain_id: int | None = None
    attempt: int | None = field(default=None, metadata=whole(least=1))
    """The number of the attempt, from 1; set for a Start, and for a Restart that is about to call its start."""
    for_maintenance: bool | None = None
    """True: maintenance of the host has begun this Stop, and the spec asks for Running."""

    @property
    def starts(self) -> bool:
        """Whether this records a start that might have been called. Other operations are intents and can be dropped."""
        return self.type is OperationType.START or self.attempt is not None


@dataclass(frozen=True, slots=True)
class Backoff:
    """`status.backoff`."""

    failures: int
    next_attempt_time: datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """One of `status.conditions`."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int = field(metadata=whole(most=INT64_MAX))


@dataclass(frozen=True, slots=True)
class Status:
    """`status`: the agent's report on the VM, and all that the next agent process knows about the VM's past."""

    observed_generation: int = field(default=-1, metadata=whole(-1, INT64_MAX))
    node_name: str = ""
    node_boot_id: str = ""
    host_uuid: UUID | None = None
    """libvirt's UUID of the host whose agent wrote this status; None: not known, or it changes when libvirtd starts."""
    desired: DesiredPowerState | None = field(default=None, metadata=named("desiredPowerState"))
    power_state: PowerState = PowerState.UNKNOWN
    power_state_transition_time: datetime | None = None
    run_transition_time: datetime | None = None
    """Increases by at least a second when the node, host, boot, domain id or power state changes or a start is
    recorded."""
    decided_reason: str = ""
    """The reason of the last decision for which the domain could be observed; an outage does not change it. Later
    decisions read it."""
    decided_transition_time: datetime | None = None
    """When `decided_reason` last changed."""
    libvirt_state: str = field(default="", metadata=named("libvirt.state"))
    libvirt_reason: str = field(default="", metadata=named("libvirt.reason"))
    domain: DomainRecord | None = None
    last_stop: LastStop | None = None
    completion_time: datetime | None = None
    restart_count: int = 0
    last_restart_time: datetime | None = None
    operation: Operation | None = None
    backoff: Backoff | None = None
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of this type; None: there is none."""
        return next((c for c in self.conditions if c.type == kind), None)

    @property
    def reason(self) -> str:
        """The reason of Ready."""
        ready = self.condition(ConditionType.READY)
        return ready.reason if ready else Reason.PENDING

    def message_of(self, reason: str) -> str | None:
        """Return the message of Ready if this is its reason, otherwise None."""
        ready = self.condition(ConditionType.READY)
        return ready.message if ready and ready.reason == reason else None

    @property
    def decided(self) -> str:
        """`decided_reason`, or the reason of Ready if an older version wrote the status without `decided_reason`.

        Without a report by an agent there is no decision, whatever reason another writer has given Ready.
        """
        return self.decided_reason or (self.reason if self.node_name else Reason.PENDING)

    @property
    def was_off(self) -> bool:
        """Whether, according to the status, the VM has no QEMU process: it is off, or libvirt does not have it."""
        if self.power_state is PowerState.CRASHED:
            return self.libvirt_state == State.SHUTOFF
        return self.power_state in WITHOUT_QEMU

    @property
    def was_on(self) -> bool:
        """Whether, according to the status, the VM has a QEMU process."""
        return self.power_state is not PowerState.UNKNOWN and not self.was_off


# --- spec


@dataclass(frozen=True, slots=True)
class Shutdown:
    """`spec.shutdown`."""

    mode: ShutdownMode = ShutdownMode.GRACEFUL_THEN_FORCE
    grace_s: int = 180


@dataclass(frozen=True, slots=True, order=True)
class Hold:
    """A hold of a VM. As text: who holds it and why, and the right spelling of a misspelled hold."""

    who: str
    """The name in the key of the annotation; empty if a misspelled key has no name."""
    why: str = ""
    misspelled_key: str = ""
    """The key of the annotation or label, if it is not the annotation `hold.virtsync.dev/<who>`; empty: it is."""
    is_label: bool = False

    def __str__(self) -> str:
        text = self.holder
        if self.misspelled_key:
            text += f"; write it as the annotation {HOLD_PREFIX}{self.who or '<your name>'}"
        return f"{text} ({self.why})" if self.why else text

    @property
    def holder(self) -> str:
        """Who holds the VM, for messages."""
        return self.who or "nobody named"

    @property
    def key(self) -> str:
        """The key of the annotation or label. Removing it ends the hold."""
        return self.misspelled_key or f"{HOLD_PREFIX}{self.who}"


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A VirtualMachine object from the API server: its spec, some of its metadata, and its status. Immutable."""

    key: VmKey
    uid: str
    generation: int
    resource_version: str
    created: datetime
    node_name: str
    deleting: bool = False
    domain_name: str | None = None
    domain_uuid: UUID | None = None
    desired: DesiredPowerState | None = None
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    shutdown: Shutdown = field(default_factory=Shutdown)
    restart_request: datetime | None = None
    holds: tuple[Hold, ...] = ()
    """All holds, sorted. A misspelled hold is a hold, too."""
    confirmed_off: str = ""
    """The value of the annotation `virtsync.dev/confirmed-off`: `status.nodeName` and `status.runTransitionTime`."""
    misunderstood: str = ""
    """The fields of the spec that this version does not understand, as one phrase; empty: it understands all."""
    status: Status = field(default_factory=Status)

    @property
    def wants_on(self) -> bool:
        """Whether the spec asks for a VM that has a QEMU process: Running or Paused."""
        return self.desired in {DesiredPowerState.RUNNING, DesiredPowerState.PAUSED}

    @property
    def bound_by(self) -> str:
        """The text that identifies the domain: the UUID in the spec, the name in the spec, or the object's name."""
        return str(self.domain_uuid) if self.domain_uuid else self.domain_name or self.key.name

    @property
    def address(self) -> Address:
        """The address of the domain that the spec names, with the UUID that the status has for that name, if any."""
        if self.domain_uuid:
            return Address(uuid=self.domain_uuid)
        record = self.status.domain
        pinned = record.uuid if record and record.bound_by == self.bound_by else None
        return Address(name=self.bound_by, uuid=pinned)

    @property
    def knows_uuid(self) -> bool:
        """Whether the UUID in `address` is certain: the spec has it, or an agent has observed the domain on this node.

        The report of another host must not make this host act on a domain with a name that the spec does not have.
        """
        status = self.status
        observed = status.node_name == self.node_name and status.power_state not in {
            PowerState.UNKNOWN,
            PowerState.ABSENT,
        }
        return self.domain_uuid is not None or observed

    def may_mean(self, name: str) -> bool:
        """Whether a domain that was found by `address` and has this name can be that of this object."""
        return name == self.bound_by or self.knows_uuid

"""A VirtualMachine: what a user may want of it, and what has been reported.

Values only. Every string that reaches the API is spelled here and nowhere else; docs/api.md explains them to users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from controller.api.libvirt_words import State
from controller.api.names import ConditionType

BEYOND = datetime(9999, 12, 31, tzinfo=UTC)
"""What `status.lastRestartTime` counts as when it cannot be read: later than any request, so that none is repeated."""


class DesiredPowerState(StrEnum):
    """`spec.powerState`."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"


class RestartPolicy(StrEnum):
    """`spec.restartPolicy`: what a stop by itself leads to."""

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
    """Why Ready is as it is: the same word in the condition, in the notes of Events and in the log."""

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
    """The address of a VirtualMachine object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """Which domain: the UUID where one is known, with the name that it went by; else the name alone."""

    name: str | None = None
    uuid: UUID | None = None


# --- what has been reported ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """`status.domain`."""

    name: str
    uuid: UUID | None
    bound_by: str
    id: int | None = None
    persistent: bool | None = None
    autostart: bool | None = None


@dataclass(frozen=True, slots=True)
class LastStop:
    """`status.lastStop`."""

    cause: StopCause
    time: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`status.operation`: the write-ahead record of a start, of a stop or of a restart."""

    type: OperationType
    start_time: datetime
    deadline: datetime | None = None
    """When the grace of a stop is over; None for a Start."""
    domain_id: int | None = None
    attempt: int | None = None
    """Of a Start, and of a Restart whose start is about to be called: which attempt it is, from 1."""

    @property
    def starts(self) -> bool:
        """It records that a start is called, which is a fact; any other operation is an intent, and can be dropped."""
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
    observed_generation: int


@dataclass(frozen=True, slots=True)
class Status:
    """`status`: the report, and at the same time all that the next pass remembers of this VM."""

    observed_generation: int = -1
    node_name: str = ""
    node_boot_id: str = ""
    host_uuid: UUID | None = None
    """libvirt's UUID of the machine that wrote this; None: not known, or not one that lasts."""
    desired: DesiredPowerState | None = None
    power_state: PowerState = PowerState.UNKNOWN
    power_state_transition_time: datetime | None = None
    run_transition_time: datetime | None = None
    """Moves by at least a second whenever node, host, boot, domain id or power state change or a Start is recorded."""
    decided_reason: str = ""
    """The reason of the last decision that saw the domain: the policy's memory, which no outage overwrites."""
    libvirt_state: str = ""
    libvirt_reason: str = ""
    domain: DomainRecord | None = None
    last_stop: LastStop | None = None
    completion_time: datetime | None = None
    restart_count: int = 0
    last_restart_time: datetime | None = None
    operation: Operation | None = None
    backoff: Backoff | None = None
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if it is there."""
        return next((c for c in self.conditions if c.type == kind), None)

    @property
    def reason(self) -> str:
        """The reason of Ready."""
        ready = self.condition(ConditionType.READY)
        return ready.reason if ready else Reason.PENDING

    @property
    def decided(self) -> str:
        """The reason of the last decision that saw the domain; an older version has left only the reason of Ready."""
        return self.decided_reason or self.reason

    @property
    def was_off(self) -> bool:
        """It says that no QEMU runs: off, or absent."""
        if self.power_state is PowerState.CRASHED:
            return self.libvirt_state == State.SHUTOFF
        return self.power_state in {PowerState.STOPPED, PowerState.SAVED, PowerState.ABSENT}

    @property
    def was_on(self) -> bool:
        """It says that a QEMU runs."""
        return self.power_state is not PowerState.UNKNOWN and not self.was_off


# --- what the user wants ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shutdown:
    """`spec.shutdown`."""

    mode: ShutdownMode = ShutdownMode.GRACEFUL_THEN_FORCE
    grace_s: int = 180


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """The object as the API server has it."""

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
    holds: tuple[tuple[str, str], ...] = ()
    """(who, why) of every `hold.virtsync.dev/` annotation, sorted."""
    confirmed_off: str = ""
    """What the user vouches for, as written in `virtsync.dev/confirmed-off`: a node and its `runTransitionTime`."""
    misunderstood: str = ""
    """What in the spec this version does not understand, as one phrase; empty: nothing."""
    status: Status = field(default_factory=Status)

    @property
    def wants_on(self) -> bool:
        """The user wants a QEMU."""
        return self.desired in {DesiredPowerState.RUNNING, DesiredPowerState.PAUSED}

    @property
    def bound_by(self) -> str:
        """What the spec calls the domain: its UUID, its name, or the name of the object."""
        return str(self.domain_uuid) if self.domain_uuid else self.domain_name or self.key.name

    @property
    def address(self) -> Address:
        """The domain to look for: what the spec names, or the UUID found under that name before."""
        if self.domain_uuid:
            return Address(uuid=self.domain_uuid)
        record = self.status.domain
        pinned = record.uuid if record and record.bound_by == self.bound_by else None
        return Address(name=self.bound_by, uuid=pinned)

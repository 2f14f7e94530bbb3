"""The words: what a user may want, what a host may show, what has been reported, and what may be done.

Values only. Every string that reaches the API is spelled here and nowhere else; docs/api.md explains them to users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from uuid import UUID

BEYOND = datetime(9999, 12, 31, tzinfo=UTC)
"""What `status.lastRestartTime` counts as when it cannot be read: later than any request, so that none is repeated."""


def api_time(time: datetime) -> str:
    """A time as the API shows it: RFC 3339 in UTC; fractions of a second only where they are not 0."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


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


class Phase(Enum):
    """What a domain that was seen is doing: finer than its power state, because decisions need it."""

    RUNNING = PowerState.RUNNING, "on"
    STARTING = PowerState.STARTING, "on"
    SHUTTING_DOWN = PowerState.SHUTTING_DOWN, "on"
    PAUSED = PowerState.PAUSED, "on", "plain"
    PAUSED_BUSY = PowerState.PAUSED, "on", "a libvirt job owns it"
    PAUSED_IO_ERROR = PowerState.PAUSED, "on", "I/O error"
    PAUSED_WATCHDOG = PowerState.PAUSED, "on", "watchdog"
    POST_COPY_FAILED = PowerState.PAUSED, "on", "post-copy failed"
    SUSPENDED = PowerState.SUSPENDED, "on"
    CRASHED_KEPT = PowerState.CRASHED, "on", "QEMU is alive"
    CRASHED_OFF = PowerState.CRASHED, "off"
    SAVED = PowerState.SAVED, "off"
    STOPPED = PowerState.STOPPED, "off"
    UNKNOWN = PowerState.UNKNOWN, "unknown"

    power_state: PowerState
    """The word that users see for it."""
    on: bool
    """QEMU is alive."""
    off: bool
    """There is no QEMU, and libvirt still knows the domain."""

    def __init__(self, power_state: PowerState, qemu: str, _detail: str = "") -> None:
        """Each of its values, once: relists ask thousands of times."""
        self.power_state, self.on, self.off = power_state, qemu == "on", qemu == "off"


class Drift(Enum):
    """In what way a domain is not as it is wanted, as far as its settle time is concerned."""

    OFF = "off"
    ON = "on, and wanted off"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    RUNNING = "running, and wanted paused"


class Evidence(Enum):
    """What an event said of a stop or a start; explains what a look has confirmed, and never causes an action."""

    STOPPED_MIGRATED = "STOPPED/MIGRATED"
    STOPPED_CRASHED = "STOPPED/CRASHED"
    STOPPED_FAILED = "STOPPED/FAILED"
    SHUTDOWN_HOST = "SHUTDOWN/HOST"
    SHUTDOWN_GUEST = "SHUTDOWN/GUEST"
    STARTED_RESTORED = "STARTED/RESTORED"
    STARTED_MIGRATED = "STARTED/MIGRATED"


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


# --- what a look at the host shows -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domain:
    """A libvirt domain as one look saw it."""

    uuid: UUID
    name: str
    phase: Phase
    id: int | None = None
    """libvirt's number for this run of QEMU; None while off."""
    state: str = ""
    reason: str = ""
    persistent: bool = True
    autostart: bool = False
    run_since: datetime | None = field(default=None, compare=False)
    """When this run of QEMU began, by the wall clock of its host: the time of its pid file. None: not known."""

    @property
    def lingers(self) -> bool:
        """libvirt shows it off, but its QEMU has not ended."""
        return self.phase is Phase.SHUTTING_DOWN and self.id is None


@dataclass(frozen=True, slots=True)
class Absent:
    """libvirt said that there is no such domain; no other answer means this."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """The remembered UUID is gone, and another domain has the name."""

    uuid: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The domain is there, and an older object has it."""

    owner: VmKey
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Unreadable:
    """libvirt gave no answer: nothing is known, and nothing follows from that."""

    message: str
    busy: bool = False
    """libvirt answers about other domains: somebody's call has the lock of this one."""


Sighting = Domain | Absent | Replaced | Conflict | Unreadable


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
        ready = self.condition("Ready")
        return ready.reason if ready else Reason.PENDING

    @property
    def decided(self) -> str:
        """The reason of the last decision that saw the domain; an older version has left only the reason of Ready."""
        return self.decided_reason or self.reason

    @property
    def was_off(self) -> bool:
        """It says that no QEMU runs: off, or absent."""
        if self.power_state is PowerState.CRASHED:
            return self.libvirt_state == "SHUTOFF"
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


# --- what may be done ------------------------------------------------------------------------------------------------


class Verb(Enum):
    """The acts on a domain, and the word for each when it has been done."""

    START = "Started"
    START_PAUSED = "Started paused"
    RESUME = "Resumed"
    WAKE = "Woken"
    SUSPEND = "Paused"
    SHUTDOWN = "ShutdownRequested"
    DESTROY = "ForcedOff"

    @property
    def event(self) -> str:
        """The reason of the Kubernetes Event about it."""
        return self.value.partition(" ")[0]

    @property
    def starts(self) -> bool:
        """It makes a QEMU, and so waits for its turn."""
        return self in (Verb.START, Verb.START_PAUSED)


@dataclass(frozen=True, slots=True)
class Act:
    """One act on one domain as it was seen; if it is another by then, nothing is done."""

    verb: Verb
    domain: Domain


class Result(Enum):
    """How an act ended."""

    DONE = "done"
    ALREADY = "already"  # somebody else did the same first: no failure and no Event
    STALE = "stale"  # the domain was not as it had been seen: nothing was done
    REFUSED = "refused"  # libvirt said no
    UNKNOWN = "unknown"  # no answer in time: look, never repeat it blindly


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an act; an input of the next look."""

    verb: Verb
    result: Result
    message: str = ""


class Qemu(Enum):
    """Whether the QEMU of a domain that libvirt shows off still lives, by the lock that QEMU holds on its pid file."""

    GONE = "gone"
    ALIVE = "alive"
    UNSURE = "its pid file could not be opened"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked of a domain only when an act is due, because most looks do not need it."""

    job: str = ""
    """The libvirt job that owns the domain: backup, migration, save, dump, snapshot, or just job; empty: none."""
    never_ran: bool = False
    """It is paused, and its CPUs have not run since it was started: there is nothing in it to save."""
    qemu: Qemu = Qemu.GONE
    """Of a domain that is off: whether its last QEMU has really ended."""
    hangs: bool = False
    """Its QEMU has left a call of libvirt's unanswered, whoever made it."""
    reboots_on_poweroff: bool = False
    """`<on_poweroff>restart`: a shutdown would be a reboot."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event to be written about a VM."""

    reason: str
    note: str
    warning: bool = False
    action: str = "Observe"
    """What virtsync did, if it did more than look."""


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on both clocks: the wall's for users, the monotonic one for waiting."""

    wall: datetime
    monotonic_s: float

    def plus(self, seconds: float) -> Now:
        """The moment so many seconds later."""
        return Now(self.wall + timedelta(seconds=seconds), self.monotonic_s + seconds)

    def until(self, later: Now) -> float:
        """Seconds from here to there, by the clock that nobody sets; never less than 0."""
        return max(0.0, later.monotonic_s - self.monotonic_s)

    def recall(self, then: datetime, *, at_most_s: float) -> Now:
        """The moment of a time in the past that status tells, never further back than the wait that it seeds."""
        return Now(then, self.monotonic_s - min(max((self.wall - then).total_seconds(), 0.0), at_most_s))

    def expect(self, then: datetime, *, at_most_s: float) -> Now:
        """The moment of a time in the future that status tells, never further off than the wait that it ends."""
        return Now(then, self.monotonic_s + min(max((then - self.wall).total_seconds(), 0.0), at_most_s))


@dataclass(frozen=True, slots=True)
class Pursuit:
    """A stop that this process pursues: of one run of one domain."""

    domain_id: int | None
    start_time: datetime
    """Of the operation, as status tells it."""
    since: Now
    deadline: Now
    asked_first: Now | None = None
    """When this process first pressed the power button of this run."""
    asked_last: Now | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What only this process knows of a VM; a new process does well without it, a little later."""

    uid: str = ""
    held: bool = False
    """The last look that saw the domain left it to a hold, whether or not that could be reported."""
    drift: Drift | None = None
    """As of the last look that saw the domain."""
    drift_since: Now | None = None
    phase: Phase | None = None
    phase_since: Now | None = None
    off_since: Now | None = None
    """Since when each look of this process has seen it off, with no call and no outage in between."""
    off_doubted: bool = False
    """It went off under a stop that this process did not send."""
    pursuit: Pursuit | None = None
    start: Operation | None = None
    """The record of a start that this process wrote last, or tried to write."""
    start_called: bool = False
    """The call that it records has been made."""
    start_counted: bool = False
    """It counts in `restartCount`."""
    next_attempt: Now | None = None
    next_attempt_told: datetime | None = None
    """The time in status that seeded it."""
    scheduled: datetime | None = None
    scheduled_passed: Now | None = None
    jobless_since: Now | None = None
    job: str = ""
    job_since: Now | None = None
    """Since when that libvirt job was seen to own the domain."""
    outcome: Outcome | None = None
    """Of the act that ended since the last look; the look takes it."""
    unreported_stop: LastStop | None = None
    """The first stop that could not be written down yet."""


@dataclass(frozen=True, slots=True)
class Node:
    """The node as a whole, as far as it concerns a decision."""

    name: str
    boot_id: str
    observe_only: bool = False
    blocked: str = ""
    """Why this agent may not act, as one sentence; empty when it may."""
    braked_until: Now | None = None
    """Several VMs went off together: nothing is started or judged until then."""
    host_uuid: UUID | None = None
    """libvirt's UUID of the machine; None: not known, or not one that lasts."""
    libvirtd_since: datetime | None = None
    """When libvirtd was started, by the wall clock: the time of its driver.pid. None: not known."""


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision sees."""

    vm: VirtualMachine
    seen: Sighting
    node: Node
    now: Now
    memory: Memory = field(default_factory=Memory)
    evidence: frozenset[Evidence] = frozenset()
    facts: Facts | None = None
    """None: not asked yet; they are only when an act is due."""
    call: Verb | None = None
    """An act on this domain that has not returned."""
    call_since: Now | None = None
    crowded: bool = False
    """As many calls as the daemon bears have not returned."""
    turn_in_s: float = 0.0
    """How long the act that is due must wait for its turn."""

    @property
    def call_starts(self) -> bool:
        """A start of this process has not returned."""
        return self.call is not None and self.call.starts


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a row of the table says: a reason, a sentence, at most one act, and when to look again."""

    reason: Reason
    message: str
    verb: Verb | None = None
    recheck_s: float | None = None
    status: Status | None = None
    """The draft with what this verdict records before its act; None when it records nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """The answer to a view: what to report, at most one act, and when to look again."""

    reason: Reason
    message: str
    status: Status
    memory: Memory
    act: Act | None = None
    recheck_s: float | None = None
    notices: tuple[Notice, ...] = ()

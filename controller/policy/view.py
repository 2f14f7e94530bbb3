"""The input and the output of a decision. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from uuid import UUID

from controller.api.clock import Now
from controller.api.names import EventReason
from controller.api.virtualmachine import LastStop, Operation, PowerState, Reason, Status, VirtualMachine, VmKey


class Phase(Enum):
    """What an observed domain is doing: finer than its power state, because decisions need the difference."""

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
    """The power state that users see."""
    on: bool
    """QEMU is alive."""
    off: bool
    """There is no QEMU, and libvirt still knows the domain."""

    def __init__(self, power_state: PowerState, qemu: str, _detail: str = "") -> None:
        """Compute each attribute once: a relist reads them thousands of times."""
        self.power_state, self.on, self.off = power_state, qemu == "on", qemu == "off"


class Drift(Enum):
    """The kind of difference between a domain and its spec, for the settle time."""

    OFF = "off"
    ON = "on, and should be off"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    RUNNING = "running, and should be paused"


class Evidence(Enum):
    """The detail of a stop or start event: it explains what an observation confirmed, and never causes an action."""

    STOPPED_MIGRATED = "STOPPED/MIGRATED"
    STOPPED_CRASHED = "STOPPED/CRASHED"
    STOPPED_FAILED = "STOPPED/FAILED"
    SHUTDOWN_HOST = "SHUTDOWN/HOST"
    SHUTDOWN_GUEST = "SHUTDOWN/GUEST"
    STARTED_RESTORED = "STARTED/RESTORED"
    STARTED_MIGRATED = "STARTED/MIGRATED"


# --- what an observation of the host shows ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domain:
    """A libvirt domain at one observation."""

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
    """When this run of QEMU began, by the host's wall clock: the time of its pid file. None: not known."""

    @property
    def lingers(self) -> bool:
        """libvirt shows the domain off, but its QEMU has not exited."""
        return self.phase is Phase.SHUTTING_DOWN and self.id is None


@dataclass(frozen=True, slots=True)
class Absent:
    """libvirt returned "no such domain"; no other answer means this."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """The remembered UUID is gone, and another domain has the name."""

    uuid: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The domain exists, and belongs to an older object."""

    owner: VmKey
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Unreadable:
    """libvirt gave no answer: nothing is known about the domain, and no action follows."""

    message: str
    busy: bool = False
    """libvirt answers about other domains: another call holds the lock of this one."""


Observation = Domain | Absent | Replaced | Conflict | Unreadable


# --- what may be done ------------------------------------------------------------------------------------------------


class Action(Enum):
    """The actions on a domain, and the Event that is written after each."""

    START = EventReason.STARTED
    START_PAUSED = EventReason.STARTED, "paused"
    RESUME = EventReason.RESUMED
    WAKE = EventReason.WOKEN
    SUSPEND = EventReason.PAUSED
    SHUTDOWN = EventReason.SHUTDOWN_REQUESTED
    DESTROY = EventReason.FORCED_OFF

    event: EventReason

    def __init__(self, event: EventReason, _how: str = "") -> None:
        self.event = event

    @property
    def starts(self) -> bool:
        """The action starts a QEMU, so it waits for its turn."""
        return self in (Action.START, Action.START_PAUSED)


@dataclass(frozen=True, slots=True)
class PowerAction:
    """One action on one domain as it was observed; if the domain has changed since, nothing is done."""

    kind: Action
    domain: Domain


class Result(Enum):
    """How an action ended."""

    DONE = "done"
    ALREADY = "already"  # somebody else did the same first: neither a failure nor an Event
    STALE = "stale"  # the domain was not as observed: nothing was done
    REFUSED = "refused"  # libvirt returned an error
    UNKNOWN = "unknown"  # no answer in time: observe, never repeat blindly


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action; an input of the next pass."""

    action: Action
    result: Result
    message: str = ""


class Qemu(Enum):
    """Whether the QEMU of a domain that libvirt shows off still exists, by the lock that QEMU holds on its pid file."""

    GONE = "gone"
    ALIVE = "alive"
    UNSURE = "its pid file could not be opened"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the host is asked about a domain only when an action is due, because most passes do not need it."""

    job: str = ""
    """The libvirt job that owns the domain: backup, migration, save, dump, snapshot, or just job; empty: none."""
    never_ran: bool = False
    """The VM is paused, and its CPUs have not run since it was started: the guest has nothing to save."""
    qemu: Qemu = Qemu.GONE
    """Of a domain that is off: whether its last QEMU has really exited."""
    hangs: bool = False
    """The QEMU has not answered a request of libvirt, whichever client caused it."""
    reboots_on_poweroff: bool = False
    """`<on_poweroff>restart`: a shutdown would be a reboot."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event to be written about a VM."""

    reason: str
    note: str
    warning: bool = False
    action: str = "Observe"
    """What virtsync did, if it did more than observe."""


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """What this process knows about a stop in flight, of one run of one domain."""

    domain_id: int | None
    start_time: datetime
    """Of the operation, as in the status."""
    since: Now
    deadline: Now
    asked_first: Now | None = None
    """When this process first pressed the power button of this run."""
    asked_last: Now | None = None


@dataclass(frozen=True, slots=True)
class VmMemory:
    """In-process state of a VM, lost on restart; a new process decides the same without it, sometimes later."""

    uid: str = ""
    held: bool = False
    """The last pass that observed the domain found it held, whether or not that could be reported."""
    drift: Drift | None = None
    """As of the last pass that observed the domain."""
    drift_since: Now | None = None
    phase: Phase | None = None
    phase_since: Now | None = None
    off_since: Now | None = None
    """Since when each pass of this process has observed the domain off, with no call and no outage in between."""
    off_doubted: bool = False
    """The domain went off during a stop that this process did not send."""
    stop_attempt: StopAttempt | None = None
    start: Operation | None = None
    """The record of a start that this process last wrote, or tried to write."""
    start_called: bool = False
    """The recorded call has been made."""
    start_counted: bool = False
    """The start counts in `restartCount`."""
    next_attempt: Now | None = None
    next_attempt_told: datetime | None = None
    """The time in the status from which `next_attempt` was computed."""
    scheduled: datetime | None = None
    scheduled_passed: Now | None = None
    jobless_since: Now | None = None
    job: str = ""
    job_since: Now | None = None
    """Since when that libvirt job was observed to own the domain."""
    outcome: Outcome | None = None
    """Of the action that ended since the last pass; the next pass consumes it."""
    unreported_stop: LastStop | None = None
    """The first stop that could not be reported yet."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a decision needs to know about the node."""

    name: str
    boot_id: str
    observe_only: bool = False
    blocked: str = ""
    """Why this agent may not act, as one sentence; empty when it may."""
    braked_until: Now | None = None
    """Several VMs went off together: until then, virtsync starts none and applies no restartPolicy."""
    host_uuid: UUID | None = None
    """libvirt's UUID of the machine; None: not known, or not stable."""
    libvirtd_since: datetime | None = None
    """When libvirtd was started, by the wall clock: the time of its driver.pid. None: not known."""


@dataclass(frozen=True, slots=True)
class View:
    """The whole input of a decision."""

    vm: VirtualMachine
    observed: Observation
    node: Node
    now: Now
    memory: VmMemory = field(default_factory=VmMemory)
    evidence: frozenset[Evidence] = frozenset()
    facts: Facts | None = None
    """None: not asked yet; the host is asked only when an action is due."""
    call: Action | None = None
    """An action on this domain that has not returned."""
    call_since: Now | None = None
    crowded: bool = False
    """The maximum number of concurrent calls has not returned."""
    turn_in_s: float = 0.0
    """How long the due action must wait for its turn."""

    @property
    def call_starts(self) -> bool:
        """A start of this process has not returned."""
        return self.call is not None and self.call.starts


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a row of the table decides: a reason, a message, at most one action, and when to observe again."""

    reason: Reason
    message: str
    action: Action | None = None
    recheck_s: float | None = None
    status: Status | None = None
    """The draft with what this verdict records before its action; None if it records nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """The output of a decision: what to report, at most one action, and when to observe again."""

    reason: Reason
    message: str
    status: Status
    memory: VmMemory
    action: PowerAction | None = None
    recheck_s: float | None = None
    notices: tuple[Notice, ...] = ()

"""What a decision sees, and what it answers. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from uuid import UUID

from controller.api.clock import Now
from controller.api.names import EventReason
from controller.api.virtualmachine import LastStop, Operation, PowerState, Reason, Status, VirtualMachine, VmKey


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


Observation = Domain | Absent | Replaced | Conflict | Unreadable


# --- what may be done ------------------------------------------------------------------------------------------------


class Action(Enum):
    """The acts on a domain, and the Event about each when it has been done."""

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
        """It makes a QEMU, and so waits for its turn."""
        return self in (Action.START, Action.START_PAUSED)


@dataclass(frozen=True, slots=True)
class PowerAction:
    """One action on one domain as it was observed; if the domain has changed by then, nothing is done."""

    kind: Action
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

    action: Action
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
class StopAttempt:
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
class VmMemory:
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
    stop_attempt: StopAttempt | None = None
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
    observed: Observation
    node: Node
    now: Now
    memory: VmMemory = field(default_factory=VmMemory)
    evidence: frozenset[Evidence] = frozenset()
    facts: Facts | None = None
    """None: not asked yet; they are only when an act is due."""
    call: Action | None = None
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
    action: Action | None = None
    recheck_s: float | None = None
    status: Status | None = None
    """The draft with what this verdict records before its act; None when it records nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """The answer to a view: what to report, at most one act, and when to look again."""

    reason: Reason
    message: str
    status: Status
    memory: VmMemory
    action: PowerAction | None = None
    recheck_s: float | None = None
    notices: tuple[Notice, ...] = ()

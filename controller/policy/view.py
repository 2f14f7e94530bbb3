"""The input and the output of a decision: values without behavior."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from math import inf
from typing import NamedTuple
from uuid import UUID

from controller.api.clock import Now
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.names import EventReason
from controller.api.notice import Notice
from controller.api.virtualmachine import (
    DesiredPowerState,
    LastStop,
    Operation,
    PowerState,
    Reason,
    Status,
    VirtualMachine,
    VmKey,
)


class Phase(Enum):
    """The state of an observed domain. One power state can have several phases, between which decisions distinguish."""

    RUNNING = PowerState.RUNNING, "on"
    STARTING = PowerState.STARTING, "on"
    SHUTTING_DOWN = PowerState.SHUTTING_DOWN, "on"
    PAUSED = PowerState.PAUSED, "on", "plain"
    PAUSED_BUSY = PowerState.PAUSED, "on", "a libvirt job owns it"
    PAUSED_IO_ERROR = PowerState.PAUSED, "on", "I/O error"
    PAUSED_WATCHDOG = PowerState.PAUSED, "on", "watchdog"
    POST_COPY_FAILED = PowerState.PAUSED, "on", "post-copy failed"
    POST_COPY_FAILED_RUNNING = PowerState.RUNNING, "on", "post-copy failed"
    SUSPENDED = PowerState.SUSPENDED, "on"
    CRASHED_KEPT = PowerState.CRASHED, "on", "QEMU is alive"
    CRASHED_OFF = PowerState.CRASHED, "off"
    SAVED = PowerState.SAVED, "off"
    STOPPED = PowerState.STOPPED, "off"
    UNKNOWN = PowerState.UNKNOWN, "unknown"

    power_state: PowerState
    """The power state in the report."""
    on: bool
    """Whether the domain has a QEMU."""
    off: bool
    """Whether the domain has no QEMU."""

    def __init__(self, power_state: PowerState, qemu: str, _detail: str = "") -> None:
        """Compute each attribute once, because a relist reads them thousands of times."""
        self.power_state, self.on, self.off = power_state, qemu == "on", qemu == "off"


POST_COPY_FAILED = {Phase.POST_COPY_FAILED, Phase.POST_COPY_FAILED_RUNNING}
"""The phases of a VM whose post-copy migration failed. The copy on the destination runs with a part of its memory."""
SHUT_DOWN_IN_MAINTENANCE = {
    Phase.RUNNING,
    Phase.STARTING,
    Phase.SHUTTING_DOWN,
    Phase.PAUSED,
    Phase.PAUSED_BUSY,
    Phase.SUSPENDED,
}
"""The phases in which maintenance with mode Shutdown shuts down a VM. It leaves alone VMs kept for inspection."""


class Drift(Enum):
    """The kind of difference between a domain and its spec, for the settle time."""

    OFF = "off"
    ON = "on, and should be off"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    RUNNING = "running, and should be paused"


class Evidence(Enum):
    """The detail of a libvirt event about a start or a stop.

    Evidence explains a stop or start that an observation has confirmed. It never causes an action.
    """

    STOPPED_MIGRATED = "STOPPED/MIGRATED"
    STOPPED_CRASHED = "STOPPED/CRASHED"
    STOPPED_FAILED = "STOPPED/FAILED"
    STOPPED_SAVED = "STOPPED/SAVED"
    SHUTDOWN_HOST = "SHUTDOWN/HOST"
    SHUTDOWN_GUEST = "SHUTDOWN/GUEST"
    STARTED_RESTORED = "STARTED/RESTORED"
    STARTED_MIGRATED = "STARTED/MIGRATED"


# --- what an observation of the host shows ---------------------------------------------------------------------------


STANDS_STILL = {Phase.PAUSED, Phase.PAUSED_BUSY, Phase.PAUSED_IO_ERROR, Phase.SUSPENDED}
"""The phases of a VM that is on, whose CPUs run only after a resume or a wake-up."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A libvirt domain at one observation."""

    uuid: UUID
    name: str
    phase: Phase
    id: int | None = None
    """libvirt's number for this run of QEMU; None: there is no QEMU that libvirt knows."""
    state: str = ""
    reason: str = ""
    persistent: bool = True
    autostart: bool = False
    run_since: datetime | None = field(default=None, compare=False)
    """When this run of QEMU began: the time of its pid file, by the host's wall clock. None: not known."""

    @property
    def lingers(self) -> bool:
        """Whether libvirt reports the domain off, but its QEMU has not exited."""
        return self.phase is Phase.SHUTTING_DOWN and self.id is None


@dataclass(frozen=True, slots=True)
class Absent:
    """libvirt has returned "no such domain". No other answer of libvirt leads to this observation."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """The domain with the UUID in the status no longer exists, and another domain has its name."""

    uuid: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Misnamed:
    """A domain has the UUID in the status, but not the name in the spec, and this host has not observed it as this VM.

    It might be this VM, renamed, or a domain that the report of another host names by mistake (docs/adr/041).
    """

    uuid: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The domain exists, but belongs to an older VirtualMachine object."""

    owner: VmKey
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Unreadable:
    """libvirt gave no answer, so nothing is known about the domain, and virtsync takes no action."""

    message: str
    busy: bool = False
    """Whether libvirt answers about other domains. Then another call must hold libvirt's lock of this domain."""


Observation = Domain | Absent | Replaced | Misnamed | Conflict | Unreadable


# --- what may be done ------------------------------------------------------------------------------------------------


class Action(Enum):
    """The actions on a domain. The value of each contains the reason of the Event that virtsync writes after it."""

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
        """Whether the action starts a QEMU."""
        return self in (Action.START, Action.START_PAUSED)

    def achieved_in(self, phase: Phase) -> bool:
        """Whether a domain in this phase is as the action was to make it."""
        match self:
            case Action.START:
                return phase.on
            case Action.RESUME | Action.WAKE:
                return phase is Phase.RUNNING
            case Action.START_PAUSED | Action.SUSPEND:
                return phase is Phase.PAUSED
            case Action.SHUTDOWN:
                return phase.off or phase is Phase.SHUTTING_DOWN
            case Action.DESTROY:
                return phase.off


ACTION_VALID_S = 35.0
"""How long after the decision an action may still be called: as long as an agent may act without a renewal of a Lease
of 40 s. A process that was stopped for longer, as by SIGSTOP, must not act on what it knew before."""


@dataclass(frozen=True, slots=True)
class PowerAction:
    """One action on one domain as it was observed. If the domain has changed since, virtsync does not act on it."""

    kind: Action
    domain: Domain
    decided_s: float = field(default=inf, compare=False)
    """When virtsync decided on it, in monotonic seconds."""

    def expired(self, now_s: float) -> bool:
        """Whether the decision is so old that the spec and the report behind it might be out of date."""
        return now_s - self.decided_s > ACTION_VALID_S

    def fits(self, domain: Domain) -> bool:
        """Whether the domain is still as it was observed.

        Before a start, libvirt's reason for "off" must be the same too: a domain that has run and was migrated or saved
        meanwhile is off with the same phase and id.
        """
        same = (domain.phase, domain.id) == (self.domain.phase, self.domain.id)
        return same and (not self.kind.starts or domain.reason == self.domain.reason)


class CallInFlight(NamedTuple):
    """A call of an action that has not returned."""

    action: Action
    since: Now


class Result(Enum):
    """How an action ended."""

    DONE = "done"
    ALREADY = "already"  # somebody else had done the same before; this is no failure, and leads to no Event
    NOT_CALLED = "not_called"  # the domain had changed, its QEMU still exists, or the agent must not act
    UNSENT = "unsent"  # libvirt gave no answer before the call, so nothing was called
    REFUSED = "refused"  # libvirt returned an error
    UNKNOWN = "unknown"  # libvirt gave no answer in time; observe the domain before any repetition


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one action. The next pass reads it."""

    action: Action
    result: Result
    message: str = ""
    overtaken: bool = False
    """Whether a later action on the same domain, a forced stop, began before this one ended, and so may have made it
    fail."""

    @property
    def called(self) -> bool:
        """Whether libvirt might have received the call."""
        return self.result not in {Result.NOT_CALLED, Result.UNSENT}

    @property
    def unanswered(self) -> bool:
        """Whether libvirt gave no answer, to the call or before it."""
        return self.result in {Result.UNKNOWN, Result.UNSENT}


class Qemu(Enum):
    """Whether the last QEMU of a domain that libvirt reports off still exists.

    QEMU holds a lock on its pid file for as long as it exists.
    """

    GONE = "gone"
    ALIVE = "alive"
    UNSURE = "its pid file could not be opened"


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a domain that virtsync requests only when an action is due, because most passes do not need them."""

    job: str = ""
    """The libvirt job that owns the domain: backup, migration, save, dump, snapshot or job. Empty: there is no job."""
    never_ran: bool = False
    """Whether the VM is paused and its CPUs have not run since its start. Then the guest has no unsaved data."""
    qemu: Qemu = Qemu.GONE
    """For a domain that is off: whether its last QEMU still exists."""
    hangs: bool = False
    """Whether QEMU has not answered a request of libvirt for at least 5 s. Any client of libvirt can have caused the
    request."""
    reboots_on_poweroff: bool = False
    """Whether the definition has `<on_poweroff>restart`. Then a shutdown would be a reboot. Also False while `hangs` is
    true or `job` is "job": then virtsync presses no power button, and libvirt might not return the definition."""


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """What this process knows about the stop in flight of one run of a domain."""

    domain_id: int | None
    start_time: datetime
    """The start time of the operation in the status."""
    since: Now
    """When this process first observed the stop."""
    deadline: Now
    """When the grace period ends."""
    asked_first: Now | None = None
    """When this process first pressed the power button during this run, or might have, because the request had no
    result."""
    tried_last: Now | None = None
    """When this process last pressed the power button during this run, or tried to."""
    refused_first: Now | None = None
    """When libvirt first refused this process to press the power button during this run."""


@dataclass(frozen=True, slots=True)
class VmMemory:
    """In-process state of a VM, lost on restart. A new process makes the same decisions without it, sometimes later."""

    uid: str = ""
    """The uid of the object. A memory with another uid is not used."""
    held: bool = False
    """Whether a hold, maintenance of the host or a run on another host forbade a due action in the last pass that
    observed the domain, reported or not."""
    doubled: RunsElsewhere | None = None
    """The run on another host in the last pass that observed the domain on; None: there was none."""
    drift: Drift | None = None
    """The drift in the last pass that observed the domain."""
    drift_since: Now | None = None
    """Since when that drift counts for the settle time; None: no settle time applies."""
    phase: Phase | None = None
    """The phase in the last pass that observed the domain."""
    phase_since: Now | None = None
    """Since when the domain has been in that phase."""
    off_since: Now | None = None
    """Since when each pass of this process has observed the domain off, with no call and no outage in between."""
    off_doubted: bool = False
    """Whether the domain went off during a stop that this process did not send. Then its QEMU might still exist."""
    stop_attempt: StopAttempt | None = None
    """The stop in flight; None: there is none, or the last pass observed nothing."""
    start: Operation | None = None
    """The record of a start that this process last wrote, or tried to write."""
    start_called: bool = False
    """Whether libvirt might have received the call of that start."""
    start_repeated: bool = False
    """Whether that start is made again, because an earlier call of it, perhaps by a dead agent, has no known result."""
    start_unanswered: int = 0
    """How many calls of that start by this process had no known result, or were not sent."""
    start_counted: bool = False
    """Whether that start has increased `restartCount`."""
    unsent_shutdown: datetime | None = None
    """The time of the shutdown request that this process has recorded and not called yet; None: there is none."""
    failed: Action | None = None
    """The last action of this process, if it has failed."""
    next_attempt: Now | None = None
    """When the wait of the backoff ends; None: there is no backoff."""
    next_attempt_from: datetime | None = None
    """The time in the status from which `next_attempt` was computed."""
    scheduled: datetime | None = None
    """The requested time of a restart that this process has observed to be in the future."""
    scheduled_passed: Now | None = None
    """When this process first observed that the time in `scheduled` had passed."""
    jobless_since: Now | None = None
    """Since when it is known that no job causes the pause of the domain; None: a job causes it, or it is not known."""
    job: str = ""
    """The libvirt job that owned the domain when the host was last asked; empty: there was no job."""
    job_since: Now | None = None
    """When this process first observed that job."""
    outcome: Outcome | None = None
    """The outcome of the action that has ended since the last pass. The next pass uses and removes it."""
    unreported_stop: LastStop | None = None
    """The last stop, if it could not be reported yet, with the time of the first pass that found it."""


@dataclass(frozen=True, slots=True)
class Node:
    """The facts about the node that a decision needs."""

    name: str
    boot_id: str
    observe_only: bool = False
    blocked: str = ""
    """A message about why this agent is not allowed to act; empty: it is allowed to act."""
    braked_until: Now | None = None
    """When the brake is released. Until then, virtsync starts no VM and applies no restartPolicy. None: no brake."""
    host_uuid: UUID | None = None
    """libvirt's UUID of the machine; None: not known, or not stable."""
    libvirtd_since: datetime | None = None
    """When libvirtd was started: the time of its driver.pid, by the host's wall clock. None: not known."""
    maintenance: Maintenance | None = None
    """The maintenance of the host that the agent obeys; None: there is none."""


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
    """None: not requested yet. virtsync requests the facts only when an action is due."""
    call: CallInFlight | None = None
    """The call of an action on this domain that has not returned; None: there is none."""
    crowded: bool = False
    """Whether the maximum number of concurrent calls is in progress. Then no other call can begin."""
    turn_in_s: float = 0.0
    """How many seconds the due action must wait for its turn; 0: it need not wait."""
    runs_elsewhere: tuple[RunsElsewhere, ...] = ()
    """The entries of `status.runsElsewhere` of this host's Hypervisor that have the UUID of the VM's domain."""

    @property
    def desired(self) -> DesiredPowerState | None:
        """The power state that virtsync brings about: spec.powerState, or Stopped if maintenance shuts down the VM.

        If the VM is off, this is spec.powerState, so that the report shows what is due after the maintenance.
        """
        seen = self.observed
        on = isinstance(seen, Domain) and seen.phase in SHUT_DOWN_IN_MAINTENANCE
        return DesiredPowerState.STOPPED if on and self.to_be_shut_down else self.vm.desired

    @property
    def wants_on(self) -> bool:
        """Whether `desired` asks for a VM that has a QEMU process: Running or Paused."""
        return self.desired in {DesiredPowerState.RUNNING, DesiredPowerState.PAUSED}

    @property
    def to_be_shut_down(self) -> bool:
        """Whether maintenance of the host shuts down this VM if it is on, although the spec asks for Running."""
        maintenance = self.node.maintenance
        shuts_down = maintenance is not None and maintenance.mode is MaintenanceMode.SHUTDOWN
        return shuts_down and self.vm.desired is DesiredPowerState.RUNNING and not self.vm.holds

    @property
    def held(self) -> bool:
        """Whether a hold or maintenance of the host forbids every action.

        Maintenance with mode Shutdown forbids all actions except those of a stop.
        """
        maintenance = self.node.maintenance
        stops = (
            maintenance and maintenance.mode is MaintenanceMode.SHUTDOWN and self.desired is DesiredPowerState.STOPPED
        )
        return bool(self.vm.holds) or (maintenance is not None and not stops)

    @property
    def running_elsewhere(self) -> RunsElsewhere | None:
        """The first run of the VM on another host that forbids a start here; None: there is none.

        A run that the user confirms to be over forbids nothing.
        """
        confirmed = self.vm.confirmed_off
        return next((one for one in self.runs_elsewhere if one.confirmation != confirmed), None)

    @property
    def rebooted(self) -> bool:
        """Whether the host has booted since the last report, or another host wrote that report."""
        return self.vm.status.node_boot_id != self.node.boot_id

    @property
    def call_starts(self) -> bool:
        """Whether a start call of this process has not returned."""
        return self.call is not None and self.call.action.starts


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision of one row of the table: a reason, a message, at most one action, and when to observe again."""

    reason: Reason
    message: str
    action: Action | None = None
    recheck_s: float | None = None
    status: Status | None = None
    """The draft with the record that must be written before the action; None: the verdict records nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """The output of a decision: the report, at most one action, and when to observe again."""

    reason: Reason
    message: str
    status: Status
    memory: VmMemory
    action: PowerAction | None = None
    recheck_s: float | None = None
    notices: tuple[Notice, ...] = ()

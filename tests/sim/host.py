"""A libvirt that keeps its domains in memory, and the eyes and hands of an agent on it.

Nobody need believe it: tests/contract asks the real libvirt the same questions and wants the same answers. Its machine
and its guests take the words that the lab's real ones take; what they do has happened when the call returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

import libvirt

from controller.api.virtualmachine import Address, PowerState
from controller.hypervisor import states
from controller.hypervisor.events import Evidences
from controller.policy.view import Absent, Action, Domain, Evidence, Facts, Phase, PowerAction, Qemu, Replaced, Result
from controller.runtime.errors import Lingers, Rejected, Transient, Unsent, Vanished
from tests.sim.ledger import By, Ledger, Run

HANGS_S = 5.0
"""A QEMU that has left a call unanswered for so long hangs."""
LOCK_WAIT_S = 30.0
"""How long libvirt lets a call wait for another on the same domain."""
KILL_WAIT_S = 10.0
"""How long libvirt waits for a QEMU to end by itself before it kills it."""
FROZEN_KILL_WAIT_S = 80.0
"""How long libvirt tries to kill a frozen QEMU before it says that it is gone (measured)."""

ON = ("RUNNING", "PAUSED", "PMSUSPENDED", "CRASHED")


class NotNowError(Exception):
    """libvirt says that the domain is in another state."""


class Wait(Protocol):
    """How a call waits within libvirt."""

    def __call__(self, holds: Callable[[], bool]) -> None:
        """Return when this holds."""


def _wall() -> datetime:
    return datetime.now(UTC)


def _watch(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Heard:
    """One lifecycle event, in libvirt's words."""

    uuid: UUID
    name: str
    event: str
    detail: str
    run: int = -1
    """The id that the domain has then."""


class SimulatedLibvirtd:
    """The machine: its libvirtd, and its QEMUs."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = _watch,
        wall: Callable[[], datetime] = _wall,
        machine: str = "host",
        ledger: Ledger | None = None,
    ) -> None:
        self.clock, self.wait, self.wall = clock, wait, wall
        self.machine, self.ledger = machine, ledger or Ledger(clock)
        self.since = wall()
        """When this process of libvirtd began."""
        self.processes = 1
        """How many there have been, which tells one from the next."""
        self.guests: dict[UUID, SimulatedGuest] = {}
        self.undefined: dict[UUID, SimulatedGuest] = {}
        """Domains that are no longer defined, and whose QEMU was killed and has not ended."""
        self.listeners: list[Callable[[Heard], None]] = []
        self._runs = 0

    def define(
        self,
        name: str,
        *,
        uuid: UUID | None = None,
        disk: bool = False,  # noqa: ARG002 - every guest here has one
        on_poweroff: str = "destroy",
        on_crash: str = "destroy",
    ) -> SimulatedGuest:
        """Define a domain (off), or define it anew."""
        known = self.named(name) if uuid is None else self.guests.get(uuid)
        left = self.undefined.pop(uuid, None) if uuid else None
        guest = known or left or SimulatedGuest(self, name, uuid or uuid4())
        self.guests[guest.uuid] = guest
        guest.persistent, guest.on_poweroff, guest.on_crash = True, on_poweroff, on_crash
        guest.emit("DEFINED", "UPDATED" if known else "ADDED")
        return guest

    def forget(self, guest: SimulatedGuest) -> None:
        """Its definition is gone."""
        del self.guests[guest.uuid]
        if guest.lost:
            self.undefined[guest.uuid] = guest

    def named(self, name: str) -> SimulatedGuest | None:
        """The domain of this name."""
        return next((guest for guest in self.guests.values() if guest.name == name), None)

    def virsh(self, action: str, name: str, *rest: str) -> None:
        """What somebody does on the host. Raises NotNowError."""
        guest = self.named(name)
        assert guest
        match action:
            case "managedsave":
                guest.save()
            case "managedsave-remove":
                guest.saved_as = ""
            case "save":
                guest.save_to_file()
            case "restore":
                guest.restore()
            case "domrename":
                guest.rename(*rest)
            case "undefine":
                guest.undefine()
            case _:
                guest.do(VIRSH[action], By.VIRSH)

    def restart(self) -> None:
        """libvirtd is restarted: it no longer knows why a domain is off, and a start that it was at has failed."""
        self._begin_anew()
        for guest in self.guests.values():
            guest.forsake_start()
            if not guest.on:
                guest.reason = "UNKNOWN"
        if not any(guest.on for guest in self.guests.values()):
            self._runs = 0

    def reboot(self) -> None:
        """The machine goes down without a word, and comes up again."""
        self._begin_anew()
        for guest in [*self.guests.values(), *self.undefined.values()]:
            guest.power_fails()
            if not guest.persistent:
                self.guests.pop(guest.uuid, None)
        self.undefined.clear()
        self._runs = 0
        for guest in self.guests.values():
            if guest.autostart and not guest.fails_to_start:
                guest.do(Action.START, By.AUTOSTART)

    def _begin_anew(self) -> None:
        self.processes += 1
        self.since = self.wall()

    def next_id(self) -> int:
        """libvirt's number for the next run of a QEMU."""
        self._runs += 1
        return self._runs


class SimulatedGuest:
    """A domain, its QEMU, and the guest in it."""

    def __init__(self, libvirtd: SimulatedLibvirtd, name: str, uuid: UUID) -> None:
        self.libvirtd, self.name, self.uuid = libvirtd, name, uuid
        self.state, self.reason = "SHUTOFF", "UNKNOWN"
        self.id: int | None = None
        self.persistent = True
        self.saved_as = ""
        """The state in which its managed-save image has it."""
        self.on_poweroff = self.on_poweroff_now = self.on_crash = "destroy"
        self.deaf = False
        """It ignores the power button, until the next boot."""
        self.disk_full = False
        self.job = False
        """A libvirt job owns it."""
        self.stuck = False
        """Its QEMU answers nobody."""
        self.ran = False
        """The CPUs of this run have run."""
        self.fails_to_start = ""
        """libvirt's words for why it cannot be started."""
        self.calls: dict[int, float] = {}
        """The calls that wait for its QEMU, and since when."""
        self.autostart = False
        self.start_s = 0.0
        """How long each start by an agent takes; whoever types waits for none here."""
        self.start_shows = "off"
        """What a look sees meanwhile: "off" (a hook works), "starting" (QEMU is there), "nothing" (it waits)."""
        self.starting = False
        """A start is under way."""
        self.frozen = False
        """Its QEMU answers nobody, and cannot be killed."""
        self.run: Run | None = None
        self.run_since: datetime | None = None
        """When its QEMU began."""
        self.lost: list[Run] = []
        """QEMUs that live although libvirt shows it off: each holds the lock on its pid file."""
        self.forsaken: Run | None = None
        """The one of them whose pid file is still there, because the libvirtd that was at its start has gone."""

    @property
    def on(self) -> bool:
        """There is a QEMU."""
        return self.state in ON

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        return states.phase(self.state, self.reason, managed_save=bool(self.saved_as) and not self.on)

    # --- what the guest does, in the words of lab.guest

    def start(self) -> None:
        """Start it, as virsh does."""
        self.do(Action.START, By.VIRSH)

    def wait_until_booted(self) -> None:
        """It boots at once."""

    def poweroff(self) -> None:
        """Power off from inside."""
        if self.on_poweroff_now == "restart":
            return
        self.emit("SHUTDOWN", "GUEST")
        self._end("SHUTDOWN", "SHUTDOWN")

    def panic(self) -> None:
        """Panic as a kernel does."""
        if self.on_crash == "preserve":
            self._pass("CRASHED", "PANICKED", "CRASHED", "PANICKED")
        else:
            self._end("CRASHED", "CRASHED")

    def kill(self) -> None:
        """Its QEMU is killed."""
        self._end("CRASHED", "FAILED")

    def suspend_to_ram(self) -> None:
        """Sleep (ACPI S3)."""
        self._pass("PMSUSPENDED", "UNKNOWN", "PMSUSPENDED", "MEMORY")

    def ignore_power_button(self) -> None:
        """Obey no ACPI shutdown from now on, until the next boot."""
        self.deaf = True

    def fill_disk(self) -> None:
        """Write until there is no room."""
        self.disk_full = True
        self._pass("PAUSED", "IOERROR", "SUSPENDED", "IOERROR")

    def pause_by_watchdog(self) -> None:
        """Its watchdog has not heard of it."""
        self._pass("PAUSED", "WATCHDOG", "SUSPENDED", "WATCHDOG")

    def remove(self) -> None:
        """End its QEMU and undefine it."""
        if self.on:
            self.kill()
        self.undefine()

    # --- what libvirt does to it

    def do(self, action: Action, by: By = By.AGENT) -> None:
        """One call of libvirt. Raises NotNowError, Rejected (other words), Transient (no answer)."""
        called_s = self.libvirtd.ledger.moment()
        self._wait_for_start()
        if self.on and action is not Action.DESTROY:
            with self._asked():
                self._do(action, by, called_s)
        else:
            self._do(action, by, called_s)

    def _do(self, action: Action, by: By, called_s: float) -> None:  # noqa: PLR0912 - one libvirt call a case
        match action, self.state:
            case Action.START | Action.START_PAUSED, "SHUTOFF":
                self._start(by, called_s, paused=action is Action.START_PAUSED)
            case Action.START | Action.START_PAUSED, _:
                raise NotNowError("Requested operation is not valid: domain is already running")
            case Action.DESTROY, state if state in ON:
                self._destroy()
            case _, "SHUTOFF":
                raise NotNowError("Requested operation is not valid: domain is not running")
            case Action.RESUME, "PAUSED" | "CRASHED":
                self._resume()
            case Action.SUSPEND, "RUNNING":
                self._pass("PAUSED", "USER", "SUSPENDED", "PAUSED")
            case Action.SUSPEND, "PAUSED" | "CRASHED":
                pass
            case Action.WAKE, "PMSUSPENDED":
                self._pass("RUNNING", "WAKEUP", "STARTED", "WAKEUP")
                self.deaf = False
            case Action.SHUTDOWN, "RUNNING":
                if not self.deaf:
                    self.poweroff()
            case Action.SHUTDOWN, _:
                raise NotNowError("Requested operation is not valid: domain is not running")
            case Action.WAKE, _:
                raise NotNowError("internal error: Unable to wake up: guest is not in suspended state")
            case _:
                raise NotNowError(f"Requested operation is not valid: domain is {self.state.lower()}")

    def save(self) -> None:
        """Save its memory where libvirt finds it at the next start."""
        self.saved_as = self.state
        self._end("SAVED", "SAVED")

    def save_to_file(self) -> None:
        """Save its memory to a file that libvirt does not know of."""
        self._end("SAVED", "SAVED")

    def restore(self) -> None:
        """Go on from such a file. Raises NotNowError."""
        if self.on or self.starting:
            raise NotNowError("Requested operation is not valid: domain is already active")
        self._qemu_begins(By.RESTORE, self.libvirtd.ledger.moment())
        self.emit("STARTED", "RESTORED")
        self._pass("RUNNING", "RESTORED", "RESUMED", "FROM_SNAPSHOT")

    def migrate(self, target: SimulatedLibvirtd, *, undefine: bool) -> None:
        """Migrate it, live and persistently. Raises NotNowError."""
        there = target.guests.get(self.uuid)
        busy = self.stuck or self.frozen or self.job or bool(self.calls)
        if self.state != "RUNNING" or busy or (there and (there.on or there.starting or there.lost)):
            raise NotNowError("Requested operation is not valid: it cannot be migrated now")
        there = target.define(self.name, uuid=self.uuid)
        self._end("MIGRATED", "MIGRATED")
        there._arrive()
        if undefine and self.persistent:  # a transient domain has ended with its QEMU
            self.undefine()

    def _arrive(self) -> None:
        self._qemu_begins(By.MIGRATION, self.libvirtd.ledger.moment())
        self.emit("STARTED", "MIGRATED")
        self._pass("RUNNING", "MIGRATED", "RESUMED", "MIGRATED")

    def freeze(self) -> None:
        """Put its QEMU where no signal ends it."""
        self.frozen = self.stuck = True

    def thaw(self) -> None:
        """Let go on what is frozen; what was killed meanwhile ends."""
        self.frozen = self.stuck = False
        for run in self.lost:
            self.libvirtd.ledger.end(run)
        self.lost.clear()
        self.forsaken = None

    def power_fails(self) -> None:
        """The machine under it goes down."""
        self.on_poweroff_now = self.on_poweroff
        self.frozen = self.stuck = self.job = self.deaf = False
        self.starting = False
        for run in [*self.lost, *([self.run] if self.run else [])]:
            self.libvirtd.ledger.end(run)
        self.lost.clear()
        self.forsaken = None
        self._goes_off("UNKNOWN")

    def forsake_start(self) -> None:
        """The libvirtd that was at its start is gone; a QEMU that was there lives on unknown."""
        if self.starting and self.run:
            self.libvirtd.ledger.lose(self.run)
            self.lost.append(self.run)
            self.forsaken = self.run
            self._goes_off("UNKNOWN")
        self.starting = False

    def rename(self, name: str) -> None:
        """Give it another name; only while it is off."""
        self.emit("UNDEFINED", "RENAMED")
        self.name = name
        self.emit("DEFINED", "RENAMED")

    def undefine(self) -> None:
        """Forget its definition; while it runs it runs on."""
        self.persistent = False
        self.saved_as = ""
        if not self.on:
            self.libvirtd.forget(self)
        self.emit("UNDEFINED", "REMOVED")

    def emit(self, event: str, detail: str) -> None:
        """Tell all who listen."""
        for listener in self.libvirtd.listeners:
            listener(Heard(self.uuid, self.name, event, detail, -1 if self.id is None else self.id))

    def _wait_for_start(self) -> None:
        """A call waits until no start is under way."""
        given_up_s = self.libvirtd.clock() + LOCK_WAIT_S
        self.libvirtd.wait(lambda: not self.starting or self.libvirtd.clock() >= given_up_s)
        if self.starting:
            raise Transient("Timed out during operation: cannot acquire state change lock")

    def _qemu_begins(self, by: By, called_s: float) -> None:
        self.run = self.libvirtd.ledger.begin(self.uuid, self.libvirtd.machine, by, called_s)
        self.run_since = self.libvirtd.wall()
        self.id, self.deaf, self.on_poweroff_now = self.libvirtd.next_id(), False, self.on_poweroff

    def _take_its_time(self, by: By, called_s: float) -> None:
        """A slow start. Raises Transient when the libvirtd that is at it goes."""
        libvirtd, process = self.libvirtd, self.libvirtd.processes
        ready_s = libvirtd.clock() + self.start_s
        self.starting = True
        if self.start_shows == "starting":
            self._qemu_begins(by, called_s)
            self.state, self.reason = "PAUSED", "STARTING_UP"
        libvirtd.wait(lambda: libvirtd.clock() >= ready_s or libvirtd.processes != process)
        if libvirtd.processes != process:
            raise Transient("End of file while reading data")
        self.starting = False

    def _start(self, by: By, called_s: float, *, paused: bool) -> None:
        if self.fails_to_start:
            self.reason = "FAILED"
            self.emit("STOPPED", "FAILED")
            raise Rejected(self.fails_to_start)
        if self.start_s and by is By.AGENT:
            self._take_its_time(by, called_s)
        if not self.on:
            self._qemu_begins(by, called_s)
        saved_as, self.saved_as = self.saved_as, ""
        self.ran = bool(saved_as) or not paused
        if saved_as:
            self.state, self.reason = "PAUSED", "MIGRATION"
            self.emit("STARTED", "RESTORED")
            if saved_as == "RUNNING" and not paused:
                self._pass("RUNNING", "RESTORED", "RESUMED", "MIGRATED")
        else:
            if not paused:
                self.emit("RESUMED", "UNPAUSED")
            self.emit("STARTED", "BOOTED")
            self.state, self.reason = ("PAUSED", "USER") if paused else ("RUNNING", "BOOTED")
            if paused:
                self.emit("SUSPENDED", "PAUSED")

    def _resume(self) -> None:
        self.ran = True
        self._pass("RUNNING", "UNPAUSED", "RESUMED", "UNPAUSED")
        if self.disk_full:
            self._pass("PAUSED", "IOERROR", "SUSPENDED", "IOERROR")

    def _destroy(self) -> None:
        if self.stuck:
            killed_s = self.libvirtd.clock() + (FROZEN_KILL_WAIT_S if self.frozen else KILL_WAIT_S)
            self.libvirtd.wait(lambda: not self.stuck or self.libvirtd.clock() >= killed_s)
        if self.on:
            self.emit("SHUTDOWN", "HOST")
            self._end("DESTROYED", "DESTROYED")

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """A call waits until no other is at its QEMU, and then until its QEMU answers, or is gone."""
        libvirtd, run = self.libvirtd, self.id
        given_up_s = libvirtd.clock() + LOCK_WAIT_S
        libvirtd.wait(lambda: not (self.calls or self.job) or self.id != run or libvirtd.clock() >= given_up_s)
        if self.id != run:
            raise NotNowError("Requested operation is not valid: domain is not running")
        if self.calls or self.job:
            raise Transient("Timed out during operation: cannot acquire state change lock")
        call = max(self.calls, default=0) + 1
        self.calls[call] = libvirtd.clock()
        try:
            libvirtd.wait(lambda: not self.stuck or self.id != run)
            if self.id != run:
                raise Rejected("Unable to read from monitor: Connection reset by peer")
            yield
        finally:
            del self.calls[call]

    def _pass(self, state: str, reason: str, event: str, detail: str) -> None:
        self.state, self.reason = state, reason
        self.emit(event, detail)

    def _goes_off(self, reason: str) -> None:
        self.state, self.reason, self.id, self.run, self.run_since = "SHUTOFF", reason, None, None, None

    def _end(self, reason: str, detail: str) -> None:
        if self.run and self.frozen:
            self.libvirtd.ledger.lose(self.run)
            self.lost.append(self.run)
        elif self.run:
            self.libvirtd.ledger.end(self.run)
        self._goes_off(reason)
        self.frozen = self.stuck = self.job = False
        if not self.persistent:
            self.libvirtd.forget(self)
        self.emit("STOPPED", detail)


VIRSH = {
    "start": Action.START,
    "destroy": Action.DESTROY,
    "suspend": Action.SUSPEND,
    "resume": Action.RESUME,
    "dompmwakeup": Action.WAKE,
    "shutdown": Action.SHUTDOWN,
}


class SimulatedHost:
    """`reconcile.Host`, on a simulated libvirtd: what one agent sees of it, and does."""

    def __init__(self, libvirtd: SimulatedLibvirtd) -> None:
        self.libvirtd = libvirtd
        self._reachable = True
        self._evidences = Evidences()
        self._watched: set[Run] = set()
        """QEMUs that this agent has seen running or has begun: it has their pid files open, and sees their locks."""

    @property
    def reachable(self) -> bool:
        """The agent is connected to libvirtd."""
        return self._reachable

    @reachable.setter
    def reachable(self, reachable: bool) -> None:
        if reachable and not self._reachable:
            self._evidences.connected()
        self._reachable = reachable

    def hear(self, heard: Heard) -> None:
        """Take in an event, whenever it comes."""
        number = int(getattr(libvirt, f"VIR_DOMAIN_EVENT_{heard.event}"))
        detail = int(getattr(libvirt, f"VIR_DOMAIN_EVENT_{heard.event}_{heard.detail}"))
        self._evidences.note(heard.uuid, number, detail, self.libvirtd.clock(), run=heard.run)

    def observe(self, address: Address) -> Domain | Absent | Replaced:
        """See one domain as it is now. Raises Transient."""
        self._reach()
        if address.uuid and (guest := self.libvirtd.guests.get(address.uuid)):
            return self._see(guest)
        if address.uuid:
            self._check_qemu_exited(address)
            self._evidences.observed_absent(address.uuid, self.libvirtd.clock())
        guest = self.libvirtd.named(address.name) if address.name else None
        if guest is None:
            self._check_qemu_exited(address)
            return Absent()
        return Replaced(guest.uuid, guest.name) if address.uuid else self._see(guest)

    def _check_qemu_exited(self, address: Address) -> None:
        for guest in self.libvirtd.undefined.values():
            named = guest.name == address.name if address.uuid is None else guest.uuid == address.uuid
            if named and self._lives_on(guest):
                raise Lingers("libvirt no longer has the domain, but its QEMU process has not exited")

    def facts(self, domain: Domain) -> Facts:
        """Learn what only an act needs to know. Raises Transient, Vanished."""
        if domain.phase.off or domain.lingers:
            return Facts(qemu=self._qemu(self.libvirtd.guests.get(domain.uuid)))
        self._reach()
        guest = self.libvirtd.guests.get(domain.uuid)
        if guest is None:
            raise Vanished(f"domain {domain.name} no longer exists")
        waited_s = max((self.libvirtd.clock() - since_s for since_s in guest.calls.values()), default=-1.0)
        call = "job" if 0 <= waited_s < HANGS_S else ""
        occupied = not guest.job and waited_s >= 0
        begun_paused = guest.state == "PAUSED" and self._evidences.started_paused(guest.uuid, guest.id)
        return Facts(
            job="backup" if guest.job else call,
            never_ran=begun_paused and not guest.ran,
            hangs=occupied and waited_s >= HANGS_S,
            reboots_on_poweroff=not occupied and guest.on_poweroff_now == "restart",
        )

    def act(self, action: PowerAction) -> Result:
        """Do it, if the domain is still as it was seen. Raises Unsent, Transient, Rejected."""
        try:
            seen = self.observe(Address(uuid=action.domain.uuid))
        except Transient as error:
            raise Unsent(str(error)) from error
        if not isinstance(seen, Domain) or not action.fits(seen) or action.expired(self.libvirtd.clock()):
            return Result.NOT_CALLED
        guest = self.libvirtd.guests[action.domain.uuid]
        if seen.lingers or (action.kind.starts and seen.phase.off and self._qemu(guest) is Qemu.ALIVE):
            return Result.NOT_CALLED
        if action.kind.starts:
            self._start_unknowing(guest)
        try:
            guest.do(action.kind)
            self._watch(guest)
        except NotNowError as error:
            if action.kind.achieved_in(guest.phase):
                return Result.ALREADY
            raise Rejected(str(error)) from error
        return Result.DONE

    def _qemu(self, guest: SimulatedGuest | None) -> Qemu:
        return Qemu.ALIVE if guest and (self._lives_on(guest) or guest.forsaken) else Qemu.GONE

    def _lives_on(self, guest: SimulatedGuest) -> bool:
        others = (other for other in self.libvirtd.undefined.values() if other.name == guest.name)
        return any(run in self._watched for one in (guest, *others) for run in one.lost)

    def _watch(self, guest: SimulatedGuest) -> None:
        if guest.run:
            self._watched.add(guest.run)

    def _start_unknowing(self, guest: SimulatedGuest) -> None:
        """It is started beside QEMUs whose pid files are gone, and were never open in this process of the agent."""
        for run in guest.lost:
            run.unknown_s = run.unknown_s or self.libvirtd.ledger.moment()

    def evidence(self, uuid: UUID) -> frozenset[Evidence]:
        """What events said of this domain since it was last started. No call."""
        return self._evidences.of(uuid)

    def forget_arrival(self, uuid: UUID) -> None:
        """A report shows it. No call."""
        self._evidences.forget_arrival(uuid)

    def relist(self) -> list[Domain]:
        """All domains. Raises Transient."""
        self._reach()
        return [self._see(guest) for guest in self.libvirtd.guests.values()]

    def _reach(self) -> None:
        if not self.reachable:
            raise Transient("not connected")

    def _see(self, guest: SimulatedGuest) -> Domain:
        self._watch(guest)
        if guest.phase.power_state is PowerState.RUNNING:
            self._evidences.observed_running(guest.uuid, self.libvirtd.clock())
        elif guest.phase.off:
            self._evidences.observed_off(guest.uuid, self.libvirtd.clock())
        lives_on = guest.phase.off and self._lives_on(guest)
        return Domain(
            uuid=guest.uuid,
            name=guest.name,
            phase=Phase.SHUTTING_DOWN if lives_on else guest.phase,
            id=guest.id,
            state=guest.state,
            reason=guest.reason,
            persistent=guest.persistent,
        )

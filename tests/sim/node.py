"""A node: a simulated machine, and on it an agent made of its own parts, which can be let run step by step.

A judge looks at every act when it is done, and knows what the agent may not: the objects as they were when the act was
sent off, and the machine as it is.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast
from uuid import NAMESPACE_DNS, UUID, uuid5

from controller.agent.acting import FORCE_HANGS_AFTER_S, FORCED_AT_ONCE, HANGS_AFTER_S
from controller.agent.brake import NodeBrake
from controller.agent.domain_index import DomainIndex
from controller.agent.reconcile import Reconciler
from controller.agent.relist import RelistDiff
from controller.api.clock import Now
from controller.api.codec import parse
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.notice import Notice
from controller.api.virtualmachine import (
    Address,
    DesiredPowerState,
    OperationType,
    PowerState,
    ShutdownMode,
    Status,
    StopCause,
    VirtualMachine,
    VmKey,
)
from controller.kube.client import Api
from controller.kube.store import KubeStore
from controller.policy.brake import USUAL_TIMES
from controller.policy.start_limiter import StartLimiter
from controller.policy.view import (
    POST_COPY_FAILED,
    Absent,
    Action,
    Domain,
    Evidence,
    Facts,
    Node,
    Phase,
    PowerAction,
    Replaced,
    Result,
)
from controller.policy.waits import Waits
from controller.runtime.errors import CircuitOpen, Conflicted, Rejected, Transient
from controller.runtime.workqueue import WorkQueue
from tests.sim.api import SimulatedApi
from tests.sim.host import HANGS_S, Heard, SimulatedHost, SimulatedLibvirtd
from tests.sim.ledger import Ledger

WAITS = Waits()
NON_HOLDER_DELAY_S = 5.0
"""How long an agent that may not act lets stand what another has written."""
STARTS_AT_ONCE, START_INTERVAL_S = 2, 1.0


class Clock:
    """The time of a world: it passes when it is let."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s

    def wall(self) -> datetime:
        """What the clock on the wall shows."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.at_s)

    def now(self) -> Now:
        """Both."""
        return Now(self.wall(), self.at_s)


class DiedError(BaseException):
    """The process of the agent ends here."""


@dataclass(frozen=True, slots=True)
class SentOff:
    """The world when an act was sent off."""

    at_s: float
    wall: datetime
    objects: dict[VmKey, dict[str, Any]]
    observe_only: bool
    maintenance: Maintenance | None
    elsewhere: dict[UUID, RunsElsewhere]
    jobs: set[UUID]
    deaf: set[UUID]
    """Those that nobody can ask: each shutdown would be a reboot, or the QEMU is known to hang."""


class Strand:
    """A thread that runs only while it is let, so that what happens in a world can happen again."""

    _current = threading.local()

    def __init__(self, do: Callable[[], None], sent_off: SentOff) -> None:
        self._do, self.sent_off = do, sent_off
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.begun = self.ended = False

    @classmethod
    def current(cls) -> Strand:
        """The one that runs."""
        strand: Strand = cls._current.strand
        return strand

    def step(self) -> None:
        """Let it run to where it waits next, or to its end."""
        if not self.begun:
            self.begun = True
            threading.Thread(target=self._run, daemon=True).start()
        self._go.release()
        self._waits.acquire()

    def pause(self) -> None:
        """Let the world go on."""
        self._waits.release()
        self._go.acquire()

    def _run(self) -> None:
        self._go.acquire()
        Strand._current.strand = self
        try:
            self._do()
        finally:
            self.ended = True
            self._waits.release()


def wait(holds: Callable[[], bool]) -> None:
    """How a call waits within the simulated libvirt."""
    while not holds():
        Strand.current().pause()


class SimulatedNode:
    """A machine with an agent; the machine has the name of its node, unless it has one of its own."""

    def __init__(
        self, name: str, api: SimulatedApi, clock: Clock, *, machine: str = "", ledger: Ledger | None = None
    ) -> None:
        self.name, self.api, self.clock = name, api, clock
        self.machine = machine or name
        self.host_uuid = uuid5(NAMESPACE_DNS, self.machine)
        self.boots = 1
        self.observe_only = False
        self.blocked = ""
        """Why its agent may not act: another has the Lease."""
        self.maintenance: Maintenance | None = None
        """What its Hypervisor object declares, which its agent obeys at once."""
        self.runs_elsewhere: dict[UUID, RunsElsewhere] = {}
        """What its Hypervisor object says of other hosts."""
        self.tell: Callable[[str], None] = lambda _line: None
        """Takes a line of the history of the world."""
        self.libvirtd = SimulatedLibvirtd(
            clock=clock, wait=wait, wall=clock.wall, machine=self.machine, ledger=ledger or Ledger(clock)
        )
        self.libvirtd.listeners.append(self._tell)
        self.judge = Judge(self)
        self.left: list[Strand] = []
        """Calls of agents that have died; libvirt goes on with them."""
        self.agent = SimulatedAgent(self)

    @property
    def boot_id(self) -> str:
        """Tells this boot of the machine from the next."""
        return f"{self.machine}-boot-{self.boots}"

    def as_node(self) -> Node:
        """What its agent knows of it."""
        return Node(
            self.name,
            self.boot_id,
            self.observe_only,
            self.blocked,
            host_uuid=self.host_uuid,
            libvirtd_since=self.libvirtd.since,
            maintenance=self.maintenance,
        )

    def obey(self, mode: MaintenanceMode | None) -> None:
        """An administrator declares a maintenance, or ends it."""
        self.maintenance = Maintenance(mode, "new RAM") if mode else None
        self._look_again()

    def told_elsewhere(self, entries: dict[UUID, RunsElsewhere]) -> None:
        """The manager writes what it sees on other hosts."""
        if entries != self.runs_elsewhere:
            self.runs_elsewhere = entries
            self._look_again()

    def _look_again(self) -> None:
        for key in self.agent.objects.known():
            self.agent.queue.add(key)

    def restart_agent(self) -> None:
        """The agent dies where it stands, and another begins."""
        self.left += [strand for strand in self.agent.calls if strand.begun]
        reachable = self.agent.host.reachable
        self.agent = SimulatedAgent(self)
        self.agent.host.reachable = reachable

    def reboot(self) -> None:
        """The machine goes down at once, and comes up again."""
        self.libvirtd.reboot()
        self.boots += 1
        self.restart_agent()

    def calls_go_on(self) -> bool:
        """Let every call go on as far as it can; whether any did."""
        strands = [*self.left, *self.agent.calls]
        before = [(strand.begun, strand.ended) for strand in strands]
        for strand in strands:
            strand.step()
        self.forget_ended()
        return [(strand.begun, strand.ended) for strand in strands] != before

    def forget_ended(self) -> None:
        """Calls that have ended are nobody's."""
        self.left = [strand for strand in self.left if not strand.ended]
        self.agent.calls = [strand for strand in self.agent.calls if not strand.ended]

    def as_it_is(self) -> SentOff:
        """What the judge needs to know of this moment."""
        guests, now_s = self.libvirtd.guests.values(), self.clock()
        hang = [guest for guest in guests if any(now_s - since_s >= HANGS_S for since_s in guest.calls.values())]
        return SentOff(
            at_s=now_s,
            wall=self.clock.wall(),
            objects=dict(self.api.objects),
            observe_only=self.observe_only,
            maintenance=self.maintenance,
            elsewhere=dict(self.runs_elsewhere),
            jobs={guest.uuid for guest in guests if guest.job},
            deaf={g.uuid for g in guests if g in hang or g.on_poweroff_now == "restart"},
        )

    def _tell(self, heard: Heard) -> None:
        self.agent.unheard.append(heard)


class SimulatedAgent:
    """One process: it knows what it has been told, and forgets it when it ends."""

    def __init__(self, node: SimulatedNode) -> None:
        self.node = node
        self.queue: WorkQueue[VmKey] = WorkQueue(clock=node.clock, uniform=lambda _low, high: high)
        self.host = SimulatedHost(node.libvirtd)
        self.objects = KubeStore(
            cast("Api", Wire(self)),
            node.name,
            on_rewound=lambda: None,
            on_kept=lambda _raw: None,
            on_absent=self.queue.add,
        )
        self.domain_index = DomainIndex()
        self.brake = NodeBrake(WAITS, node.boot_id)
        self.comparison = RelistDiff()
        self.calls: list[Strand] = []
        self.unheard: list[Heard] = []
        """Events that are on their way."""
        self.meanwhile: dict[str, Callable[[], None]] = {}
        """What happens, once, and when: "before the report", "before the refresh", "after the report"."""
        self.api_away = False
        self.answers_lost = False
        self.next_patch_unanswered: Transient | None = None
        """What it gets in the place of the answer to its next PATCH, which is written: see `Wire`."""
        self.saw: Domain | Absent | Replaced | None = None
        """What the last look showed."""
        self.reconciler = Reconciler(
            host=Watched(self),
            store=Written(self),
            recorder=Nobody(),
            queue=self.queue,
            domain_index=self.domain_index,
            brake=self.brake,
            start_limiter=StartLimiter(STARTS_AT_ONCE, START_INTERVAL_S),
            gauges=Nobody(),
            node_name=node.name,
            node=node.as_node,
            waits=WAITS,
            runs_elsewhere=lambda uuid: tuple(one for one in node.runs_elsewhere.values() if one.uuid == uuid),
            spawn=lambda do: self.calls.append(Strand(do, node.as_it_is())),
            clock=node.clock.now,
        )
        self.objects.relist()
        for vm in self.objects.vms():
            self.reconciler.index(vm)
            self.brake.note(vm.key, vm.status, node.clock.now())
            self.queue.add(vm.key)

    def connect(self, *, reachable: bool) -> None:
        """libvirt goes, or comes back."""
        if reachable is not self.host.reachable:
            self.host.reachable = reachable
            self.unheard.clear()
            for key in self.objects.known():
                self.queue.add(key)

    def passes(self) -> bool:
        """One pass, if a VM waits for one; whether one did."""
        if not len(self.queue):
            return False
        key = self.queue.get()
        assert key
        try:
            self.reconciler.reconcile(key)
        except (Transient, Rejected):
            self.queue.retry(key)
        except DiedError:
            self.node.restart_agent()
        else:
            self.queue.forget(key)
        finally:
            self.queue.done(key)
        return True

    def hears_watch(self) -> bool:
        """All that the API server has to tell; whether anything changed."""
        changed, gone = self.objects.relist()
        for key in sorted(changed | gone):
            self.queue.add_after(key, NON_HOLDER_DELAY_S if self.node.blocked else 0.0)
        return bool(changed | gone)

    def hears_event(self, index: int = 0) -> bool:
        """One event of those on their way."""
        if not self.unheard:
            return False
        heard = self.unheard.pop(index % len(self.unheard))
        self.host.hear(heard)
        for key in sorted(self.domain_index.keys(heard.uuid, heard.name)):
            self.reconciler.event(key, self.node.clock())
        return True

    def relists(self) -> None:
        """What it does once a minute: list libvirt, and look at what is not as it was reported."""
        for vm in self.comparison.changed(self.objects.vms(), self.host.relist()):
            self.queue.add(vm.key)

    def happens(self, moment: str) -> None:
        """Let that happen which waits for this moment."""
        if happen := self.meanwhile.pop(moment, None):
            happen()


class Wire:
    """An agent's way to the API server, on which answers get lost.

    With the connection back at once the store's next try meets Conflicted, else the circuit is open. Neither is
    tried again within the request, which would cost time that is not simulated.
    """

    CONFLICT = Conflicted("the object has been modified")
    SILENCE = CircuitOpen("the API server does not answer")

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent = agent

    def request(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        if self._agent.api_away:
            raise self.SILENCE
        answer = self._agent.node.api.request(method, path, body, **query)
        lost, self._agent.next_patch_unanswered = (
            (self._agent.next_patch_unanswered, None)
            if method == "PATCH"
            else (None, self._agent.next_patch_unanswered)
        )
        if lost:
            self._agent.node.tell(f"agent on {self._agent.node.machine}: the answer to its PATCH is lost")
            raise lost
        return answer

    def request_text(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> bytes:
        return json.dumps(self.request(method, path, body, **query)).encode()


class Watched:
    """The host of an agent, whose every act is judged."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent, self._host = agent, agent.host

    def observe(self, address: Address) -> Domain | Absent | Replaced:
        seen = self._host.observe(address)
        if isinstance(seen, Domain) and (guest := self._agent.node.libvirtd.guests.get(seen.uuid)):
            if guest.starting and guest.start_shows == "nothing":
                raise Transient("libvirt has not answered what was asked of this domain")
            seen = replace(seen, run_since=guest.run_since)
        self._agent.saw = seen
        return seen

    def facts(self, domain: Domain) -> Facts:
        return self._host.facts(domain)

    def evidence(self, uuid: UUID) -> frozenset[Evidence]:
        return self._host.evidence(uuid)

    def forget_arrival(self, uuid: UUID) -> None:
        self._host.forget_arrival(uuid)

    def act(self, action: PowerAction) -> Result:
        return self._agent.node.judge.watch(self._agent, action, self._do)

    def _do(self, action: PowerAction) -> Result:
        node = self._agent.node
        node.tell(f"agent on {node.machine}: calls {action.kind.name} of {action.domain.name}")
        try:
            result = self._host.act(action)
        finally:
            Strand.current().pause()  # the answer is on its way
        if self._agent.answers_lost:
            raise Transient("the connection was lost before the answer came")
        return result


class Written:
    """The store of an agent, and what may happen about it."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent, self._store = agent, agent.objects

    def read(self, key: VmKey) -> VirtualMachine | None:
        return self._store.read(key)

    def refresh_uncertain(self, key: VmKey) -> None:
        if key in self._store._uncertain:
            self._reach()
        self._store.refresh_uncertain(key)

    def refresh(self, key: VmKey) -> VirtualMachine | None:
        self._agent.happens("before the refresh")
        self._reach()
        return self._store.refresh(key)

    def report(self, vm: VirtualMachine, status: Status) -> VirtualMachine:
        self._agent.happens("before the report")
        self._reach()
        before = self._agent.node.api.objects.get(vm.key)
        reported = self._store.report(vm, status)
        if before:
            self._agent.node.judge.reported(before, reported, self._agent.saw)
        if reported is not vm:
            node, told = self._agent.node, reported.status
            operation = f", {told.operation.type} is open" if told.operation else ""
            node.tell(f"agent on {node.machine}: reports {vm.key.name} {told.power_state}, {told.reason}{operation}")
        self._agent.happens("after the report")
        return reported

    def _reach(self) -> None:
        if self._agent.api_away:
            raise Transient("the API server does not answer")


def vouching(raw: dict[str, Any]) -> str:
    """What a user writes who vouches for the report of this object, in the form that its writer understands."""
    status = raw["status"]
    return " ".join(filter(None, (status.get("nodeName"), status.get("runTransitionTime"))))


class Nobody:
    """Whoever is told something and does nothing with it."""

    def record(self, vm: VirtualMachine, notice: Notice) -> None: ...
    def reported(self, vm: VirtualMachine, status: Status, since_s: float | None) -> None: ...
    def observed(self, vm: VirtualMachine, status: Status) -> None: ...
    def acted(self, action: Action, result: Result) -> None: ...
    def forgotten(self, key: VmKey) -> None: ...


class Judge:
    """What no agent may do, whatever happens to it. What one has done all the same is in `wrongs`."""

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node
        self.keys: dict[UUID, VmKey] = {}
        """Which object speaks of which domain."""
        self.wrongs: list[str] = []
        self.done: list[tuple[VmKey, Action]] = []
        self._under_way: defaultdict[SimulatedAgent, list[tuple[float, PowerAction]]] = defaultdict(list)
        """Acts that have not returned, and when each was sent off."""
        self._asked_s: dict[tuple[SimulatedAgent, UUID, int | None], float] = {}
        self._started_s: defaultdict[SimulatedAgent, list[float]] = defaultdict(list)
        self._restarted: defaultdict[tuple[VmKey, datetime | None], set[tuple[str, int | None]]] = defaultdict(set)
        """The runs that were ended, or asked to end, for each restart that a user has asked for."""

    def watch(self, agent: SimulatedAgent, action: PowerAction, do: Callable[[PowerAction], Result]) -> Result:
        """Have it done, and judge it."""
        sent_off = Strand.current().sent_off
        key = self.keys[action.domain.uuid]
        raw = sent_off.objects.get(key)
        if raw is None:
            self.wrongs.append(f"{action}: there is no {key}")
            return do(action)
        vm = parse(raw)
        rules = [*self._any_act(agent, vm, action), *self._start(agent, vm, action), *self._stop(agent, vm, action)]
        self.wrongs += [f"{key}: {rule}: {action}, {vm}" for rule, kept in rules if not kept]
        if action.kind is Action.SHUTDOWN:
            self._asked_s.setdefault((agent, action.domain.uuid, action.domain.id), sent_off.at_s)
        guest = self._node.libvirtd.guests.get(action.domain.uuid)
        before = guest and (guest.phase, guest.id)
        self._under_way[agent].append((sent_off.at_s, action))
        try:
            result = do(action)
        except Exception as error:
            if not isinstance(error, (Rejected, Transient)):
                self.wrongs.append(repr(error))
            raise
        finally:
            self._under_way[agent].remove((sent_off.at_s, action))
        if result is Result.DONE:
            self.done.append((key, action.kind))
            if before != (action.domain.phase, action.domain.id):
                self.wrongs.append(f"{key}: it was {before} and no longer what had been seen: {action}")
            self._count_restart(vm, action)
        return result

    def reported(self, raw: dict[str, Any], after: VirtualMachine, saw: object) -> None:
        """A report has been written over that of this object."""
        before = parse(raw)
        former, node = before.status, self._node.name
        if former.node_name in {"", node} or after.status.node_name != node:
            return
        off = former.power_state in {PowerState.STOPPED, PowerState.SAVED, PowerState.ABSENT} or (
            former.power_state is PowerState.CRASHED and former.libvirt_state == "SHUTOFF"
        )
        on_here = isinstance(saw, Domain) and saw.phase.on
        vouched = before.confirmed_off == vouching(raw)
        if not (off or on_here or vouched):
            self.wrongs.append(f"{before.key}: taken from {former.node_name}, where it may be on: {before}")

    def _any_act(self, agent: SimulatedAgent, vm: VirtualMachine, action: PowerAction) -> list[tuple[str, bool]]:
        at_s, under_way = Strand.current().sent_off.at_s, self._under_way[agent]
        maintenance = Strand.current().sent_off.maintenance
        others = [other for _, other in under_way if other.domain.uuid == action.domain.uuid]
        forced_s = [other_s for other_s, other in under_way if other.kind is Action.DESTROY]
        there = Strand.current().sent_off.elsewhere.get(action.domain.uuid)
        only_here = there is None or vm.confirmed_off == there.confirmation
        return [
            (
                "a start of what runs elsewhere",
                only_here or not (action.kind.starts or action.kind in {Action.RESUME, Action.WAKE}),
            ),
            ("an act on what nobody knows", action.domain.phase not in POST_COPY_FAILED | {Phase.UNKNOWN}),
            ("an act on a VM that is held", not vm.holds),
            ("an act under Hold", maintenance is None or maintenance.mode is MaintenanceMode.SHUTDOWN),
            ("an act on a VM that is only watched", vm.desired is not None),
            ("an act on another node's VM", vm.node_name == vm.status.node_name == self._node.name),
            ("an act of an agent that only watches", not Strand.current().sent_off.observe_only),
            ("an act during a job", action.domain.uuid not in Strand.current().sent_off.jobs),
            ("a second polite act", action.kind is Action.DESTROY or not others),
            (
                "two are forced at once, and neither hangs",
                action.kind is not Action.DESTROY
                or all(abs(at_s - other_s) > FORCE_HANGS_AFTER_S for other_s in forced_s),
            ),
            ("too many are forced at once", action.kind is not Action.DESTROY or len(forced_s) < FORCED_AT_ONCE),
        ]

    def _start(self, agent: SimulatedAgent, vm: VirtualMachine, action: PowerAction) -> list[tuple[str, bool]]:
        if not action.kind.starts:
            return []
        at_s, started_s = Strand.current().sent_off.at_s, self._started_s[agent]
        operation = vm.status.operation
        asked = vm.desired != vm.status.desired or (operation and operation.type is OperationType.RESTART)
        starts_s = [other_s for other_s, other in self._under_way[agent] if other.kind.starts]
        recent = [other_s for other_s in starts_s if abs(at_s - other_s) <= HANGS_AFTER_S]
        started_s.append(at_s)
        return [
            ("a start during a maintenance", Strand.current().sent_off.maintenance is None),
            ("it need not be on", vm.desired in {DesiredPowerState.RUNNING, DesiredPowerState.PAUSED}),
            ("too many starts at once", len(recent) < STARTS_AT_ONCE and len(starts_s) < 2 * STARTS_AT_ONCE),
            (
                "starts too soon after each other",
                all(b - a >= START_INTERVAL_S for a, b in pairwise(sorted(started_s))),
            ),
            ("several VMs stopped together", asked or not self._braked()),
        ]

    def _braked(self) -> bool:
        sent_off, node = Strand.current().sent_off, self._node
        vms = [parse(raw) for raw in sent_off.objects.values()]
        stops = sorted(
            vm.status.last_stop.time
            for vm in vms
            if vm.node_name == vm.status.node_name == node.name
            and vm.status.node_boot_id == node.boot_id
            and vm.status.last_stop
            and vm.status.last_stop.cause in {StopCause.GUEST, StopCause.EXTERNAL, StopCause.SAVED}
            and vm.status.restart_count < USUAL_TIMES  # else that may be its work
        )
        window, hold = timedelta(seconds=WAITS.brake_window_s), timedelta(seconds=WAITS.brake_hold_s)
        return any(
            last - first <= window and sent_off.wall < last + hold
            for first, last in zip(stops, stops[WAITS.brake_count - 1 :], strict=False)
        )

    def _stop(self, agent: SimulatedAgent, vm: VirtualMachine, action: PowerAction) -> list[tuple[str, bool]]:
        if action.kind not in {Action.SHUTDOWN, Action.DESTROY}:
            return []
        operation = vm.status.operation
        restart = operation is not None and operation.type is OperationType.RESTART
        running = vm.desired is DesiredPowerState.RUNNING
        asked = running and (restart or Strand.current().sent_off.maintenance is not None)
        return [
            ("it need not be off", vm.desired is DesiredPowerState.STOPPED or asked),
            ("a stop that nobody has written down", operation is not None and operation.domain_id == action.domain.id),
            ("force without patience", action.kind is Action.SHUTDOWN or self._may_force(agent, vm, action)),
        ]

    def _may_force(self, agent: SimulatedAgent, vm: VirtualMachine, action: PowerAction) -> bool:
        """At once where the user says so; else after this agent has asked this run, and waited, where it could."""
        if vm.shutdown.mode is not ShutdownMode.GRACEFUL_THEN_FORCE:
            return vm.shutdown.mode is ShutdownMode.FORCE
        sent_off = Strand.current().sent_off
        if action.domain.phase is not Phase.RUNNING or action.domain.uuid in sent_off.deaf:
            return True
        asked_s = self._asked_s.get((agent, action.domain.uuid, action.domain.id), float("inf"))
        return sent_off.at_s - asked_s >= min(vm.shutdown.grace_s, WAITS.force_wait_s)

    def _count_restart(self, vm: VirtualMachine, action: PowerAction) -> None:
        operation = vm.status.operation
        if operation is None or operation.type is not OperationType.RESTART:
            return
        if action.kind in {Action.SHUTDOWN, Action.DESTROY} and vm.desired is DesiredPowerState.RUNNING:
            ended = self._restarted[vm.key, vm.status.last_restart_time]
            ended.add((vm.status.node_boot_id, action.domain.id))
            if len(ended) > 1:
                self.wrongs.append(f"{vm.key}: one restart was asked for, and {len(ended)} runs were ended: {vm}")

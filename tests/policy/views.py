"""One VM for the tests of the policy, on a clock that only they move.

Each look reports, and the next one goes on from that report.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from controller.api.clock import Now
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import Condition, DesiredPowerState, Reason, VirtualMachine, VmKey
from controller.policy.decide import decide
from controller.policy.handover import vouching
from controller.policy.stops import still_unreported
from controller.policy.view import (
    Action,
    CallInFlight,
    Domain,
    Evidence,
    Facts,
    Node,
    Observation,
    Outcome,
    Phase,
    Result,
    Step,
    View,
    VmMemory,
)
from controller.policy.waits import Waits

RUNNING, STOPPED, PAUSED = DesiredPowerState
T0 = datetime(2026, 1, 1, tzinfo=UTC)
UID = UUID(int=7)
WAITS = Waits()
NOTHING_SPECIAL = Facts()

GUEST = {Evidence.SHUTDOWN_GUEST}
CRASH = {Evidence.STOPPED_FAILED}

WORDS = {
    Phase.RUNNING: ("RUNNING", "BOOTED"),
    Phase.STARTING: ("PAUSED", "STARTING_UP"),
    Phase.SHUTTING_DOWN: ("SHUTDOWN", "USER"),
    Phase.PAUSED: ("PAUSED", "USER"),
    Phase.PAUSED_BUSY: ("PAUSED", "SAVE"),
    Phase.PAUSED_IO_ERROR: ("PAUSED", "IOERROR"),
    Phase.PAUSED_WATCHDOG: ("PAUSED", "WATCHDOG"),
    Phase.POST_COPY_FAILED: ("PAUSED", "POSTCOPY_FAILED"),
    Phase.POST_COPY_FAILED_RUNNING: ("RUNNING", "POSTCOPY_FAILED"),
    Phase.SUSPENDED: ("PMSUSPENDED", "UNKNOWN"),
    Phase.CRASHED_KEPT: ("CRASHED", "PANICKED"),
    Phase.CRASHED_OFF: ("SHUTOFF", "CRASHED"),
    Phase.SAVED: ("SHUTOFF", "SAVED"),
    Phase.STOPPED: ("SHUTOFF", "SHUTDOWN"),
    Phase.UNKNOWN: ("NOSTATE", "UNKNOWN"),
}


def moment(at_s: float, wall_ahead_s: float = 0.0) -> Now:
    """So long after the beginning; the wall clock may have been set ahead meanwhile."""
    return Now(T0 + timedelta(seconds=at_s + wall_ahead_s), at_s)


def domain(phase: Phase, number: int | None = 1, reason: str = "") -> Domain:
    state, usual = WORDS[phase]
    return Domain(UID, "web", phase, number if phase.on else None, state, reason or usual)


class Vm:
    """One VM, its agent's memory, and the clock: each look reports, and the report is the next look's history."""

    def __init__(self, desired: DesiredPowerState | None = RUNNING, *, name: str = "web", **spec: object) -> None:
        self.vm = VirtualMachine(
            VmKey("default", name), "uid-1", 1, "1", T0 - timedelta(days=1), "node-a", desired=desired
        )
        self.vm = replace(self.vm, **spec)  # type: ignore[arg-type]
        self.node = Node("node-a", "boot-1")
        self.waits = WAITS
        self.memory = VmMemory()
        self.at_s = 0.0
        self.wall_ahead_s = 0.0
        self.elsewhere: tuple[RunsElsewhere, ...] = ()
        """What the manager has observed on other hosts."""

    def change(self, **spec: object) -> None:
        self.vm = replace(self.vm, generation=self.vm.generation + 1, **spec)  # type: ignore[arg-type]

    def annotate(self, **annotations: object) -> None:
        self.vm = replace(self.vm, **annotations)  # type: ignore[arg-type]

    def agent_restarts(self) -> None:
        self.memory = VmMemory()

    def moves_to(self, node_name: str, **spec: object) -> None:
        """The user wants it on another node, whose agent knows nothing but the report."""
        self.change(node_name=node_name, **spec)
        self.node = Node(node_name, f"boot of {node_name}")
        self.agent_restarts()

    def maintain(self, mode: MaintenanceMode | None, reason: str = "new RAM") -> None:
        """An administrator declares a maintenance of its host, or ends it, and the agent has read that."""
        self.node = replace(self.node, maintenance=Maintenance(mode, reason) if mode else None)

    def is_marked(self, reason: Reason = Reason.AGENT_UNREACHABLE) -> None:
        """The manager has not heard of the agent, and says so: Ready is all that is left of the conditions."""
        since = moment(self.at_s, self.wall_ahead_s).wall
        ready = self.vm.status.condition("Ready")
        generation = ready.observed_generation if ready else 0
        mark = Condition("Ready", "Unknown", reason, "The agent has not been heard of.", since, generation)
        self.edit(conditions=(mark,))

    def edit(self, **status: object) -> None:
        """Somebody else, or an older version, wrote this into the status."""
        self.vm = replace(self.vm, status=replace(self.vm.status, **status))  # type: ignore[arg-type]

    def look(
        self,
        seen: Observation | Phase,
        *,
        after_s: float = 0.1,
        outcome: Outcome | None = None,
        events: set[Evidence] | None = None,
        facts: Facts | None = NOTHING_SPECIAL,
        call: Action | None = None,
        call_began_s: float | None = None,
        crowded: bool = False,
        turn_in_s: float = 0.0,
    ) -> Step:
        """One look, so long after the one before. `call` has not returned since `call_began_s`, or since now."""
        self.at_s += after_s
        now = moment(self.at_s, self.wall_ahead_s)
        sight = domain(seen) if isinstance(seen, Phase) else seen
        memory = replace(self.memory, outcome=outcome) if outcome else self.memory
        if (outcome and outcome.action.starts) or (call and call.starts):
            memory = replace(memory, start_called=True)
        since = moment(self.at_s if call_began_s is None else call_began_s)
        view = View(
            self.vm,
            sight,
            self.node,
            now,
            memory,
            evidence=frozenset(events or set()),
            facts=facts,
            call=CallInFlight(call, since) if call else None,
            crowded=crowded,
            turn_in_s=turn_in_s,
            runs_elsewhere=self.elsewhere,
        )
        step = decide(view, self.waits)
        self.vm, self.memory = replace(self.vm, status=step.status), step.memory
        return step

    def look_unreported(
        self, seen: Observation | Phase, *, after_s: float = 0.1, events: set[Evidence] | None = None
    ) -> Step:
        """A look whose report the API server does not take: nothing is done, and the agent remembers what it must."""
        reported, memory = self.vm.status, self.memory
        step = self.look(seen, after_s=after_s, events=events)
        stop = still_unreported(reported, step.status, memory)
        self.vm = replace(self.vm, status=reported)
        self.memory = replace(step.memory, outcome=memory.outcome, unreported_stop=stop)
        return step

    def in_sync(self) -> Vm:
        start = {RUNNING: Phase.RUNNING, STOPPED: Phase.STOPPED, PAUSED: Phase.PAUSED, None: Phase.RUNNING}
        step = self.look(start[self.vm.desired])
        assert step.action is None
        assert step.reason in {Reason.IN_SYNC, Reason.OBSERVED}
        return self


def action(step: Step) -> Action | None:
    return step.action.kind if step.action else None


def done(what: Action) -> Outcome:
    return Outcome(what, Result.DONE)


def handed_over(last: Phase, *, vouched: bool = False) -> Vm:
    """A VM that node-a has reported as it was wanted, and that the user wants to run on node-b."""
    vm = Vm(STOPPED if last.off else RUNNING)
    vm.look(last)
    vm.change(node_name="node-b", desired=RUNNING)
    if vouched:
        vm.annotate(confirmed_off=vouching(vm.vm.status))
    vm.node = Node("node-b", "boot-b")
    vm.agent_restarts()
    return vm

"""The policy against a host that works: whatever happens on the way, the world settles and nothing rash is done.

The host holds one domain and knows libvirt's manners: a refused act, a run with a number of its own, a stale sight.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controller.decide import decide
from controller.model import (
    Absent,
    Act,
    DesiredPowerState,
    Domain,
    Evidence,
    Facts,
    Memory,
    Node,
    Now,
    Outcome,
    Phase,
    Reason,
    RestartPolicy,
    Result,
    Shutdown,
    ShutdownMode,
    Sighting,
    Status,
    Step,
    Unreadable,
    Verb,
    View,
    VirtualMachine,
    VmKey,
)
from controller.settings import Waits
from controller.status import TONES, Tone

T0 = datetime(2026, 1, 1, tzinfo=UTC)
UID = UUID(int=7)
WAITS = Waits()
ENDS = {Tone.GOOD, Tone.STUCK, Tone.WAITING}
REACHED = {
    DesiredPowerState.RUNNING: {Phase.RUNNING},
    DesiredPowerState.PAUSED: {Phase.PAUSED, Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG},
    DesiredPowerState.STOPPED: {Phase.STOPPED, Phase.SAVED, Phase.CRASHED_OFF},
}

NEEDS = {
    Verb.START: {Phase.STOPPED, Phase.SAVED, Phase.CRASHED_OFF},
    Verb.START_PAUSED: {Phase.STOPPED, Phase.SAVED, Phase.CRASHED_OFF},
    Verb.RESUME: {Phase.PAUSED, Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG},
    Verb.WAKE: {Phase.SUSPENDED},
    Verb.SUSPEND: {Phase.RUNNING},
    Verb.SHUTDOWN: {Phase.RUNNING},
    Verb.DESTROY: {phase for phase in Phase if phase.on},
}
"""libvirt refuses an act in any other phase (error 55)."""


@dataclass
class SimulatedHost:
    """One domain, its guest, and libvirt's answers."""

    phase: Phase = Phase.STOPPED
    reason: str = "UNKNOWN"
    run: int = 0
    deaf: bool = False
    """The guest ignores the power button."""
    reachable: bool = True
    evidence: set[Evidence] = field(default_factory=set)
    done: list[Act] = field(default_factory=list)

    def look(self) -> Sighting:
        if not self.reachable:
            return Unreadable("connection reset")
        state = "SHUTOFF" if self.phase.off else self.phase.name
        return Domain(UID, "web", self.phase, self.run if self.phase.on else None, state, self.reason)

    def act(self, act: Act) -> Outcome:
        now = self.look()
        if isinstance(now, Unreadable):
            return Outcome(act.verb, Result.UNKNOWN)
        assert isinstance(now, Domain)
        if (now.phase, now.id) != (act.domain.phase, act.domain.id):
            return Outcome(act.verb, Result.STALE)
        if self.phase not in NEEDS[act.verb]:
            return Outcome(act.verb, Result.REFUSED, "the domain is in another state")
        self.done.append(act)
        match act.verb:
            case Verb.START | Verb.START_PAUSED:
                self.start(Phase.RUNNING if act.verb is Verb.START else Phase.PAUSED)
            case Verb.RESUME | Verb.WAKE:
                self.phase = Phase.RUNNING
            case Verb.SUSPEND:
                self.phase = Phase.PAUSED
            case Verb.SHUTDOWN:
                if not self.deaf:
                    self.stop("SHUTDOWN", Evidence.SHUTDOWN_GUEST)
            case Verb.DESTROY:
                self.stop("DESTROYED")
        return Outcome(act.verb, Result.DONE)

    def start(self, phase: Phase = Phase.RUNNING) -> None:
        self.phase, self.reason, self.run = phase, "BOOTED", self.run + 1
        self.evidence.clear()

    def stop(self, reason: str, *evidence: Evidence, phase: Phase = Phase.STOPPED) -> None:
        self.phase, self.reason = phase, reason
        self.evidence.update(evidence)


class World(RuleBasedStateMachine):
    """A user, a guest, a stranger with virsh, an agent that dies at any step, and a clock."""

    @initialize(desired=st.sampled_from([None, *DesiredPowerState]), running=st.booleans())
    def begin(self, desired: DesiredPowerState | None, running: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.host = SimulatedHost()
        if running:
            self.host.start()
        created = T0 - timedelta(days=1)
        self.vm = VirtualMachine(VmKey("default", "web"), "uid-1", 1, "1", created, "node-a", desired=desired)
        self.memory, self.at_s, self.node = Memory(), 0.0, Node("node-a", "boot-1")

    # --- the agent ---

    def view(self, seen: Sighting) -> View:
        now = Now(T0 + timedelta(seconds=self.at_s), self.at_s)
        return View(self.vm, seen, self.node, now, self.memory, frozenset(self.host.evidence), Facts())

    def decide(self) -> Step:
        seen = self.host.look()
        step = decide(self.view(seen), WAITS)
        if step.act:
            self.check_act(step.act, seen)
        return step

    def check_act(self, act: Act, seen: Sighting) -> None:
        assert act.domain == seen, "an act is for what was just seen"
        assert isinstance(seen, Domain)
        assert seen.phase not in {Phase.UNKNOWN, Phase.POST_COPY_FAILED}
        assert not self.vm.holds
        assert not self.node.observe_only
        assert self.vm.desired is not None
        if act.verb in {Verb.SHUTDOWN, Verb.DESTROY}:
            assert self.vm.desired is DesiredPowerState.STOPPED
        if act.verb is Verb.DESTROY:
            assert self.vm.shutdown.mode is not ShutdownMode.GRACEFUL
        if act.verb.starts:
            assert self.vm.desired is not DesiredPowerState.STOPPED

    def take(self, step: Step) -> None:
        self.vm, self.memory = replace(self.vm, status=step.status), step.memory

    def perform(self, step: Step) -> None:
        if step.act:
            self.memory = replace(self.memory, outcome=self.host.act(step.act))

    @rule(meanwhile=st.sampled_from(["nothing", "guest stops", "stranger restarts", "libvirt goes"]))
    def look(self, meanwhile: str) -> None:
        """A pass; something may happen between the sight and the act."""
        step = self.decide()
        self.take(step)
        if meanwhile == "guest stops" and self.host.phase.on:
            self.host.stop("SHUTDOWN", Evidence.SHUTDOWN_GUEST)
        elif meanwhile == "stranger restarts":
            self.host.start()
        elif meanwhile == "libvirt goes":
            self.host.reachable = False
        before = (self.host.phase, self.host.run, len(self.host.done))
        self.perform(step)
        if step.act and meanwhile == "stranger restarts":
            assert (self.host.phase, self.host.run, len(self.host.done)) == before, "another run was touched"

    @rule(where=st.sampled_from(["before the report", "after the report", "after the act"]))
    def agent_dies(self, where: str) -> None:
        step = self.decide()
        if where != "before the report":
            self.take(step)
        if where == "after the act":
            self.perform(step)
        self.memory = Memory()

    @rule(seconds=st.sampled_from([0.1, 1, 11, 61, 200, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.at_s += seconds

    @rule()
    def events_are_lost(self) -> None:
        self.host.evidence.clear()

    @rule(evidence=st.sampled_from(Evidence))
    def an_old_event_comes_late(self, evidence: Evidence) -> None:
        self.host.evidence.add(evidence)

    # --- the user ---

    @rule(
        desired=st.sampled_from([None, *DesiredPowerState]),
        policy=st.sampled_from(RestartPolicy),
        mode=st.sampled_from(ShutdownMode),
        grace_s=st.sampled_from([0, 20, 180]),
    )
    def user_commits(
        self, desired: DesiredPowerState | None, policy: RestartPolicy, mode: ShutdownMode, grace_s: int
    ) -> None:
        shutdown = Shutdown(mode, grace_s)
        spec = replace(self.vm, desired=desired, restart_policy=policy, shutdown=shutdown)
        if spec != self.vm:
            self.vm = replace(spec, generation=self.vm.generation + 1)

    @rule(held=st.booleans())
    def user_holds(self, held: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.vm = replace(self.vm, holds=(("ann", "work"),) if held else ())

    @rule(alone=st.booleans())
    def operator_takes_the_hand_off(self, alone: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.node = replace(self.node, observe_only=alone)

    # --- the guest, and a stranger with virsh ---

    @rule(crashes=st.booleans())
    def guest_goes_off(self, crashes: bool) -> None:  # noqa: FBT001 - drawn, not passed
        if self.host.phase.on and crashes:
            self.host.stop("CRASHED", Evidence.STOPPED_CRASHED, phase=Phase.CRASHED_OFF)
        elif self.host.phase.on:
            self.host.stop("SHUTDOWN", Evidence.SHUTDOWN_GUEST)

    @rule(deaf=st.booleans())
    def guest_ignores_the_power_button(self, deaf: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.host.deaf = deaf

    @rule(
        phase=st.sampled_from(
            [Phase.PAUSED, Phase.SUSPENDED, Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT]
        )
    )
    def it_halts(self, phase: Phase) -> None:
        if self.host.phase is Phase.RUNNING:
            self.host.phase, self.host.reason = phase, phase.name

    @rule(act=st.sampled_from(["start", "destroy", "managedsave", "resume"]))
    def stranger(self, act: str) -> None:
        if act == "start" and self.host.phase.off:
            self.host.start()
        elif act == "destroy" and self.host.phase.on:
            self.host.stop("DESTROYED")
        elif act == "managedsave" and self.host.phase.on:
            self.host.stop("SAVED", phase=Phase.SAVED)
        elif act == "resume" and self.host.phase is Phase.PAUSED:
            self.host.phase = Phase.RUNNING

    @rule(reachable=st.booleans())
    def libvirt_comes_and_goes(self, reachable: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.host.reachable = reachable

    # --- and in the end ---

    @rule()
    def all_settles(self) -> None:
        """Without further faults the world comes to rest: at the goal, or with a reason why it is not."""
        self.host.reachable = True
        for _ in range(100):
            step = self.decide()
            changed = step.status != self.vm.status
            self.take(step)
            self.perform(step)
            if not (step.act or changed or step.recheck_s):
                break
            # A wait is waited for; an act, and a report, bring the next look by themselves.
            self.at_s += 0.1 if step.act else step.recheck_s or 0.1
        else:
            raise AssertionError(f"it does not come to rest: {step}")
        tone = TONES[step.reason]
        assert tone in ENDS, step
        if step.reason is Reason.IN_SYNC:
            assert self.vm.desired is not None
            assert self.host.phase in REACHED[self.vm.desired]

    @invariant()
    def nothing_is_done_while_libvirt_is_away(self) -> None:
        for seen in (Unreadable("away"), Absent()):
            if hasattr(self, "vm"):
                assert decide(self.view(seen), WAITS).act is None


def test_a_missing_report_is_a_first_look() -> None:
    world = World()
    world.begin(DesiredPowerState.RUNNING, running=False)
    assert world.vm.status == Status()
    world.all_settles()
    assert world.host.phase is Phase.RUNNING
    assert [act.verb for act in world.host.done] == [Verb.START]


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=400, stateful_step_count=30, derandomize=True, deadline=None, database=None)

"""Whatever happens to an agent on the way, the world settles as the objects say, and nothing rash is done.

All parts of the agent are its own but the ends: libvirt and the API server are simulated, and held to the real ones by
tests/contract. `SIM_WORLDS=5000 pytest tests/sim` plays other worlds, and more of them.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controller.api.codec import parse
from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import DesiredPowerState, Reason, RestartPolicy, ShutdownMode, VirtualMachine, VmKey
from controller.policy.view import Action, Phase
from controller.runtime.errors import Rejected, Transient
from tests.sim.api import SimulatedApi
from tests.sim.host import NotNowError, SimulatedGuest
from tests.sim.node import Clock, DiedError, SimulatedNode, vouching

WORLDS = int(os.environ.get("SIM_WORLDS", "80"))
VMS = ("web", "db", "mail")
ENDS = {Readiness.READY, Readiness.STALLED, Readiness.HELD}
REACHED = {
    DesiredPowerState.RUNNING: {Phase.RUNNING},
    DesiredPowerState.PAUSED: {
        Phase.PAUSED,
        Phase.PAUSED_BUSY,
        Phase.PAUSED_IO_ERROR,
        Phase.PAUSED_WATCHDOG,
    },
    DesiredPowerState.STOPPED: {Phase.STOPPED, Phase.SAVED, Phase.CRASHED_OFF},
}
KEPT = {Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT}
vms = st.sampled_from([VMS[0], *VMS])
nodes = st.sampled_from([0, 0, 0, 1])
steps = st.lists(st.sampled_from(["pass", "call", "event", "watch"]), min_size=1, max_size=8)
rounds = st.sampled_from([0, 1, 2, 100])

Rule = Callable[..., None]


def happens(**drawn: st.SearchStrategy[Any]) -> Callable[[Rule], Rule]:
    """Something that may happen; then the agents work, for no round, a few, or until nothing is to be done."""

    def decorate(happening: Rule) -> Rule:
        def happen(self: "World", rounds: int, **values: Any) -> None:
            happening(self, **values)
            self.everybody_works(rounds)

        happen.__name__ = happening.__name__
        ruled: Any = rule
        return cast("Rule", ruled(rounds=rounds, **drawn)(happen))

    return decorate


class World(RuleBasedStateMachine):
    """Two machines with an agent each, three VMs, a user, strangers with virsh, guests, and a clock."""

    @initialize(
        desired=st.sampled_from([*DesiredPowerState, DesiredPowerState.RUNNING, None]),
        running=st.booleans(),
        known=st.sampled_from([True, True, False]),
    )
    def begin(self, desired: DesiredPowerState | None, running: bool, known: bool) -> None:  # noqa: FBT001 - drawn
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.clock = Clock()
        self.api = SimulatedApi(self.clock.wall)
        self.nodes = [SimulatedNode(name, self.api, self.clock) for name in ("node-a", "node-b")]
        for number, name in enumerate(VMS):
            for node in self.nodes:
                guest = node.libvirtd.define(name, uuid=UUID(int=number + 1))
                node.judge.keys[guest.uuid] = VmKey("default", name)
            if running:
                self.guest(name).start()
            self.clock.at_s += 1
            power = {"powerState": str(desired)} if desired else {}
            self.api.create(VmKey("default", name), {"nodeName": "node-a", **power})
        if known:
            self.agents_work_for(60)

    def teardown(self) -> None:
        for node in getattr(self, "nodes", []):
            node.reboot()  # whatever waits for a QEMU goes on
            while node.left:
                node.calls_go_on()
        structlog.reset_defaults()

    def vm(self, name: str) -> VirtualMachine:
        return parse(self.api.objects[VmKey("default", name)])

    def node_of(self, name: str) -> SimulatedNode:
        return next(node for node in self.nodes if node.name == self.vm(name).node_name)

    def guest(self, name: str, node: int = 0) -> SimulatedGuest:
        guest = self.nodes[node].libvirtd.named(name)
        assert guest
        return guest

    def edit(self, name: str, **spec: object) -> None:
        self.api.edit(VmKey("default", name), spec)

    def annotate(self, name: str, annotation: str, value: str | None) -> None:
        self.api.edit(VmKey("default", name), {}, {annotation: value})

    def virsh(self, action: str, name: str, node: int = 0) -> None:
        """What somebody does on the machine, if libvirt does it at once."""
        guest = self.guest(name, node)
        if guest.stuck or guest.calls or guest.job or (action == "managedsave" and not guest.on):
            return
        with suppress(NotNowError, Rejected):
            self.nodes[node].libvirtd.virsh(action, name)

    # --- the agent

    @rule(node=nodes, steps=steps)
    def agent_works(self, node: int, steps: list[str]) -> None:
        """Step by step: other things may come between any two."""
        for step in steps:
            one = self.nodes[node]
            if step == "pass":
                one.agent.passes()
            elif step == "event":
                one.agent.hears_event()
            elif step == "watch" and not one.agent.api_away:
                one.agent.hears_watch()
            elif step == "call" and (calls := [*one.left, *one.agent.calls]):
                calls[0].step()
                one.forget_ended()

    @rule(seconds=st.sampled_from([1, 6, 11, 31, 61, 200, 1000]))
    def agents_work_for(self, seconds: float) -> None:
        """All of them, without a hitch, for so long."""
        until_s = self.clock() + seconds
        while self.everything_due() and (due_s := self.next_due_s()) is not None and due_s < until_s:
            self.clock.at_s = due_s
        self.clock.at_s = until_s

    @happens(seconds=st.sampled_from([0.3, 1, 6, 11, 31, 61, 200, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.clock.at_s += seconds

    @happens(node=nodes)
    def agent_dies(self, node: int) -> None:
        self.nodes[node].restart_agent()

    @rule(
        name=vms,
        moment=st.sampled_from(["before the report", "before the refresh", "after the report"]),
        what=st.sampled_from(
            ["agent dies", "answer is lost", "guest stops", "stranger restarts", "user stops", "user holds", "libvirt"]
        ),
    )
    def next_pass_is_disturbed(self, name: str, moment: str, what: str) -> None:
        agent = self.node_of(name).agent

        def die() -> None:
            raise DiedError

        def lose() -> None:
            raise Transient("no answer")

        def restart() -> None:
            self.virsh("destroy", name)
            self.virsh("start", name)

        happenings: dict[str, Callable[[], None]] = {
            "agent dies": die,
            "answer is lost": lose,
            "guest stops": lambda: self.virsh("shutdown", name),
            "stranger restarts": restart,
            "user stops": lambda: self.edit(name, powerState="Stopped"),
            "user holds": lambda: self.annotate(name, "hold.virtsync.dev/ann", "work"),
            "libvirt": lambda: setattr(agent.host, "reachable", False),
        }
        # Once the report is written nothing more is asked: what a user does then comes too late.
        if what.startswith("user") and moment == "after the report":
            moment = "before the refresh"
        agent.meanwhile[moment] = happenings[what]

    @happens(node=nodes, lost=st.booleans())
    def answers_get_lost(self, node: int, lost: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.nodes[node].agent.answers_lost = lost

    # --- events

    @happens(node=nodes)
    def events_are_lost(self, node: int) -> None:
        self.nodes[node].agent.unheard.clear()

    @happens(node=nodes)
    def events_are_repeated(self, node: int) -> None:
        unheard = self.nodes[node].agent.unheard
        unheard += unheard[-3:]

    @happens(node=nodes, index=st.integers(0, 5))
    def an_event_overtakes(self, node: int, index: int) -> None:
        self.nodes[node].agent.hears_event(index)

    # --- the user

    @happens(
        name=vms,
        desired=st.sampled_from([None, *DesiredPowerState]),
        policy=st.sampled_from(RestartPolicy),
        mode=st.sampled_from(ShutdownMode),
        grace_s=st.sampled_from([1, 20, 180]),
    )
    def user_commits(
        self, name: str, desired: DesiredPowerState | None, policy: RestartPolicy, mode: ShutdownMode, grace_s: int
    ) -> None:
        shutdown = {"mode": str(mode), "gracePeriodSeconds": grace_s}
        self.edit(name, powerState=desired and str(desired), restartPolicy=str(policy), shutdown=shutdown)

    @happens(name=vms, in_s=st.sampled_from([-100, 0, 0, 100]))
    def user_asks_for_a_restart(self, name: str, in_s: int) -> None:
        self.edit(name, restartRequestTime=f"{self.clock.wall() + timedelta(seconds=in_s):%Y-%m-%dT%H:%M:%SZ}")

    @happens(name=vms, held=st.booleans())
    def user_holds(self, name: str, held: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.annotate(name, "hold.virtsync.dev/ann", "work" if held else None)

    @happens(name=vms)
    def user_hands_over(self, name: str) -> None:
        self.edit(name, nodeName="node-b" if self.vm(name).node_name == "node-a" else "node-a")

    @happens(name=vms)
    def user_vouches(self, name: str) -> None:
        """Rightly: it is off on the other node, whatever the last report says."""
        here = self.node_of(name)
        for number, other in enumerate(self.nodes):
            if other is not here and not self.guest(name, number).on:
                vouched = vouching(self.api.objects[VmKey("default", name)])
                self.annotate(name, "virtsync.dev/confirmed-off", vouched)

    @happens(name=vms)
    def user_creates_it_anew(self, name: str) -> None:
        key = VmKey("default", name)
        spec = self.api.objects[key]["spec"]
        self.api.delete(key)
        self.clock.at_s += 1
        self.api.create(key, spec)

    @happens(node=nodes, alone=st.booleans())
    def operator_takes_the_hand_off(self, node: int, alone: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.nodes[node].observe_only = alone
        self.nodes[node].restart_agent()

    # --- the guests, and strangers with virsh

    @happens(name=vms, how=st.sampled_from(["poweroff", "panic", "kill"]), node=nodes)
    def guest_goes_off(self, name: str, how: str, node: int) -> None:
        guest = self.guest(name, node)
        if guest.on and (how == "kill" or (guest.phase is Phase.RUNNING and not guest.stuck)):
            getattr(guest, how)()

    @happens(name=vms, deaf=st.booleans())
    def guest_ignores_the_power_button(self, name: str, deaf: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.guest(name).deaf = deaf

    @happens(name=vms, state=st.sampled_from(["PMSUSPENDED", "IOERROR", "WATCHDOG"]))
    def it_halts(self, name: str, state: str) -> None:
        guest = self.guest(name)
        if guest.phase is not Phase.RUNNING or guest.stuck:
            return
        if state == "PMSUSPENDED":
            guest.suspend_to_ram()
        elif state == "IOERROR":
            guest.fill_disk()
        else:
            guest.pause_by_watchdog()

    @happens(
        name=vms,
        action=st.sampled_from(["start", "destroy", "suspend", "resume", "dompmwakeup", "managedsave"]),
        node=nodes,
    )
    def stranger(self, name: str, action: str, node: int) -> None:
        self.virsh(action, name, node)

    @happens(node=nodes, action=st.sampled_from(["destroy", "managedsave", "shutdown"]))
    def all_go_off(self, node: int, action: str) -> None:
        """As when the host shuts down."""
        for name in VMS:
            self.virsh(action, name, node)

    @happens(name=vms, reboots=st.booleans(), crash=st.sampled_from(["destroy", "preserve"]))
    def somebody_defines_it_anew(self, name: str, reboots: bool, crash: str) -> None:  # noqa: FBT001 - drawn
        self.nodes[0].libvirtd.define(name, on_poweroff="restart" if reboots else "destroy", on_crash=crash)

    @happens(name=vms, job=st.booleans())
    def a_job_begins_and_ends(self, name: str, job: bool) -> None:  # noqa: FBT001 - drawn, not passed
        guest = self.guest(name)
        guest.job = job and guest.on and not guest.calls

    @happens(name=vms, stuck=st.booleans())
    def qemu_hangs_and_wakes(self, name: str, stuck: bool) -> None:  # noqa: FBT001 - drawn, not passed
        guest = self.guest(name)
        guest.stuck = stuck and guest.on

    @happens(name=vms, fails=st.booleans())
    def starts_fail(self, name: str, fails: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.guest(name).fails_to_start = "Cannot access storage file" if fails else ""

    # --- the machines

    @happens(node=nodes, reachable=st.booleans())
    def libvirt_comes_and_goes(self, node: int, reachable: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.nodes[node].agent.connect(reachable=reachable)

    @happens(node=nodes)
    def libvirtd_is_restarted(self, node: int) -> None:
        self.nodes[node].agent.connect(reachable=False)
        self.nodes[node].libvirtd.restart()
        self.nodes[node].agent.connect(reachable=True)

    @happens(node=nodes, away=st.booleans())
    def api_server_comes_and_goes(self, node: int, away: bool) -> None:  # noqa: FBT001 - drawn, not passed
        self.nodes[node].agent.api_away = away

    # --- the administrator and the manager

    @happens(node=nodes, mode=st.sampled_from([None, *MaintenanceMode]))
    def host_is_in_maintenance(self, node: int, mode: MaintenanceMode | None) -> None:
        self.nodes[node].obey(mode)

    @happens(name=vms)
    def manager_marks(self, name: str) -> None:
        """At any moment, also when the agent is well."""
        raw = self.api.objects[VmKey("default", name)]
        if raw["status"].get("decidedReason") and raw["status"].get("nodeName"):
            mark = {
                "type": "Ready",
                "status": "Unknown",
                "reason": "AgentUnreachable",
                "message": "The agent has not been heard of.",
                "lastTransitionTime": f"{self.clock.wall():%Y-%m-%dT%H:%M:%SZ}",
                "observedGeneration": max(raw["status"].get("observedGeneration", 0), 0),
            }
            self.api.write_status(VmKey("default", name), {"conditions": [mark]})

    @happens(name=vms, there=st.booleans())
    def manager_sees_it_elsewhere(self, name: str, there: bool) -> None:  # noqa: FBT001 - drawn, not passed
        node, uuid = self.node_of(name), self.guest(name).uuid
        entries = {known: entry for known, entry in node.runs_elsewhere.items() if known != uuid}
        since = self.clock.wall().replace(microsecond=0)
        node.told_elsewhere(entries | ({uuid: RunsElsewhere(uuid, "node-z", since)} if there else {}))

    @happens(node=nodes)
    def machine_reboots(self, node: int) -> None:
        self.nodes[node].reboot()

    # --- and in the end

    @rule()
    def all_settles(self) -> None:
        """Without further faults the world comes to rest: at the goal, or with a reason why it is not."""
        for node in self.nodes:
            node.obey(None)
            node.told_elsewhere({})
        self.comes_to_rest()
        for name in VMS:
            self.is_settled(name)

    @rule(mode=st.sampled_from(MaintenanceMode))
    def all_settles_in_maintenance(self, mode: MaintenanceMode) -> None:
        for node in self.nodes:
            node.obey(mode)
        self.comes_to_rest()
        for name in VMS:
            self.is_quiet(name, mode)

    def comes_to_rest(self) -> None:
        self.faults_end()
        for _ in range(2000):
            if not self.everything_due():
                raise AssertionError(f"it goes round in circles: {self.told()}")
            due_s = self.next_due_s()
            if due_s is None:
                break
            self.clock.at_s = max(self.clock.at_s, due_s)
        else:
            raise AssertionError(f"it does not come to rest: {self.told()}")

    def faults_end(self) -> None:
        for number, node in enumerate(self.nodes):
            node.agent.api_away = node.agent.answers_lost = False
            node.agent.meanwhile.clear()
            node.agent.connect(reachable=True)
            for name in VMS:
                guest, vm = self.guest(name, number), self.vm(name)
                guest.job = guest.disk_full = False
                guest.fails_to_start = ""
                freed = vm.desired is DesiredPowerState.STOPPED and vm.shutdown.mode is not ShutdownMode.GRACEFUL
                guest.stuck &= freed and vm.node_name == node.name and not vm.holds and not node.observe_only
                # That it was restored is told by an event alone: where that was missed, a job may be behind it.
                if guest.reason == "MIGRATION" and not guest.stuck and not guest.calls:
                    self.virsh("resume", name, number)
        self.everything_due()
        for node in self.nodes:
            node.agent.relists()

    def everything_due(self) -> bool:
        """Let everybody do what is to be done now; False when that does not end."""
        return self.everybody_works(300)

    def everybody_works(self, rounds: int) -> bool:
        """For so many rounds, or until nothing is to be done; whether nothing is."""
        for _ in range(rounds):
            worked = False
            for node in self.nodes:
                if not node.agent.api_away:
                    worked |= node.agent.hears_watch()
                worked |= node.agent.hears_event()
                worked |= node.agent.passes()
                worked |= node.calls_go_on()
            if not worked:
                return True
        return False

    def next_due_s(self) -> float | None:
        """When there will be something to do; a call that has not returned may by then."""
        due = [at_s for node in self.nodes for at_s in node.agent.queue._due_at.values()]
        due += [self.clock() + 1.0 for node in self.nodes if node.agent.calls or node.left]
        return min(due, default=None)

    def is_settled(self, name: str) -> None:
        vm, node = self.vm(name), self.node_of(name)
        guest = node.libvirtd.named(name)
        assert guest
        reason, phase = Reason(vm.status.reason), guest.phase
        said = f"{name} is {phase.name}; {vm}"
        assert READINESS[reason] in ENDS, said
        if reason in {Reason.HANDOVER_UNCONFIRMED, Reason.SAVED_ELSEWHERE} and vm.status.node_name != vm.node_name:
            assert not phase.on, said  # what the other node has reported is kept whole
            return
        assert vm.status.power_state is phase.power_state, said
        if reason is Reason.IN_SYNC:
            assert vm.desired is not None, said
            assert phase in REACHED[vm.desired], said
        if vm.holds or node.observe_only or vm.desired is None:
            return
        if vm.desired is DesiredPowerState.STOPPED:
            assert phase.off or vm.shutdown.mode is ShutdownMode.GRACEFUL, said
        kept = phase in {Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT}
        if vm.desired is DesiredPowerState.RUNNING and vm.restart_policy is RestartPolicy.ALWAYS and not kept:
            saved = any(self.guest(name, number).saved_as for number in range(len(self.nodes)))
            elsewhere = reason is Reason.SAVED_ELSEWHERE and saved
            assert phase is Phase.RUNNING or reason is Reason.SHUTDOWN_TIMED_OUT or elsewhere, said
        if vm.desired is DesiredPowerState.RUNNING and phase is Phase.RUNNING and reason is Reason.IN_SYNC:
            request, served = vm.restart_request, vm.status.last_restart_time
            assert request is None or request <= vm.created or (served and served >= request), said

    def is_quiet(self, name: str, mode: MaintenanceMode) -> None:
        """It waits for nothing, and with Shutdown it is off, unless it is to be left alone or its guest ignores it."""
        vm, node = self.vm(name), self.node_of(name)
        guest = node.libvirtd.named(name)
        assert guest
        reason, said = Reason(vm.status.reason), f"{name} is {guest.phase.name}; {vm}"
        assert READINESS[reason] in ENDS, said
        left_alone = vm.holds or node.observe_only or guest.stuck or guest.phase in KEPT
        switched = vm.desired in {DesiredPowerState.RUNNING, DesiredPowerState.STOPPED}
        if mode is MaintenanceMode.SHUTDOWN and switched and not left_alone:
            assert guest.phase.off or reason is Reason.SHUTDOWN_TIMED_OUT, said

    def told(self) -> str:
        return "\n".join(f"{name} is {self.node_of(name).libvirtd.named(name)}: {self.vm(name)}" for name in VMS)

    @invariant()
    def nothing_rash_is_done(self) -> None:
        for node in getattr(self, "nodes", []):
            assert not node.judge.wrongs, node.judge.wrongs


def test_what_is_off_and_wanted_is_started_once() -> None:
    world = World()
    try:
        world.begin(DesiredPowerState.RUNNING, running=False, known=False)
        world.all_settles()
        assert Counter(world.nodes[0].judge.done) == Counter((VmKey("default", name), Action.START) for name in VMS)
        world.nothing_rash_is_done()
    finally:
        world.teardown()


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=WORLDS,
    stateful_step_count=40,
    derandomize="SIM_WORLDS" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

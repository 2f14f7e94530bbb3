"""Random walks over what may happen to one VM and its agent, with what must hold after each look.

Found by them: looks whose reports alternate for ever, starts that stay on record, counts that are given back twice.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.codec import render_status
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import Hold, Reason, RestartPolicy, Shutdown, ShutdownMode, VmKey
from controller.policy.view import (
    Absent,
    Action,
    Conflict,
    Domain,
    Facts,
    Node,
    Observation,
    Outcome,
    Phase,
    Qemu,
    Replaced,
    Result,
    Step,
    Unreadable,
)
from tests.policy.views import PAUSED, RUNNING, STOPPED, T0, UID, Vm, domain

SIGHTS: list[Observation] = [domain(phase, 2) for phase in Phase]
SIGHTS += [domain(Phase.STOPPED, reason=word) for word in ("UNKNOWN", "DESTROYED", "FAILED", "MIGRATED", "SAVED")]
SIGHTS += [domain(Phase.RUNNING, 3), domain(Phase.PAUSED_BUSY, 3, "MIGRATION")]
SIGHTS += [Domain(UID, "web", Phase.SHUTTING_DOWN, None, "SHUTOFF", "DESTROYED")]
SIGHTS += [Absent(), Replaced(UUID(int=9), "web"), Conflict(VmKey("default", "older"), UID)]
SIGHTS += [Unreadable("away"), Unreadable("its lock is held", busy=True)]
NODES = [
    Node("node-a", "boot-1"),
    Node("node-a", "boot-1", observe_only=True),
    Node("node-a", "boot-1", blocked="The Lease is not held."),
    Node("node-a", "boot-1", maintenance=Maintenance(MaintenanceMode.HOLD, "new RAM")),
    Node("node-a", "boot-1", maintenance=Maintenance(MaintenanceMode.SHUTDOWN, "new RAM")),
    Node("node-a", "boot-2"),
    Node("node-a", "boot-3", host_uuid=UUID(int=1)),
    Node("node-a", "boot-4", host_uuid=UUID(int=2)),
]
CHANGES: list[dict[str, object]] = [
    {"desired": RUNNING},
    {"desired": STOPPED},
    {"desired": PAUSED},
    {"desired": None},
    {"holds": (Hold("ann", ""),)},
    {"holds": ()},
    {"misunderstood": "powerState 'Hibernated'"},
    {"misunderstood": ""},
    {"domain_name": "web"},
    {"domain_name": "web-2"},
    {"shutdown": Shutdown(ShutdownMode.GRACEFUL, 20)},
    {"shutdown": Shutdown(ShutdownMode.FORCE, 20)},
]
FACTS = [Facts(), Facts(job="backup"), Facts(job="save"), Facts(never_ran=True), Facts(qemu=Qemu.ALIVE)]
FACTS += [Facts(qemu=Qemu.UNSURE), Facts(hangs=True)]
HAPPENINGS = st.one_of(
    st.tuples(st.just("look"), st.sampled_from(SIGHTS), st.sampled_from([0.1, 4.0, 11.0, 61.0, 700.0])),
    st.tuples(st.just("off"), st.just(domain(Phase.STOPPED, reason="DESTROYED")), st.sampled_from([0.1, 11.0])),
    st.tuples(st.just("unreported"), st.sampled_from(SIGHTS), st.sampled_from([0.1, 11.0])),
    st.tuples(st.just("change"), st.sampled_from(CHANGES)),
    st.tuples(st.just("restart"), st.integers(-60, 60)),
    st.tuples(st.just("node"), st.sampled_from(NODES)),
    st.tuples(st.just("maintenance"), st.sampled_from([None, *MaintenanceMode])),
    st.tuples(st.just("elsewhere"), st.sampled_from([(), (RunsElsewhere(UID, "node-z", T0),)])),
    st.tuples(st.just("facts"), st.sampled_from(FACTS)),
    st.tuples(st.just("answer"), st.sampled_from([None, *Result])),
    st.tuples(st.sampled_from(["new process", "mark", "moved here", "call out"])),
)


class Walk:
    """A VM, and the act that its agent has sent off."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.vm = Vm(restart_policy=policy, shutdown=Shutdown(grace_s=20)).in_sync()
        self.seen: Observation = domain(Phase.RUNNING, 2)
        self.facts, self.answer = Facts(), Result.DONE
        self.sent: Action | None = None

    def look(self, after_s: float) -> Step:
        """The act that was sent off before has been answered, if it is at all."""
        outcome = Outcome(self.sent, self.answer, "no") if self.sent and self.answer is not None else None
        step = self.vm.look(self.seen, after_s=after_s, outcome=outcome, facts=self.facts)
        self.sent = step.action.kind if step.action else None
        return step

    def happens(self, what: str, *how: object) -> None:  # noqa: PLR0912 - one happening a case
        vm = self.vm
        match what, *how:
            case (("look" | "off"), seen, float(after_s)):
                self.seen = seen  # type: ignore[assignment]
                self.look(after_s)
            case "unreported", seen, float(after_s):
                self.seen = seen  # type: ignore[assignment]
                vm.look_unreported(self.seen, after_s=after_s)
                self.sent = None
            case "change", dict(spec):
                vm.change(**spec)
            case "restart", int(ahead_s):
                vm.change(restart_request=T0 + timedelta(seconds=vm.at_s + ahead_s))
            case "node", Node() as node:
                vm.node = node
                vm.agent_restarts()
                self.sent = None
            case "maintenance", mode:
                vm.maintain(mode)  # type: ignore[arg-type]
            case "elsewhere", there:
                vm.elsewhere = there  # type: ignore[assignment]
            case "facts", Facts() as facts:
                self.facts = facts
            case "answer", answer:
                self.answer = answer  # type: ignore[assignment]
            case ("new process",):
                vm.agent_restarts()
                self.sent = None
            case ("mark",):
                vm.is_marked()
            case ("moved here",):
                vm.edit(node_name="node-z", node_boot_id="boot-z")
                vm.agent_restarts()
                self.sent = None
            case ("call out",):
                if self.sent:
                    vm.look(self.seen, call=self.sent, facts=None)
            case _:
                raise AssertionError(what)


walks = st.lists(HAPPENINGS, min_size=1, max_size=14)


def walked(policy: RestartPolicy, story: list[tuple[object, ...]]) -> Walk:
    """The story, with what holds after each of its looks."""
    walk = Walk(policy)
    for what, *how in story:
        before = walk.vm.vm.status
        walk.happens(str(what), *how)
        after = walk.vm.vm.status
        if what == "moved here":
            continue
        anew = before.domain and after.domain and before.domain.bound_by != after.domain.bound_by
        assert after.restart_count <= before.restart_count + 1
        assert anew or after.restart_count >= max(before.restart_count - 1, 0)
        if (before.node_name, before.power_state) != (after.node_name, after.power_state):
            assert after.run_transition_time
            assert before.run_transition_time is None or after.run_transition_time > before.run_transition_time
    return walk


@settings(max_examples=600, derandomize=True)
@given(st.sampled_from(RestartPolicy), walks)
def test_looks_at_a_world_that_stands_still_stop_writing(
    policy: RestartPolicy, story: list[tuple[object, ...]]
) -> None:
    """A report must not feed itself: none comes back that another has followed."""
    walk = walked(policy, story)
    walk.sent, walk.answer = None, None  # type: ignore[assignment]
    written = [render_status(walk.look(0.0).status) for _ in range(6)]
    assert written[2:] == [written[2]] * 4


@settings(max_examples=600, derandomize=True)
@given(st.sampled_from(RestartPolicy), walks)
def test_starting_ends_for_an_agent_that_may_act(policy: RestartPolicy, story: list[tuple[object, ...]]) -> None:
    """The domain is off, nobody wants it on, and no call is out."""
    walk = walked(policy, story)
    walk.vm.node = Node("node-a", walk.vm.vm.status.node_boot_id or "boot-1")
    walk.vm.change(desired=STOPPED, holds=(), misunderstood="", domain_name=None)
    walk.vm.elsewhere = ()
    walk.sent, walk.seen = None, domain(Phase.STOPPED, reason="UNKNOWN")
    for after_s in (0.1, 11.0, 0.1):
        step = walk.look(after_s)
    assert step.reason in {Reason.IN_SYNC, Reason.HANDOVER_UNCONFIRMED, Reason.SAVED_ELSEWHERE}
    if step.reason is Reason.IN_SYNC:
        assert step.status.operation is None


@settings(max_examples=600, derandomize=True)
@given(st.sampled_from(RestartPolicy), walks)
def test_a_start_on_record_makes_every_later_handover_unconfirmed(
    policy: RestartPolicy, story: list[tuple[object, ...]]
) -> None:
    """Whatever happens between the record and the handover, while nobody has seen what became of the call."""
    walk = walked(policy, story)
    operation = walk.vm.vm.status.operation
    if operation is None or not operation.starts:
        return
    walk.vm.change(desired=RUNNING, holds=(), misunderstood="", node_name="node-b")
    walk.vm.node = Node("node-b", "boot-b")
    walk.vm.agent_restarts()
    for seen in (domain(Phase.STOPPED, reason="UNKNOWN"), Unreadable("away"), domain(Phase.STOPPED, reason="UNKNOWN")):
        step = walk.vm.look(seen, after_s=60)
        assert step.action is None
    assert step.reason is Reason.HANDOVER_UNCONFIRMED

"""The manager marks a VM whose agent is silent: it replaces all conditions by Ready = Unknown/AgentUnreachable.

The rule: an agent that comes back decides as if there were no mark. The one exception is the report of another node,
which a mark puts in doubt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.codec import parse_status, render_status, status_patch
from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import (
    Condition,
    Hold,
    Operation,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    Shutdown,
    Status,
)
from controller.policy.decide import decide
from controller.policy.handover import is_foreign
from controller.policy.view import Action, Domain, Evidence, Facts, Outcome, Phase, Result, Step, Unreadable, View
from tests.policy.test_faults_walks import FACTS, SIGHTS, walked, walks
from tests.policy.views import PAUSED, RUNNING, STOPPED, T0, WAITS, Vm, action, domain, moment

DESTROYED = domain(Phase.STOPPED, reason="DESTROYED")
AWAY = Unreadable("connection reset")
MARK = "The agent of node-a has not been heard of since 00:00:00Z."
DECISIONS = [reason for reason in Reason if READINESS[reason] is not Readiness.UNKNOWN] + [Reason.UNKNOWN_STATE]


def reported(status: Status, decided: Reason, shown: Reason, at_s: float) -> Status:
    """The report with this decision, which an agent wrote at that time, and with the conditions of the other reason."""
    since = T0 + timedelta(seconds=at_s)
    ready, abnormal = READINESS[shown].value
    kinds = [("Ready", ready)] + ([(str(abnormal), "True")] if abnormal else [])
    conditions = tuple(Condition(kind, value, shown, "so it was", since, 1) for kind, value in kinds)
    return replace(status, decided_reason=decided, decided_transition_time=since, conditions=conditions)


def marked(status: Status, at_s: float) -> Status:
    """What the manager makes of a report."""
    mark = Condition("Ready", "Unknown", Reason.AGENT_UNREACHABLE, MARK, T0 + timedelta(seconds=at_s), 1)
    return replace(status, conditions=(mark,))


def but_conditions(step: Step) -> Step:
    """All of a step that a mark must not change: the texts and times that only people read are left out."""
    notices = tuple(replace(notice, note="") for notice in step.notices)
    return replace(step, message="", notices=notices, status=replace(step.status, conditions=()))


def is_in_doubt(view: View) -> bool:
    """Whether the report is of another node."""
    return is_foreign(view.vm.status, view.node)


# --- the property --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Last:
    """What the next look meets that a walk does not draw."""

    decided: Reason
    shown: Reason
    ago_s: float
    after_s: float
    restarted: bool
    maintenance: Maintenance | None
    elsewhere: tuple[RunsElsewhere, ...]


lasts = st.builds(
    Last,
    st.sampled_from(DECISIONS),
    st.sampled_from(Reason),
    st.sampled_from([0.5, 5.0, 60.0, 1000.0]),
    st.sampled_from([0.1, 6.0, 11.0, 200.0]),
    st.booleans(),
    st.sampled_from([None, None, *(Maintenance(mode, "new RAM") for mode in MaintenanceMode)]),
    st.sampled_from([(), (), (RunsElsewhere(SIGHTS[0].uuid, "node-b", T0),)]),  # type: ignore[union-attr]
)


@settings(max_examples=1500, derandomize=True)
@given(
    st.sampled_from(RestartPolicy),
    walks,
    lasts,
    st.sampled_from(SIGHTS),
    st.sampled_from(FACTS),
    st.sets(st.sampled_from(Evidence), max_size=2),
)
def test_memory_survives_a_mark(
    policy: RestartPolicy,
    story: list[tuple[object, ...]],
    last: Last,
    seen: Domain,
    facts: Facts,
    evidence: set[Evidence],
) -> None:
    """Whatever has happened, was decided and was shown, and whatever is seen next: the step is the one without it."""
    vm = walked(policy, story).vm
    status = reported(vm.vm.status, last.decided, last.shown, vm.at_s - last.ago_s)
    view = View(
        replace(vm.vm, status=status),
        seen,
        replace(vm.node, maintenance=last.maintenance),
        moment(vm.at_s + last.after_s),
        Vm().memory if last.restarted else vm.memory,
        evidence=frozenset(evidence),
        facts=facts,
        runs_elsewhere=last.elsewhere,
    )
    step = decide(view, vm.waits)
    other = decide(replace(view, vm=replace(view.vm, status=marked(status, vm.at_s))), vm.waits)
    assert MARK not in other.message
    if is_in_doubt(view):
        assert action(other) in {None, action(step)}
        return
    assert but_conditions(other) == but_conditions(step)
    assert other.status.condition("Ready") is not None
    assert other.status.reason == other.reason


@pytest.mark.parametrize("decided", DECISIONS)
@pytest.mark.parametrize("restarted", [False, True])
def test_each_decision_survives_a_mark(decided: Reason, *, restarted: bool) -> None:
    for desired, seen in [(RUNNING, DESTROYED), (STOPPED, domain(Phase.RUNNING)), (PAUSED, domain(Phase.RUNNING))]:
        vm = Vm(desired).in_sync()
        vm.look(seen, after_s=60)
        status = reported(vm.vm.status, decided, decided, vm.at_s)
        memory = Vm().memory if restarted else vm.memory
        view = View(replace(vm.vm, status=status), seen, vm.node, moment(vm.at_s + 4), memory, facts=Facts())
        step = decide(view, WAITS)
        other = decide(replace(view, vm=replace(view.vm, status=marked(status, vm.at_s))), WAITS)
        assert but_conditions(other) == but_conditions(step), desired


# --- the places that once read a condition -------------------------------------------------------------------------


def test_a_mark_is_no_new_grace_period() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    operation = vm.look(Phase.RUNNING).status.operation
    vm.is_marked()
    vm.agent_restarts()
    assert vm.look(Phase.RUNNING, after_s=50).status.operation == operation


@pytest.mark.parametrize("mark", [False, True])
def test_an_outage_of_libvirt_is_a_new_grace_period_marked_or_not(mark: bool) -> None:  # noqa: FBT001 - a column
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    away = vm.look(AWAY, after_s=5).status.operation
    assert away
    assert away.deadline is None
    vm.vm = replace(vm.vm, status=parse_status(render_status(vm.vm.status)))
    if mark:
        vm.is_marked()
    vm.agent_restarts()
    operation = vm.look(Phase.RUNNING, after_s=50).status.operation
    assert operation == Operation(OperationType.STOP, T0 + timedelta(seconds=55), T0 + timedelta(seconds=115), 1)


def test_a_recalled_stop_is_waited_for_after_an_outage_of_libvirt() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(AWAY, after_s=100, outcome=Outcome(Action.SHUTDOWN, Result.UNKNOWN))
    vm.change(desired=RUNNING)
    assert vm.look(Phase.RUNNING).reason is Reason.RESTARTING
    assert vm.look(Phase.RUNNING, after_s=59).reason is Reason.RESTARTING
    assert vm.look(Phase.RUNNING, after_s=1.1).reason is Reason.IN_SYNC


def test_a_busy_domain_is_no_outage() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    operation = vm.look(Phase.RUNNING).status.operation
    assert vm.look(Unreadable("its lock is held", busy=True)).status.operation == operation


@pytest.mark.parametrize(("then", "left_s"), [(Phase.PAUSED, 300.0), (Phase.SUSPENDED, 900.0)])
def test_a_new_process_goes_on_with_the_settle_time_although_marked(then: Phase, left_s: float) -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.PAUSED).reason is Reason.SETTLING
    vm.is_marked()
    vm.agent_restarts()
    assert vm.look(then, after_s=600).recheck_s == pytest.approx(left_s, abs=1)


def test_the_time_of_a_decision_is_that_of_its_first_report() -> None:
    vm = Vm().in_sync()
    first = vm.look(Phase.PAUSED, after_s=5).status.decided_transition_time
    assert first == T0 + timedelta(seconds=5)
    vm.is_marked()
    assert vm.look(Phase.PAUSED, after_s=5).status.decided_transition_time == first
    assert vm.look(Phase.RUNNING, after_s=5).status.decided_transition_time == T0 + timedelta(seconds=15)


def test_the_decision_for_the_former_domain_survives_a_mark() -> None:
    steps = []
    for mark in (False, True):
        vm = Vm(STOPPED, holds=(Hold("ann", ""),))
        assert vm.look(Phase.RUNNING).reason is Reason.HELD
        if mark:
            vm.is_marked()
        vm.agent_restarts()
        vm.annotate(holds=())
        vm.change(domain_name="other")
        steps.append(but_conditions(vm.look(replace(domain(Phase.RUNNING), name="other"), after_s=60)))
    assert steps[0].reason is Reason.SETTLING
    assert steps[0] == steps[1]


@pytest.mark.parametrize("desired", [RUNNING, STOPPED, PAUSED, None])
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("away", [False, True])
def test_a_vm_that_was_never_reported_is_decided_as_without_a_mark(
    desired: object, phase: Phase, *, away: bool
) -> None:
    steps = []
    for mark in (False, True):
        vm = Vm(desired)  # type: ignore[arg-type]
        if away:
            vm.look(AWAY)
        if mark:
            vm.is_marked()
        vm.agent_restarts()
        steps.append(but_conditions(vm.look(phase, after_s=5)))
    assert steps[0] == steps[1]


@pytest.mark.parametrize("phase", Phase)
def test_the_first_report_after_a_mark_replaces_it(phase: Phase) -> None:
    vm = Vm()
    step = vm.look(phase)
    vm.is_marked()
    before = render_status(vm.vm.status)
    if step.action:
        return  # the next look meets the record of a start, or the outcome of the action
    again = vm.look(phase, after_s=0.0)
    patch = status_patch(before, again.status)
    assert patch
    assert [condition["reason"] for condition in patch["conditions"]] == [again.reason] * len(again.status.conditions)
    assert {condition.type: condition.status for condition in again.status.conditions} == {
        condition.type: condition.status for condition in step.status.conditions
    }


# --- a mark never makes an agent start a VM ------------------------------------------------------------------------


def test_a_mark_puts_the_report_of_another_node_in_doubt() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.is_marked()
    vm.moves_to("node-b", desired=RUNNING)
    step = vm.look(DESTROYED)
    assert (step.reason, step.action) == (Reason.HANDOVER_UNCONFIRMED, None)


@pytest.mark.parametrize("shown", Reason)
@pytest.mark.parametrize("decided", DECISIONS)
def test_a_mark_removes_no_doubt(decided: Reason, shown: Reason) -> None:
    """Whatever the former node has decided and shown: marked, its report permits no start that it did not permit."""
    vm = Vm(STOPPED).in_sync()
    for status in (
        reported(vm.vm.status, decided, shown, 0.0),
        replace(reported(vm.vm.status, decided, shown, 0.0), power_state=PowerState.RUNNING),
    ):
        view = View(
            replace(vm.vm, status=status, desired=RUNNING, node_name="node-b", generation=2),
            DESTROYED,
            replace(vm.node, name="node-b", boot_id="boot-b"),
            moment(60),
        )
        other = decide(replace(view, vm=replace(view.vm, status=marked(status, 50))), WAITS)
        assert (other.reason, other.action) == (Reason.HANDOVER_UNCONFIRMED, None)


def test_the_outcome_of_a_start_survives_a_mark() -> None:
    vm = Vm()
    assert action(vm.look(Phase.STOPPED)) is Action.START
    vm.is_marked()
    refused = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no such disk"))
    assert (refused.reason, refused.action) == (Reason.START_FAILED, None)
    vm.is_marked()
    waits = vm.look(Phase.STOPPED, after_s=5)
    assert (waits.reason, waits.action) == (Reason.START_FAILED, None)
    assert waits.message.startswith("The last attempt failed.")

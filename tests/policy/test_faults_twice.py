"""Faults that ran a VM twice, or would have: each test is named after the fault that it is about.

A start is a fact about a call, and a report of another host is history: both are kept until it is known what became of
them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from controller.api.hypervisor import RunsElsewhere
from controller.api.virtualmachine import (
    DesiredPowerState,
    Hold,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    StopCause,
    VmKey,
)
from controller.policy.handover import vouching
from controller.policy.view import (
    Absent,
    Action,
    Conflict,
    Domain,
    Evidence,
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
from tests.policy.views import PAUSED, RUNNING, STOPPED, T0, UID, Vm, action, domain, done, handed_over, moment

DESTROYED = domain(Phase.STOPPED, reason="DESTROYED")
FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
"""As a libvirtd shows it that has been started anew."""
LINGERING = Domain(UID, "web", Phase.SHUTTING_DOWN, None, "SHUTOFF", "DESTROYED")
"""libvirt shows it off, and its QEMU has not ended."""
MACHINE_1, MACHINE_2 = UUID(int=101), UUID(int=102)


def unconfirmed(step: Step) -> bool:
    return step.reason is Reason.HANDOVER_UNCONFIRMED and step.action is None


def starting(desired: DesiredPowerState = RUNNING) -> Vm:
    """A VM whose start has just been recorded."""
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=desired)
    step = vm.look(Phase.STOPPED)
    assert step.action
    assert step.action.kind.starts
    assert step.status.operation
    assert step.status.operation.type is OperationType.START
    return vm


def restarting() -> Vm:
    """A VM whose restart is about to start it again."""
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert action(vm.look(Phase.RUNNING, after_s=5)) is Action.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    step = vm.look(Phase.STOPPED)
    assert action(step) is Action.START
    assert step.status.operation
    assert step.status.operation.attempt == 1
    return vm


def unwanted_stop() -> Vm:
    """A VM that somebody destroyed, whose restart by policy is on record and counted."""
    vm = Vm().in_sync()
    vm.look(DESTROYED)
    step = vm.look(DESTROYED, after_s=11)
    assert (action(step), step.status.restart_count) == (Action.START, 1)
    return vm


# --- A1: a hand-over during a start ----------------------------------------------------------------------


@pytest.mark.parametrize("begin", [starting, lambda: starting(PAUSED), restarting, unwanted_stop])
def test_a1_a_handover_during_a_start_is_unconfirmed(begin: object) -> None:
    """The report of node-a says Stopped, as libvirt does until the start has done its work."""
    assert callable(begin)
    vm = begin()
    assert vm.vm.status.power_state is PowerState.STOPPED
    vm.moves_to("node-b")
    for _ in range(3):
        step = vm.look(Phase.STOPPED, after_s=60)
        assert unconfirmed(step)
        assert "as Stopped. It had also recorded a start, and the result of that start is not known." in step.message
    assert vm.look(Phase.RUNNING).reason in {Reason.IN_SYNC, Reason.PAUSING}


def test_a1_a_slow_start_whose_node_is_marked_is_unconfirmed() -> None:
    vm = starting()
    vm.look(Phase.STOPPED, call=Action.START, after_s=20, call_began_s=vm.at_s)
    vm.is_marked()
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(Phase.STOPPED))


def test_a1_a_restart_that_is_past_its_stop_is_unconfirmed_though_its_start_has_no_record() -> None:
    """An older version wrote such reports; this version does where it recorded the start and then could not call it."""
    vm = restarting()
    vm.node = replace(vm.node, blocked="The agent is stopping.")
    operation = vm.look(Phase.STOPPED).status.operation
    assert operation
    assert (operation.type, operation.starts) == (OperationType.RESTART, False)
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a1_a_start_that_is_over_is_no_longer_in_the_way() -> None:
    vm = starting()
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    vm.change(desired=STOPPED)
    vm.look(domain(Phase.RUNNING, 2))
    assert vm.look(DESTROYED).reason is Reason.IN_SYNC
    vm.moves_to("node-b", desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START


SPECS = [{"desired": STOPPED}, {"desired": None}, {"holds": (Hold("ann", ""),)}]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.STARTING])
def test_a1_no_change_of_the_spec_removes_the_record_of_a_call_that_is_out(
    spec: dict[str, object], phase: Phase
) -> None:
    vm = starting()
    began_s = vm.at_s
    vm.change(**spec)
    for _ in range(4):
        step = vm.look(phase, after_s=20, call=Action.START, call_began_s=began_s)
        assert (step.reason, step.action) == (Reason.STARTING, None)
        assert step.status.operation
    assert ("virtsync stops the VM as soon as it is on" in step.message) == (spec.get("desired", RUNNING) is STOPPED)


@pytest.mark.parametrize("standing", [{"observe_only": True}, {"blocked": "The Lease is not held."}], ids=str)
def test_a1_an_agent_that_may_not_act_leaves_the_record_of_another_process_alone(standing: dict[str, object]) -> None:
    vm = starting()
    vm.agent_restarts()
    vm.node = replace(vm.node, **standing)  # type: ignore[arg-type]
    for _ in range(4):
        step = vm.look(Phase.STOPPED, after_s=60)
        assert (step.reason, step.action) == (Reason.STARTING, None)
        assert step.status.operation


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a1_a_record_that_was_left_over_and_is_not_wanted_ends_after_two_looks(spec: dict[str, object]) -> None:
    """Rule 1: a living agent that may act finds out; Starting does not last."""
    vm = starting()
    vm.agent_restarts()
    vm.change(**spec)
    first = vm.look(Phase.STOPPED, after_s=60)
    assert (first.reason, first.action, first.recheck_s) == (Reason.STARTING, None, 10.0)
    step = vm.look(Phase.STOPPED, after_s=10)
    assert step.action is None
    assert step.status.operation is None
    assert step.reason in {Reason.IN_SYNC, Reason.OBSERVED, Reason.HELD}


def test_a1_an_outage_between_the_two_looks_begins_the_wait_anew() -> None:
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    assert vm.look(Phase.STOPPED).reason is Reason.STARTING
    assert vm.look(Unreadable("away"), after_s=5).status.operation
    assert vm.look(Phase.STOPPED, after_s=6).reason is Reason.STARTING
    assert vm.look(Phase.STOPPED, after_s=10).reason is Reason.IN_SYNC


def test_a1_looks_from_before_the_call_confirm_nothing() -> None:
    """It has been off for long; the connection was lost in the call, and was there again before the next look."""
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    assert action(vm.look(Phase.STOPPED, after_s=60)) is Action.START
    vm.change(desired=STOPPED)
    lost = Outcome(Action.START, Result.UNKNOWN, "the connection was lost")
    step = vm.look(Phase.STOPPED, outcome=lost)
    assert (step.reason, step.recheck_s) == (Reason.STARTING, 10.0)
    assert vm.look(Phase.STOPPED, after_s=9).status.operation
    assert vm.look(Phase.STOPPED, after_s=1).reason is Reason.IN_SYNC


def test_a1_a_look_while_a_call_is_out_confirms_nothing() -> None:
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    vm.look(Phase.STOPPED, call=Action.SUSPEND)
    assert vm.look(Phase.STOPPED, after_s=11).reason is Reason.STARTING
    assert vm.look(Phase.STOPPED, after_s=10).reason is Reason.IN_SYNC


@pytest.mark.parametrize("began_s", [1, 30, 60])
def test_a1_a_libvirtd_that_was_started_since_knows_of_no_call(began_s: float) -> None:
    """From one second after the record, which shows whole seconds, up to this very moment."""
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    assert vm.vm.status.operation
    began = vm.vm.status.operation.start_time + timedelta(seconds=began_s)
    vm.node = replace(vm.node, libvirtd_since=began)
    assert vm.look(FORGOTTEN, after_s=60 - vm.at_s).reason is Reason.IN_SYNC


def test_a1_what_a_dead_agent_left_over_is_executed_once_and_counted_once() -> None:
    vm = unwanted_stop()
    recorded = vm.vm.status.operation
    vm.agent_restarts()
    step = vm.look(DESTROYED)
    assert (action(step), step.status.restart_count, step.status.operation) == (Action.START, 1, recorded)


@pytest.mark.parametrize("word", ["SHUTDOWN", "CRASHED", "SAVED", "MIGRATED"])
def test_a1_what_a_dead_agent_started_and_somebody_ended_since_has_run(word: str) -> None:
    """It is judged like any other stop: memory that somebody saved to a file is not thrown away by a second start."""
    vm = unwanted_stop()
    vm.agent_restarts()
    step = vm.look(domain(Phase.STOPPED, reason=word), after_s=60, events=set())
    assert step.action is None
    assert step.status.operation is None
    assert step.status.last_stop
    assert step.status.last_stop.time == moment(vm.at_s).wall.replace(microsecond=0)
    expected = {"SAVED": Reason.SAVED_ELSEWHERE, "MIGRATED": Reason.MIGRATED_AWAY}
    assert step.reason is expected.get(word, Reason.SETTLING)


def test_a1_a_start_that_failed_without_its_agent_is_a_refusal() -> None:
    vm = starting()
    vm.agent_restarts()
    step = vm.look(domain(Phase.STOPPED, reason="FAILED"))
    assert (step.reason, step.action, step.status.operation) == (Reason.START_FAILED, None, None)
    assert step.message.startswith("libvirt refused to start the VM: the recorded start failed.")
    assert step.status.backoff


def test_a1_another_boot_of_the_host_ends_the_record() -> None:
    vm = starting()
    vm.node = Node("node-a", "boot-2")
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    step = vm.look(FORGOTTEN)
    assert (step.reason, step.status.operation) == (Reason.IN_SYNC, None)


@pytest.mark.parametrize("sight", [Absent(), Replaced(UUID(int=9), "web"), Conflict(VmKey("default", "older"), UID)])
def test_a1_without_the_domain_there_is_nothing_that_could_have_been_started(sight: Observation) -> None:
    vm = starting()
    vm.agent_restarts()
    assert vm.look(sight).status.operation is None


@pytest.mark.parametrize("word", ["FAILED", "DESTROYED"])
def test_a1_a_word_that_was_there_before_says_nothing_of_this_start(word: str) -> None:
    vm = Vm(STOPPED).in_sync()
    off = domain(Phase.STOPPED, reason=word)
    vm.look(off)
    vm.change(desired=RUNNING)
    vm.look(off)
    vm.agent_restarts()
    step = vm.look(off, after_s=60)
    assert (action(step), step.status.last_stop) == (Action.START, None)


@pytest.mark.parametrize("result", [Result.DONE, Result.REFUSED, Result.UNKNOWN, Result.NOT_CALLED, Result.UNSENT])
def test_a1_what_came_of_the_call_decides(result: Result) -> None:
    """Off after the call: it ran and ended, it was refused, nobody knows, or it was not made."""
    vm = starting()
    step = vm.look(DESTROYED, outcome=Outcome(Action.START, result, "no"))
    expected = {
        Result.DONE: Reason.SETTLING,
        Result.REFUSED: Reason.START_FAILED,
        Result.UNKNOWN: Reason.SETTLING,
        Result.NOT_CALLED: Reason.STARTING,
        Result.UNSENT: Reason.START_FAILED,
    }
    assert step.reason is expected[result]
    assert (step.status.last_stop is not None) == (result in {Result.DONE, Result.UNKNOWN})


def test_a1_a_call_without_an_answer_is_made_again_with_the_same_record() -> None:
    vm = starting()
    recorded = vm.vm.status.operation
    step = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.UNKNOWN, "the connection was lost"))
    assert (action(step), step.status.operation) == (Action.START, recorded)


def test_a1_what_came_of_another_action_says_nothing_of_a_start_that_another_process_recorded() -> None:
    """Two agents overlap during an upgrade: an action of one ends after the other has recorded a start."""
    vm = Vm(STOPPED).in_sync()
    memory = vm.memory
    vm.change(desired=RUNNING)
    recorded = vm.look(Phase.STOPPED).status.operation
    assert recorded
    vm.memory = memory
    step = vm.look(Phase.STOPPED, after_s=5, outcome=done(Action.SHUTDOWN))
    assert (action(step), step.status.operation, step.status.last_stop) == (Action.START, recorded, None)


def test_a1_a_start_that_a_dead_agent_recorded_stays_on_record_though_it_is_not_called_again() -> None:
    """libvirt may have the call, and the saved memory has become a file that somebody else may restore."""
    vm = Vm()
    assert action(vm.look(Phase.SAVED)) is Action.START
    recorded = vm.vm.status.operation
    vm.agent_restarts()
    step = vm.look(domain(Phase.STOPPED, reason="SAVED"))
    assert (step.reason, step.action) == (Reason.SAVED_ELSEWHERE, None)
    assert step.status.operation == recorded


def test_a1_a_domain_that_is_starting_is_not_yet_on() -> None:
    """Nobody of this process has called it, and libvirt has not ended the call of whoever did."""
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    step = vm.look(domain(Phase.STARTING, 2))
    assert (step.reason, step.action) == (Reason.STARTING, None)
    assert step.status.operation


def test_a1_a_libvirtd_that_was_started_in_the_same_second_may_have_the_call() -> None:
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    assert vm.vm.status.operation
    vm.node = replace(vm.node, libvirtd_since=vm.vm.status.operation.start_time + timedelta(seconds=0.9))
    assert vm.look(FORGOTTEN, after_s=5).reason is Reason.STARTING


def test_a1_a_start_that_was_not_made_and_is_still_due_keeps_its_failures_and_waits_for_them() -> None:
    vm = unwanted_stop()
    step = vm.look(DESTROYED, outcome=Outcome(Action.START, Result.NOT_CALLED))
    assert (step.action, step.status.restart_count) == (None, 0)
    assert step.status.backoff
    assert step.status.backoff.failures == 1
    again = vm.look(DESTROYED, after_s=11)
    assert (action(again), again.status.restart_count) == (Action.START, 1)


def test_a1_a_wish_that_is_new_is_not_served_by_what_ran_before() -> None:
    """It ran and is off again, and the user has changed the spec meanwhile."""
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=PAUSED)
    assert action(vm.look(DESTROYED, after_s=60)) is Action.START_PAUSED


def test_rule_8_the_same_id_in_a_younger_process_is_another_run() -> None:
    """libvirtd gives out its ids anew when it restarts while nothing runs: what was to be stopped is over."""
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert action(vm.look(Phase.RUNNING, after_s=5)) is Action.SHUTDOWN
    operation = vm.vm.status.operation
    assert operation
    vm.agent_restarts()
    same = replace(domain(Phase.RUNNING, 1), run_since=operation.start_time - timedelta(seconds=60))
    assert vm.look(same).status.operation
    vm.agent_restarts()
    step = vm.look(replace(same, run_since=operation.start_time + timedelta(seconds=1)), after_s=2)
    assert (step.reason, step.action, step.status.operation) == (Reason.IN_SYNC, None, None)


@pytest.mark.parametrize("restarts", [False, True])
def test_rule_8_a_run_that_began_while_the_clock_was_ahead_is_stopped_with_one_grace(*, restarts: bool) -> None:
    """As after a boot with an RTC that holds local time: its pid file is of the future, and for a while of the past."""
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    began = replace(domain(Phase.RUNNING, 1), run_since=T0 + timedelta(seconds=40))
    vm.change(desired=STOPPED)
    assert action(vm.look(began, after_s=5)) is Action.SHUTDOWN
    operation = vm.vm.status.operation
    if restarts:
        vm.agent_restarts()
        assert action(vm.look(began)) is Action.SHUTDOWN
    vm.look(began, outcome=done(Action.SHUTDOWN))
    for _ in range(5):
        assert vm.look(began, after_s=11).status.operation == operation
    assert action(vm.look(began, after_s=11)) is Action.DESTROY


# --- A10: the record is not the act -----------------------------------------------------------------------


def test_a10_a_record_whose_answer_was_lost_is_executed_and_counted_once() -> None:
    vm = unwanted_stop()  # and nothing was called, as the answer to the report was lost
    recorded = vm.vm.status
    step = vm.look(DESTROYED)
    assert (action(step), step.status.restart_count, step.status.backoff) == (Action.START, 1, recorded.backoff)
    assert step.status.operation == recorded.operation


def test_a10_a_record_that_is_executed_after_a_change_of_the_spec_keeps_the_failures_that_it_counts() -> None:
    vm = unwanted_stop()
    recorded = vm.vm.status
    assert recorded.backoff
    vm.change(desired=PAUSED)
    step = vm.look(DESTROYED)
    assert (action(step), step.status.operation) == (Action.START_PAUSED, recorded.operation)
    assert step.status.backoff == recorded.backoff


def test_a10_a_record_that_waits_again_waits_for_no_settle_time_brake_or_backoff() -> None:
    vm = unwanted_stop()
    vm.node = replace(vm.node, braked_until=moment(vm.at_s + 100))
    assert action(vm.look(DESTROYED)) is Action.START


def test_a10_a_record_that_must_wait_for_its_turn_stays_and_is_counted_once() -> None:
    vm = unwanted_stop()
    for _ in range(3):
        step = vm.look(DESTROYED, turn_in_s=1.0)
        assert (step.action, step.status.restart_count) == (None, 1)
        assert step.status.operation
    assert vm.look(DESTROYED).status.restart_count == 1


@pytest.mark.parametrize("standing", [{"observe_only": True}, {"blocked": "The agent is stopping."}], ids=str)
def test_a10_a_record_that_may_not_be_executed_is_withdrawn_once(standing: dict[str, object]) -> None:
    """SIGTERM after the record: the next process is not to find a start that nobody has called."""
    vm = unwanted_stop()
    vm.node = replace(vm.node, **standing)  # type: ignore[arg-type]
    for _ in range(3):
        step = vm.look(DESTROYED)
        assert (step.action, step.status.operation, step.status.restart_count) == (None, None, 0)
        assert step.status.backoff  # the attempts are not forgotten


@pytest.mark.parametrize(
    "seen", [DESTROYED, domain(Phase.RUNNING, 2), domain(Phase.PAUSED, 2)], ids=lambda d: d.phase.name
)
def test_a10_a_start_that_found_another_domain_than_expected_counts_nothing(seen: Domain) -> None:
    """Somebody else was quicker, as a rule: then it runs, and virtsync did not start it."""
    vm = unwanted_stop()
    step = vm.look(seen, outcome=Outcome(Action.START, Result.NOT_CALLED))
    assert step.status.restart_count == (1 if step.action and step.action.kind is Action.START else 0)


def test_a10_only_what_was_counted_is_given_back() -> None:
    vm = unwanted_stop()
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    vm.change(desired=STOPPED)
    vm.look(domain(Phase.RUNNING, 2))
    vm.look(DESTROYED)
    vm.change(desired=RUNNING)
    assert vm.look(DESTROYED, after_s=60).status.restart_count == 1
    vm.node = replace(vm.node, blocked="The agent is stopping.")
    assert vm.look(DESTROYED).status.restart_count == 1


def test_a10_a_restart_that_is_not_wanted_any_more_ends_though_its_start_was_not_called() -> None:
    vm = restarting()
    vm.change(desired=STOPPED)
    step = vm.look(Phase.STOPPED)
    assert (step.reason, step.action, step.status.operation) == (Reason.IN_SYNC, None, None)


def test_a10_a_restart_whose_start_found_another_domain_than_expected_is_still_a_restart() -> None:
    """So the brake does not delay it, as it delays a start that no user asked for."""
    vm = restarting()
    vm.node = replace(vm.node, braked_until=moment(vm.at_s + 100))
    step = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.NOT_CALLED))
    assert action(step) is Action.START
    assert step.status.operation
    assert step.status.operation.type is OperationType.RESTART


def test_a10_a_restart_whose_start_was_not_called_is_still_one_for_the_next_process() -> None:
    vm = restarting()
    vm.node = replace(vm.node, blocked="The agent is stopping.")
    assert vm.look(Phase.STOPPED).reason is Reason.ACTION_BLOCKED
    vm.agent_restarts()
    vm.node = replace(vm.node, blocked="", braked_until=moment(vm.at_s + 100))
    assert vm.look(Phase.STOPPED).reason is Reason.HYPERVISOR_BUSY  # it did not send that stop
    step = vm.look(Phase.STOPPED, after_s=10)
    assert action(step) is Action.START
    assert step.status.operation
    assert step.status.operation.type is OperationType.RESTART


@pytest.mark.parametrize("spec", [*SPECS, {"desired": PAUSED}], ids=str)
@pytest.mark.parametrize("outcome", [None, Outcome(Action.START, Result.NOT_CALLED)], ids=["uncalled", "stale"])
def test_a10_whatever_the_user_wants_next_a_restart_that_was_not_called_leaves_a_sentence(
    spec: dict[str, object], outcome: Outcome | None
) -> None:
    vm = restarting()
    vm.change(**spec)
    for _ in range(2):
        step = vm.look(Phase.STOPPED, outcome=outcome)
        outcome = None
        assert action(step) in {None, Action.START_PAUSED}


@pytest.mark.parametrize("outcome", [None, Outcome(Action.START, Result.NOT_CALLED)], ids=["uncalled", "stale"])
def test_a_start_of_a_dead_agent_that_was_not_made_again_keeps_its_record(outcome: Outcome | None) -> None:
    """libvirt might still have the call of the dead agent."""
    vm = unwanted_stop()
    vm.agent_restarts()
    assert action(vm.look(DESTROYED)) is Action.START
    vm.change(desired=STOPPED)
    step = vm.look(DESTROYED, outcome=outcome)
    assert step.status.operation
    assert step.status.operation.starts
    step = vm.look(DESTROYED, after_s=10)  # long enough for the call to end
    assert (step.action, step.status.operation) == (None, None)


# --- rule 4: the report of another host is kept whole until it is resolved ------------------------------


def stopped_on_a(**edit: object) -> Vm:
    """Off on node-a in good order but for this, and wanted on node-b."""
    vm = Vm(STOPPED).in_sync()
    vm.edit(**edit)
    return vm


def test_a_report_of_off_in_good_order_is_believed() -> None:
    vm = stopped_on_a()
    vm.moves_to("node-b", desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a_report_of_the_former_version_in_good_order_is_believed_too() -> None:
    vm = stopped_on_a(decided_reason="")
    vm.moves_to("node-b", desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START


HERE: list[Observation] = [FORGOTTEN, Absent(), Replaced(UUID(int=9), "web"), Conflict(VmKey("default", "older"), UID)]
HERE += [Unreadable("away"), Unreadable("its lock is held", busy=True), domain(Phase.SAVED), domain(Phase.STARTING)]


@pytest.mark.parametrize("between", HERE, ids=lambda seen: f"{type(seen).__name__} {getattr(seen, 'phase', '')}")
def test_a_report_of_off_that_was_not_seen_stays_one_whatever_is_seen_here_meanwhile(between: Observation) -> None:
    """Rule 4a: Ready=Unknown says it, and what this node finds replaces that condition."""
    vm = stopped_on_a()
    vm.is_marked()
    vm.moves_to("node-b", desired=RUNNING)
    for seen in (between, between, FORGOTTEN, between, FORGOTTEN):
        step = vm.look(seen, after_s=60)
        assert step.action is None
        assert step.status.node_name == "node-a"
    assert unconfirmed(step)


@pytest.mark.parametrize("between", [Unreadable("away"), Unreadable("its lock is held", busy=True)], ids=str)
@pytest.mark.parametrize("held", [False, True])
def test_a_report_in_good_order_stays_in_good_order_though_this_node_cannot_look(
    between: Observation, *, held: bool
) -> None:
    vm = Vm(RUNNING if held else STOPPED, holds=(Hold("ann", ""),) if held else ())
    vm.look(Phase.STOPPED)
    vm.moves_to("node-b", desired=RUNNING)
    for _ in range(2):
        assert vm.look(between, after_s=5).status.power_state is PowerState.STOPPED
    step = vm.look(FORGOTTEN, after_s=5)
    assert (step.reason, action(step)) == ((Reason.HELD, None) if held else (Reason.STARTING, Action.START))


def test_a_hold_on_the_former_node_is_remembered_though_this_node_cannot_look() -> None:
    vm = Vm(holds=(Hold("ann", ""),))
    assert vm.look(Phase.STOPPED).reason is Reason.HELD
    vm.moves_to("node-b")
    vm.look(Unreadable("away"))
    vm.annotate(holds=())
    vm.look(Unreadable("away"))
    step = vm.look(FORGOTTEN)
    assert (step.reason, [notice.reason for notice in step.notices]) == (Reason.SETTLING, ["HoldReleased"])


def test_a_hold_on_the_former_node_is_remembered_though_its_report_forbids_the_start() -> None:
    vm = Vm(holds=(Hold("ann", ""),))
    vm.look(domain(Phase.RUNNING))
    assert vm.look(Phase.SAVED).reason is Reason.HELD
    vm.moves_to("node-b")
    assert vm.look(FORGOTTEN).reason is Reason.SAVED_ELSEWHERE
    vm.annotate(holds=())
    assert vm.look(FORGOTTEN).reason is Reason.SAVED_ELSEWHERE
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    step = vm.look(FORGOTTEN)
    assert (step.reason, [notice.reason for notice in step.notices]) == (Reason.SETTLING, ["HoldReleased"])


@pytest.mark.parametrize("between", HERE, ids=lambda seen: f"{type(seen).__name__} {getattr(seen, 'phase', '')}")
def test_a1_a_start_by_the_former_version_is_no_off_though_it_has_no_record(between: Observation) -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    assert vm.look(Phase.STOPPED).reason is Reason.STARTING
    vm.edit(run_transition_time=None, decided_reason="", host_uuid=None, operation=None)
    vm.moves_to("node-b")
    step = vm.look(FORGOTTEN)
    assert unconfirmed(step)
    assert "as Stopped. But libvirt on node-a was still working on the VM." in step.message
    for seen in (FORGOTTEN, between, FORGOTTEN, between, FORGOTTEN):
        step = vm.look(seen, after_s=60)
        assert step.action is None
    assert unconfirmed(step)
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a_qemu_that_has_not_ended_on_the_former_node_is_no_off() -> None:
    """Rule 5, on another node: libvirt's word "off" is not enough there either."""
    vm = Vm()
    assert vm.look(DESTROYED, facts=Facts(qemu=Qemu.ALIVE)).reason is Reason.HYPERVISOR_BUSY
    vm.moves_to("node-b")
    step = vm.look(FORGOTTEN)
    assert unconfirmed(step)
    assert "still working on the VM" in step.message


def test_a_call_of_somebody_else_on_the_former_node_is_no_off() -> None:
    """What holds the lock of the domain there may be a start."""
    vm = Vm(STOPPED).in_sync()
    vm.look(Unreadable("its lock is held", busy=True))
    vm.moves_to("node-b", desired=RUNNING)
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a_domain_that_a_migration_is_about_to_bring_does_not_run_here_yet() -> None:
    """When the migration fails it is gone from here, and has run there all the time."""
    vm = handed_over(Phase.RUNNING)
    for seen in (domain(Phase.STARTING), domain(Phase.PAUSED_BUSY, reason="MIGRATION")):
        assert vm.look(seen).status.node_name == "node-a"
    assert unconfirmed(vm.look(domain(Phase.CRASHED_OFF), events={Evidence.STOPPED_FAILED}))
    assert unconfirmed(vm.look(Absent())) or vm.vm.status.reason == Reason.DOMAIN_NOT_FOUND
    assert vm.look(domain(Phase.RUNNING, 4)).status.node_name == "node-b"


def test_a_domain_that_a_job_other_than_a_migration_pauses_here_runs_here() -> None:
    vm = handed_over(Phase.RUNNING)
    step = vm.look(domain(Phase.PAUSED_BUSY, reason="SAVE"))
    assert (step.reason, step.status.node_name) == (Reason.HYPERVISOR_BUSY, "node-b")


def test_a_qemu_that_has_not_ended_here_is_not_the_run_that_the_former_node_reported() -> None:
    """Each host numbers its runs, and libvirt here does not report the number any more."""
    vm = handed_over(Phase.RUNNING, vouched=True)
    record = vm.look(LINGERING).status.domain
    assert record
    assert record.id is None


@pytest.mark.parametrize("seen_there", [domain(Phase.STOPPED), Absent()], ids=["off", "absent"])
def test_the_report_still_names_the_domain_of_the_former_node_while_this_node_has_none(seen_there: Observation) -> None:
    vm = Vm(STOPPED)
    there = vm.look(seen_there).status.domain
    vm.moves_to("node-b", desired=RUNNING)
    step = vm.look(Absent())
    assert (step.reason, step.status.node_name) == (Reason.DOMAIN_NOT_FOUND, "node-b")
    assert step.status.domain == there


def test_another_domain_on_another_node_does_not_resolve_the_report() -> None:
    """The user names the domain anew in the same change: what ran on node-a is the same VM, as far as anybody knows."""
    vm = Vm().in_sync()
    vm.moves_to("node-b", domain_name="web-2")
    other = Domain(UUID(int=8), "web-2", Phase.STOPPED, None, "SHUTOFF", "UNKNOWN")
    for _ in range(2):
        assert unconfirmed(vm.look(other))
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert action(vm.look(other)) is Action.START


@pytest.mark.parametrize("word", ["SAVED", "UNKNOWN"])
def test_rule_4b_memory_that_was_saved_there_stays_there(word: str) -> None:
    """By a managed save, or to a file; libvirt there may have forgotten the word since."""
    vm = Vm().in_sync()
    vm.look(Phase.SAVED if word == "SAVED" else domain(Phase.STOPPED, reason="SAVED"))
    vm.look(Phase.SAVED if word == "SAVED" else FORGOTTEN)
    vm.moves_to("node-b")
    for seen in (FORGOTTEN, Absent(), FORGOTTEN):
        step = vm.look(seen)
    assert (step.reason, step.action) == (Reason.SAVED_ELSEWHERE, None)
    assert vouching(vm.vm.status) in step.message
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    vm.look(FORGOTTEN)
    assert action(vm.look(FORGOTTEN, after_s=10)) is Action.START


@pytest.mark.parametrize("word", ["SAVED", "UNKNOWN"])
def test_rule_4b_memory_that_was_removed_there_is_in_nobodys_way(word: str) -> None:
    """The message asks for it; libvirt goes on saying SHUTOFF/SAVED until it is restarted."""
    vm = Vm().in_sync()
    vm.look(Phase.SAVED)
    vm.look(domain(Phase.STOPPED, reason=word))
    vm.moves_to("node-b")
    vm.look(FORGOTTEN)
    assert action(vm.look(FORGOTTEN, after_s=10)) is Action.START


def test_rule_4b_memory_in_a_file_of_a_vm_that_was_never_seen_on_stays_there_too() -> None:
    vm = Vm()
    assert vm.look(domain(Phase.STOPPED, reason="SAVED")).reason is Reason.SAVED_ELSEWHERE
    assert vm.vm.status.last_stop is None
    vm.moves_to("node-b")
    assert vm.look(FORGOTTEN).reason is Reason.SAVED_ELSEWHERE


def test_rule_4b_memory_in_a_file_stays_there_though_its_domain_was_undefined_and_defined_again() -> None:
    vm = Vm().in_sync()
    vm.look(domain(Phase.STOPPED, reason="SAVED"))
    vm.look(Absent())
    assert vm.look(FORGOTTEN).status.libvirt_reason == "UNKNOWN"
    vm.moves_to("node-b")
    assert vm.look(FORGOTTEN).reason is Reason.SAVED_ELSEWHERE


def test_rule_4b_memory_in_a_file_forbids_no_start_once_libvirt_there_has_reported_another_stop() -> None:
    vm = Vm().in_sync()
    vm.look(domain(Phase.STOPPED, reason="SAVED"))
    vm.look(DESTROYED)
    vm.moves_to("node-b")
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_rule_4b_a_vm_whose_last_stop_libvirt_there_does_not_know_has_no_memory_there() -> None:
    vm = Vm(STOPPED)
    vm.look(FORGOTTEN)
    vm.moves_to("node-b", desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a_settle_time_on_the_former_node_goes_on_when_the_user_confirms_its_report() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.SAVED).reason is Reason.SETTLING
    vm.moves_to("node-b")
    assert vm.look(FORGOTTEN).reason is Reason.SAVED_ELSEWHERE
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert vm.look(FORGOTTEN).reason is Reason.SETTLING
    assert action(vm.look(FORGOTTEN, after_s=10)) is Action.START


def test_a_doubt_is_not_forgotten_though_it_was_vouched_for_while_this_node_could_not_look() -> None:
    vm = stopped_on_a()
    vm.is_marked()
    vm.moves_to("node-b", desired=RUNNING)
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    vm.look(Unreadable("away"))
    vm.annotate(confirmed_off="")
    assert unconfirmed(vm.look(FORGOTTEN))


def test_rule_4d_memory_here_is_not_restored_after_a_run_there_however_the_user_vouches() -> None:
    vm = handed_over(Phase.RUNNING, vouched=True)
    step = vm.look(Phase.SAVED)
    assert (step.reason, step.action) == (Reason.SAVED_ELSEWHERE, None)
    assert "does not know which of the two is newer" in step.message
    assert "managedsave-remove" in step.message
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_rule_4d_memory_that_our_own_report_knows_is_restored_also_after_a_reboot() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.SAVED)
    vm.node = Node("node-a", "boot-2")
    vm.agent_restarts()
    step = vm.look(Phase.SAVED)
    assert (action(step) or step.reason) in {Action.START, Reason.SETTLING}


# --- A8: another node's words are not what libvirt says here ---------------------------------------------


def migrated() -> Vm:
    vm = Vm().in_sync()
    assert vm.look(domain(Phase.STOPPED, reason="MIGRATED")).reason is Reason.MIGRATED_AWAY
    vm.moves_to("node-b")
    return vm


def test_a8_where_it_was_migrated_to_it_is_started_once_it_has_been_seen_there() -> None:
    vm = migrated()
    assert vm.look(domain(Phase.RUNNING, 3)).reason is Reason.IN_SYNC
    vm.agent_restarts()
    vm.look(FORGOTTEN, after_s=60)
    step = vm.look(FORGOTTEN, after_s=11)
    assert (action(step), step.status.libvirt_reason) == (Action.START, "UNKNOWN")


def test_a8_an_event_of_its_arrival_is_as_good() -> None:
    step = migrated().look(FORGOTTEN, events={Evidence.STARTED_MIGRATED})
    assert (action(step), step.status.libvirt_reason, step.status.last_stop) == (Action.START, "UNKNOWN", None)


def test_a8_where_it_has_not_been_seen_it_may_be_on_anywhere() -> None:
    vm = migrated()
    for _ in range(2):
        step = vm.look(FORGOTTEN)
        assert unconfirmed(step)
        assert "migrated this VM to another host" in step.message
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert action(vm.look(FORGOTTEN)) is Action.START


# --- memory that is elsewhere stays elsewhere until the VM has run here -----------------------------------

MIGRATING_HERE = domain(Phase.PAUSED_BUSY, 5, reason="MIGRATION")
"""A QEMU that waits for the memory of an incoming migration."""
LEFT = {"MIGRATED": Reason.MIGRATED_AWAY, "SAVED": Reason.SAVED_ELSEWHERE}


def left(reason: str) -> Vm:
    """A VM that was migrated away, or whose memory was saved to a file."""
    vm = Vm().in_sync()
    assert vm.look(domain(Phase.STOPPED, reason=reason)).reason is LEFT[reason]
    return vm


@pytest.mark.parametrize("failed", ["FAILED", "DAEMON", "UNKNOWN", "FROM_SNAPSHOT"])
@pytest.mark.parametrize("reason", LEFT)
def test_a_start_by_hand_that_fails_brings_no_memory_back(reason: str, failed: str) -> None:
    vm = left(reason)
    for after_s in (60, 60, 3600):
        step = vm.look(domain(Phase.STOPPED, reason=failed), after_s=after_s)
        assert (step.reason, step.action) == (LEFT[reason], None)
    vm.moves_to("node-c")
    step = vm.look(FORGOTTEN)
    assert step.reason is (Reason.HANDOVER_UNCONFIRMED if reason == "MIGRATED" else Reason.SAVED_ELSEWHERE)
    assert step.action is None


@pytest.mark.parametrize("ended", ["FAILED", "DESTROYED", "CRASHED", "UNKNOWN", "DAEMON"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_migration_back_that_fails_brings_nothing_back(ended: str, *, restarts: bool) -> None:
    """The QEMU that waited for the memory has ended, and the VM runs on where it was."""
    vm = left("MIGRATED")
    vm.look(MIGRATING_HERE, after_s=60, events={Evidence.STARTED_MIGRATED})
    if restarts:
        vm.agent_restarts()
    for after_s in (5, 60, 3600):
        step = vm.look(domain(Phase.STOPPED, reason=ended), after_s=after_s, events={Evidence.STOPPED_FAILED})
        assert (step.reason, step.action) == (Reason.MIGRATED_AWAY, None)


def test_a_migration_back_that_succeeds_ends_the_cause_with_the_next_stop() -> None:
    vm = left("MIGRATED")
    vm.look(MIGRATING_HERE, after_s=60, events={Evidence.STARTED_MIGRATED})
    vm.look(domain(Phase.RUNNING, 5), after_s=5)
    assert vm.look(DESTROYED, after_s=60).reason is Reason.SETTLING
    assert action(vm.look(DESTROYED, after_s=11)) is Action.START


def test_a_restore_that_fails_leaves_the_file() -> None:
    vm = left("SAVED")
    vm.look(domain(Phase.PAUSED_BUSY, 5, reason="MIGRATION"), after_s=60)
    for after_s in (5, 3600):
        step = vm.look(domain(Phase.STOPPED, reason="FAILED"), after_s=after_s, events={Evidence.STOPPED_FAILED})
        assert (step.reason, step.action) == (Reason.SAVED_ELSEWHERE, None)


@pytest.mark.parametrize("reason", LEFT)
@pytest.mark.parametrize("cause", [Phase.STOPPED, DESTROYED])
def test_memory_that_left_between_two_reports_of_off_is_noticed(reason: str, cause: Phase | Domain) -> None:
    """Somebody has started the VM and sent it away while the agent was away."""
    vm = Vm(STOPPED).in_sync()
    vm.look(cause)
    vm.look(domain(Phase.STOPPED, reason=reason), after_s=3600)
    stop = vm.vm.status.last_stop
    assert stop
    assert stop.cause == {"MIGRATED": StopCause.MIGRATED, "SAVED": StopCause.SAVED}[reason]
    vm.moves_to("node-c", desired=RUNNING)
    step = vm.look(FORGOTTEN)
    assert step.action is None
    assert step.reason is (Reason.HANDOVER_UNCONFIRMED if reason == "MIGRATED" else Reason.SAVED_ELSEWHERE)


def test_a_new_object_whose_domain_was_migrated_away_is_not_started_on_a_third_host() -> None:
    vm = Vm(STOPPED)
    assert vm.look(domain(Phase.STOPPED, reason="MIGRATED")).status.last_stop is None
    vm.moves_to("node-c", desired=RUNNING)
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a_stop_that_was_not_reported_does_not_hide_a_later_migration() -> None:
    vm = Vm().in_sync()
    guest = vm.look(domain(Phase.STOPPED), events={Evidence.SHUTDOWN_GUEST}).status.last_stop
    assert guest
    vm = Vm().in_sync()
    vm.memory = replace(vm.memory, phase=Phase.STOPPED, unreported_stop=guest)
    step = vm.look(domain(Phase.STOPPED, reason="MIGRATED"))
    assert (step.reason, step.action) == (Reason.MIGRATED_AWAY, None)


# --- what the manager has seen of the VM elsewhere, on the way to a third host ----------------------------

THERE = RunsElsewhere(UID, "node-b", T0)


@pytest.mark.parametrize("desired", [None, STOPPED, RUNNING])
@pytest.mark.parametrize("seen", [DESTROYED, Absent()])
def test_a_run_elsewhere_is_in_the_report_whatever_else_is(
    desired: DesiredPowerState | None, seen: Observation
) -> None:
    vm = Vm(desired).in_sync()
    vm.elsewhere = (THERE,)
    for after_s in (60, 60):
        step = vm.look(seen, after_s=after_s)
        assert (step.status.decided, step.action) == (Reason.RUNS_ELSEWHERE, None)
    assert step.notices == (), "it is told once"
    vm.elsewhere = ()
    vm.moves_to("node-c", desired=RUNNING)
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a_run_elsewhere_that_is_over_leaves_nothing_behind() -> None:
    vm = Vm(None).in_sync()
    vm.elsewhere = (THERE,)
    vm.look(DESTROYED, after_s=60)
    vm.elsewhere = ()
    assert vm.look(DESTROYED, after_s=60).status.decided == Reason.OBSERVED
    vm.moves_to("node-c", desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START


# --- a doubt is not forgotten ----------------------------------------------------------------------------


@pytest.mark.parametrize("blind", [Unreadable("away"), Unreadable("another call", busy=True)])
def test_a_doubt_about_the_former_node_survives_an_outage_of_libvirt(blind: Unreadable) -> None:
    vm = handed_over(Phase.STOPPED)
    vm.look(Unreadable("away"))  # node-b cannot look; the report of node-a is not in doubt
    vm.moves_to("node-a", desired=RUNNING)
    vm.is_marked()
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(FORGOTTEN))
    vm.look(blind, after_s=60)
    assert unconfirmed(vm.look(FORGOTTEN, after_s=60))


def test_a_doubt_survives_a_time_without_a_node() -> None:
    vm = handed_over(Phase.STOPPED)
    vm.look(Unreadable("away"))
    vm.moves_to("node-a", desired=RUNNING)
    vm.is_marked()
    vm.is_marked(Reason.PENDING)
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(FORGOTTEN))


# --- a copy that stands still ----------------------------------------------------------------------------


@pytest.mark.parametrize("desired", [RUNNING, STOPPED, PAUSED, None])
@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.PAUSED_IO_ERROR, Phase.SUSPENDED])
def test_a_paused_copy_is_not_resumed_while_the_former_node_reports_it_on(
    phase: Phase, desired: DesiredPowerState | None
) -> None:
    vm = handed_over(Phase.RUNNING)
    vm.change(desired=desired)
    for after_s in (1, 3600):
        assert unconfirmed(vm.look(domain(phase, 4), after_s=after_s))
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert vm.look(domain(phase, 4)).status.node_name == "node-b"


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.PAUSED_IO_ERROR, Phase.SUSPENDED])
def test_a_vm_that_has_arrived_and_stands_still_is_taken_over(phase: Phase) -> None:
    vm = handed_over(Phase.RUNNING)
    assert vm.look(domain(phase, 4), events={Evidence.STARTED_MIGRATED}).status.node_name == "node-b"


# --- A2, rule 2: a vouching names what it vouches for ----------------------------------------------------


def test_a2_a_vouching_that_stays_in_git_does_not_vouch_for_a_later_handover() -> None:
    vm = handed_over(Phase.RUNNING, vouched=True)
    assert action(vm.look(FORGOTTEN)) is Action.START
    vm.look(domain(Phase.RUNNING, 1), outcome=done(Action.START))
    vm.change(desired=STOPPED)
    vm.look(domain(Phase.RUNNING, 1), after_s=60)
    vm.look(DESTROYED)
    vm.moves_to("node-a", desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START
    assert vm.look(domain(Phase.RUNNING, 1), outcome=done(Action.START)).reason is Reason.IN_SYNC
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a2_every_run_has_a_time_of_its_own_however_the_wall_clock_jumps() -> None:
    vm = Vm().in_sync()
    seen = [vouching(vm.vm.status)]
    for number, ahead_s in enumerate([0.0, -7200.0, 0.0, 7200.0, -86400.0], start=2):
        vm.wall_ahead_s = ahead_s
        vm.look(DESTROYED, after_s=0)
        seen.append(vouching(vm.vm.status))
        vm.look(domain(Phase.RUNNING, number), after_s=0)
        seen.append(vouching(vm.vm.status))
    assert sorted(set(seen)) == seen


@pytest.mark.parametrize(
    ("node", "number"),
    [
        (Node("node-a", "boot-2", host_uuid=MACHINE_1), 1),
        (Node("node-a", "boot-1", host_uuid=MACHINE_2), 1),
        (Node("node-a", "boot-1", host_uuid=MACHINE_1), 2),
    ],
    ids=["another boot", "another UUID", "another run"],
)
def test_a2_whatever_tells_one_run_from_another_moves_the_time(node: Node, number: int) -> None:
    vm = Vm()
    vm.node = Node("node-a", "boot-1", host_uuid=MACHINE_1)
    vm.look(domain(Phase.RUNNING, 1))
    before = vouching(vm.vm.status)
    assert vouching(vm.look(domain(Phase.RUNNING, 1), after_s=60).status) == before
    vm.node = node
    assert vouching(vm.look(domain(Phase.RUNNING, number), after_s=60).status) > before


@pytest.mark.parametrize(
    "written", ["node-a", "node-a ", "node-b 2026-01-01T00:00:00Z", "node-a 2026-01-01T00:00:01Z", ""]
)
def test_a2_what_names_another_report_or_none_vouches_for_nothing(written: str) -> None:
    vm = handed_over(Phase.RUNNING)
    assert vouching(vm.vm.status) == "node-a 2026-01-01T00:00:00Z"
    vm.annotate(confirmed_off=written)
    step = vm.look(FORGOTTEN)
    assert unconfirmed(step)
    assert "confirmed-off='node-a 2026-01-01T00:00:00Z'" in step.message
    assert ("a node name alone" in step.message) == (written == "node-a")


def test_a2_a_report_of_the_former_version_is_vouched_for_by_the_time_of_its_power_state() -> None:
    vm = Vm(RUNNING).in_sync()
    vm.edit(run_transition_time=None, decided_reason="")
    vm.moves_to("node-b", confirmed_off="node-a 2026-01-01T00:00:00Z")
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a2_a_report_of_the_former_version_without_any_time_is_confirmed_by_the_node_name() -> None:
    vm = Vm()
    vm.look(Replaced(UUID(int=9), "web"))
    vm.edit(run_transition_time=None, decided_reason="")
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(FORGOTTEN))
    vm.annotate(confirmed_off="node-a")
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a2_a_vouching_outlives_a_libvirt_that_is_away() -> None:
    vm = handed_over(Phase.RUNNING, vouched=True)
    vm.look(Unreadable("away"))
    vm.look(Unreadable("away"), after_s=60)
    assert action(vm.look(FORGOTTEN)) is Action.START


# --- A6, rule 3: a node is a machine, not a name ---------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "here", "boot", "other"),
    [
        (MACHINE_1, MACHINE_2, "boot-2", True),
        (MACHINE_1, MACHINE_2, "boot-1", False),
        (MACHINE_1, MACHINE_1, "boot-2", False),
        (None, MACHINE_2, "boot-2", False),
        (MACHINE_1, None, "boot-2", False),
    ],
)
def test_a6_another_machine_under_the_same_name_is_another_host(
    reported: UUID | None, here: UUID | None, boot: str, *, other: bool
) -> None:
    vm = Vm()
    vm.node = Node("node-a", "boot-1", host_uuid=reported)
    vm.look(Phase.RUNNING)
    vm.node = Node("node-a", boot, host_uuid=here)
    vm.agent_restarts()
    step = vm.look(FORGOTTEN, after_s=60)
    assert unconfirmed(step) == other
    assert step.status.host_uuid == (reported if other else here)
    if not other:
        assert step.status.last_stop
        expected = StopCause.NODE_REBOOT if boot == "boot-2" else StopCause.UNKNOWN
        assert step.status.last_stop.cause is expected


# --- B2, rule 5: a destroy is believed when QEMU is gone --------------------------------------------------


def test_b2_nothing_is_started_while_the_last_qemu_has_not_ended() -> None:
    vm = Vm(shutdown=Shutdown(ShutdownMode.FORCE, 60)).in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert action(vm.look(Phase.RUNNING, after_s=5)) is Action.DESTROY
    reasons = [vm.look(LINGERING, after_s=after_s, outcome=None).reason for after_s in (10, 20, 40)]
    assert reasons == [Reason.RESTARTING, Reason.RESTARTING, Reason.SHUTDOWN_TIMED_OUT]
    step = vm.look(DESTROYED)
    assert action(step) is Action.START
    assert step.status.last_stop
    assert step.status.last_stop.cause is StopCause.AGENT


def test_b2_a_stop_that_somebody_else_forced_has_its_grace_for_the_qemu_to_end() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60)).in_sync()
    first = vm.look(LINGERING, after_s=1)
    looks = [first, *(vm.look(LINGERING, after_s=after_s) for after_s in (59.5, 0.5))]
    assert [step.reason for step in looks] == [
        Reason.SHUTTING_DOWN,
        Reason.SHUTTING_DOWN,
        Reason.SHUTDOWN_TIMED_OUT,
    ]
    assert first.status.operation
    assert {step.status.operation for step in looks} == {first.status.operation}


def test_b2_a_restart_that_is_asked_for_while_the_last_qemu_has_not_ended_is_on_record() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    step = vm.look(LINGERING, after_s=5)
    assert (step.reason, step.status.last_restart_time) == (Reason.RESTARTING, T0 + timedelta(seconds=1))
    assert action(vm.look(DESTROYED, after_s=5)) is Action.START


def test_b2_a_qemu_of_a_vm_that_should_run_has_a_whole_grace_to_end() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    looks = [vm.look(LINGERING, after_s=after_s) for after_s in (1, 59.5, 0.5)]
    assert [step.reason for step in looks] == [
        Reason.SHUTTING_DOWN,
        Reason.SHUTTING_DOWN,
        Reason.SHUTDOWN_TIMED_OUT,
    ]


def test_b2_a_qemu_that_libvirt_left_behind_stalls_the_start_after_the_grace() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60))
    alive = Facts(qemu=Qemu.ALIVE)
    looks = [vm.look(DESTROYED, after_s=after_s, facts=alive) for after_s in (1, 59.5, 0.5)]
    assert [step.reason for step in looks] == [
        Reason.HYPERVISOR_BUSY,
        Reason.HYPERVISOR_BUSY,
        Reason.SHUTDOWN_TIMED_OUT,
    ]
    assert len({step.message for step in looks}) == 1
    assert action(vm.look(DESTROYED)) is Action.START


def test_b2_a_start_is_due_before_libvirt_was_asked_about_the_last_qemu() -> None:
    """The reconcile pass asks for these facts only where an action is due, and then decides again with them."""
    assert action(Vm().look(DESTROYED, facts=None)) is Action.START


def test_b2_a_start_that_the_user_asked_for_is_not_forgotten_while_a_qemu_is_in_the_way() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER, shutdown=Shutdown(grace_s=60)).in_sync()
    vm.look(Phase.STOPPED, events={Evidence.SHUTDOWN_GUEST})
    vm.change(desired=STOPPED)
    assert vm.look(Phase.STOPPED, after_s=60).reason is Reason.IN_SYNC
    vm.change(desired=RUNNING)
    for _ in range(3):
        vm.look(Phase.STOPPED, after_s=60, facts=Facts(qemu=Qemu.ALIVE))
    assert vm.vm.status.reason == Reason.SHUTDOWN_TIMED_OUT
    assert action(vm.look(Phase.STOPPED)) is Action.START


def test_b2_where_nobody_can_tell_two_looks_ten_seconds_apart_do() -> None:
    vm = Vm()
    unsure = Facts(qemu=Qemu.UNSURE)
    first = vm.look(DESTROYED, facts=unsure)
    assert (first.reason, first.action, first.recheck_s) == (Reason.HYPERVISOR_BUSY, None, 10.0)
    vm.wall_ahead_s = 7200
    assert vm.look(DESTROYED, after_s=9, facts=unsure).message == first.message
    assert action(vm.look(DESTROYED, after_s=1, facts=unsure)) is Action.START


@pytest.mark.parametrize("kind", ["Stop", "Restart"])
def test_b2_a_new_process_does_not_believe_at_once_in_a_stop_that_it_did_not_send(kind: str) -> None:
    vm = Vm().in_sync()
    vm.change(**({"desired": STOPPED} if kind == "Stop" else {"restart_request": T0 + timedelta(seconds=1)}))
    assert action(vm.look(Phase.RUNNING, after_s=5)) is Action.SHUTDOWN
    vm.agent_restarts()
    vm.change(desired=RUNNING)
    assert vm.look(DESTROYED, after_s=5).reason is Reason.HYPERVISOR_BUSY
    vm.look(Unreadable("away"), after_s=5)
    assert vm.look(DESTROYED, after_s=5).reason is Reason.HYPERVISOR_BUSY  # an outage is no look
    assert action(vm.look(DESTROYED, after_s=10)) is Action.START


def test_b2_a_stop_of_this_process_is_believed_when_its_call_has_returned() -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING, after_s=5)
    vm.change(desired=RUNNING)
    assert vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN)).reason is Reason.RESTARTING
    assert action(vm.look(Phase.STOPPED)) is Action.START


def test_a13_a_policy_judges_what_a_start_of_a_dead_agent_came_to() -> None:
    vm = Vm(STOPPED, restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    vm.look(DESTROYED)
    vm.change(desired=RUNNING)
    assert action(vm.look(DESTROYED)) is Action.START
    vm.agent_restarts()
    vm.look(Phase.STOPPED, after_s=60)  # the guest has shut itself down since
    assert vm.look(Phase.STOPPED, after_s=11).reason is Reason.COMPLETED


# --- a start in flight whose record is gone ------------------------------------------------------------------------


def being_started() -> Vm:
    """The start of this VM has been called, and libvirt has not answered."""
    vm = Vm(STOPPED, domain_uuid=UID).in_sync()
    vm.change(desired=RUNNING)
    assert action(vm.look(Phase.STOPPED)) is Action.START
    return vm


def is_recorded_again(vm: Vm) -> None:
    """The next look records the call, and another node does not take the VM for off."""
    vm.change(desired=STOPPED)
    step = vm.look(Phase.STOPPED, call=Action.START)
    assert step.reason is Reason.STARTING
    assert step.status.operation
    assert step.status.operation.starts
    vm.moves_to("node-b", desired=RUNNING)
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a_call_is_recorded_again_after_a_conflict() -> None:
    vm = being_started()
    vm.look(Conflict(VmKey("default", "older"), UID), call=Action.START)
    is_recorded_again(vm)


def test_a_call_is_recorded_again_after_another_domain() -> None:
    vm, other = being_started(), UUID(int=9)
    vm.change(domain_uuid=other)
    vm.look(Domain(other, "other", Phase.STOPPED, None, "SHUTOFF", "SHUTDOWN"))
    vm.change(domain_uuid=UID)
    is_recorded_again(vm)


def test_a_call_is_recorded_for_a_new_object() -> None:
    vm = being_started()
    vm.vm = replace(Vm(STOPPED).vm, uid="uid-2")
    is_recorded_again(vm)


# --- a report without an observation -------------------------------------------------------------------------------


def test_a_spec_that_is_not_understood_is_reported_with_the_node() -> None:
    vm = Vm(RUNNING, misunderstood='spec.power "Later"')
    assert vm.look(Phase.RUNNING).status.node_name == "node-a"
    vm.moves_to("node-b", misunderstood="")
    assert unconfirmed(vm.look(FORGOTTEN))


def test_the_first_report_without_an_answer_of_libvirt_has_the_node() -> None:
    vm = Vm(RUNNING)
    assert vm.look(Unreadable("libvirt does not answer")).status.node_name == "node-a"
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(FORGOTTEN))


# --- the history of another domain ---------------------------------------------------------------------------------


def test_a_served_restart_is_not_served_again_for_another_domain() -> None:
    vm = Vm(RUNNING, restart_request=T0 - timedelta(hours=1))
    vm.edit(last_restart_time=T0 - timedelta(hours=1))
    before = vm.look(Phase.RUNNING).status
    vm.change(domain_name="other")
    step = vm.look(Domain(UUID(int=9), "other", Phase.RUNNING, 5, "RUNNING", "BOOTED"))
    assert (action(step), step.reason) == (None, Reason.IN_SYNC)
    assert step.status.last_restart_time == before.last_restart_time
    assert step.status.run_transition_time
    assert before.run_transition_time
    assert step.status.run_transition_time > before.run_transition_time


def test_another_domain_of_the_same_name_has_no_history() -> None:
    vm = Vm(RUNNING, domain_uuid=UID, restart_policy=RestartPolicy.NEVER).in_sync()
    vm.change(domain_uuid=None, domain_name="web")
    step = vm.look(Domain(UUID(int=9), "web", Phase.STOPPED, None, "SHUTOFF", "SHUTDOWN"), after_s=60)
    assert step.status.last_stop is None
    assert step.reason is not Reason.COMPLETED


OTHER = Domain(UUID(int=9), "other", Phase.STOPPED, None, "SHUTOFF", "SHUTDOWN")


@pytest.mark.parametrize("seen", [OTHER, Absent()], ids=["off", "absent"])
def test_a_report_of_another_domain_does_not_show_that_the_vm_is_off(seen: Domain | Absent) -> None:
    """Somebody mistypes spec.domain.uuid while the VM runs, then corrects it and moves the VM in one edit."""
    vm = Vm(RUNNING, domain_uuid=UID).in_sync()
    vm.change(domain_uuid=OTHER.uuid, desired=STOPPED)
    vm.look(seen)
    vm.moves_to("node-b", domain_uuid=UID, desired=RUNNING)
    step = vm.look(FORGOTTEN)
    assert unconfirmed(step)
    assert f"The last report of node-a is about another domain ({OTHER.uuid})." in step.message
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a_mistyped_domain_on_the_new_node_does_not_hide_the_report() -> None:
    vm = Vm(RUNNING, domain_uuid=UID).in_sync()
    vm.moves_to("node-b", domain_uuid=OTHER.uuid)
    assert vm.look(Absent()).reason is Reason.DOMAIN_NOT_FOUND
    vm.change(domain_uuid=UID)
    assert unconfirmed(vm.look(FORGOTTEN))


def test_a_vm_whose_domain_was_on_another_node_starts_there() -> None:
    """The usual correction: only spec.nodeName was wrong."""
    vm = Vm(RUNNING)
    assert vm.look(Absent()).reason is Reason.DOMAIN_NOT_FOUND
    vm.moves_to("node-b")
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_a_vm_may_be_named_by_its_uuid_when_it_moves() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.moves_to("node-b", domain_uuid=UID, desired=RUNNING)
    assert action(vm.look(FORGOTTEN)) is Action.START


def test_the_same_domain_by_its_name_has_its_history() -> None:
    vm = Vm(RUNNING, domain_uuid=UID, restart_policy=RestartPolicy.NEVER).in_sync()
    vm.change(domain_uuid=None, domain_name="web")
    step = vm.look(Phase.STOPPED, events={Evidence.SHUTDOWN_GUEST}, after_s=60)
    assert step.status.last_stop
    assert step.status.last_stop.cause is StopCause.GUEST

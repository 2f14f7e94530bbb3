"""Faults that ran a VM twice, or would have: each test is named after the fault that it is about.

A start is a fact about a call, and a report of another host is history: both are kept until it is known what became of
them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from controller.model import (
    DesiredPowerState,
    Domain,
    OperationType,
    Outcome,
    Phase,
    PowerState,
    Reason,
    Result,
    Step,
    Unreadable,
    Verb,
)
from tests.core.views import PAUSED, RUNNING, STOPPED, T0, UID, Vm, domain, done, moment, verb

DESTROYED = domain(Phase.STOPPED, reason="DESTROYED")
FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
"""As a libvirtd shows it that has been started anew."""
LINGERING = Domain(UID, "web", Phase.SHUTTING_DOWN, None, "SHUTOFF", "DESTROYED")
"""libvirt shows it off, and its QEMU has not ended."""
MACHINE_1, MACHINE_2 = UUID(int=101), UUID(int=102)


def unconfirmed(step: Step) -> bool:
    return step.reason is Reason.HANDOVER_UNCONFIRMED and step.act is None


def starting(desired: DesiredPowerState = RUNNING) -> Vm:
    """A VM whose start has just been recorded."""
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=desired)
    step = vm.look(Phase.STOPPED)
    assert step.act
    assert step.act.verb.starts
    assert step.status.operation
    assert step.status.operation.type is OperationType.START
    return vm


def restarting() -> Vm:
    """A VM whose restart is about to start it again."""
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert verb(vm.look(Phase.RUNNING, after_s=5)) is Verb.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=done(Verb.SHUTDOWN))
    step = vm.look(Phase.STOPPED)
    assert verb(step) is Verb.START
    assert step.status.operation
    assert step.status.operation.attempt == 1
    return vm


def unwanted_stop() -> Vm:
    """A VM that somebody destroyed, whose restart by policy is on record and counted."""
    vm = Vm().in_sync()
    vm.look(DESTROYED)
    step = vm.look(DESTROYED, after_s=11)
    assert (verb(step), step.status.restart_count) == (Verb.START, 1)
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
        assert "start on record" in step.message
    assert vm.look(Phase.RUNNING).reason in {Reason.IN_SYNC, Reason.PAUSING}


def test_a1_a_slow_start_whose_node_is_marked_is_unconfirmed() -> None:
    vm = starting()
    vm.look(Phase.STOPPED, call=Verb.START, after_s=20, call_began_s=vm.at_s)
    vm.is_marked()
    vm.moves_to("node-b")
    assert unconfirmed(vm.look(Phase.STOPPED))


def test_a1_a_start_that_is_over_is_no_longer_in_the_way() -> None:
    vm = starting()
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Verb.START))
    vm.change(desired=STOPPED)
    vm.look(domain(Phase.RUNNING, 2))
    assert vm.look(DESTROYED).reason is Reason.IN_SYNC
    vm.moves_to("node-b", desired=RUNNING)
    assert verb(vm.look(FORGOTTEN)) is Verb.START


SPECS = [{"desired": STOPPED}, {"desired": None}, {"holds": (("ann", ""),)}]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.STARTING])
def test_a1_no_change_of_the_spec_removes_the_record_of_a_call_that_is_out(
    spec: dict[str, object], phase: Phase
) -> None:
    vm = starting()
    began_s = vm.at_s
    vm.change(**spec)
    for _ in range(4):
        step = vm.look(phase, after_s=20, call=Verb.START, call_began_s=began_s)
        assert (step.reason, step.act) == (Reason.STARTING, None)
        assert step.status.operation
    assert ("stopped as soon as it is on" in step.message) == (spec.get("desired", RUNNING) is not RUNNING)


@pytest.mark.parametrize("standing", [{"observe_only": True}, {"blocked": "The Lease is not held."}], ids=str)
def test_a1_an_agent_that_may_not_act_leaves_the_record_of_another_process_alone(standing: dict[str, object]) -> None:
    vm = starting()
    vm.agent_restarts()
    vm.node = replace(vm.node, **standing)  # type: ignore[arg-type]
    for _ in range(4):
        step = vm.look(Phase.STOPPED, after_s=60)
        assert (step.reason, step.act) == (Reason.STARTING, None)
        assert step.status.operation


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a1_a_record_that_was_left_over_and_is_not_wanted_ends_after_two_looks(spec: dict[str, object]) -> None:
    """Rule 1: a living agent that may act finds out; Starting does not last."""
    vm = starting()
    vm.agent_restarts()
    vm.change(**spec)
    first = vm.look(Phase.STOPPED, after_s=60)
    assert (first.reason, first.act, first.recheck_s) == (Reason.STARTING, None, 10.0)
    step = vm.look(Phase.STOPPED, after_s=10)
    assert step.act is None
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


def test_a1_a_libvirtd_that_was_started_since_knows_of_no_call() -> None:
    vm = starting()
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    vm.node = replace(vm.node, libvirtd_since=moment(vm.at_s + 30).wall)
    assert vm.look(FORGOTTEN, after_s=60).reason is Reason.IN_SYNC


def test_a1_what_a_dead_agent_left_over_is_executed_once_and_counted_once() -> None:
    vm = unwanted_stop()
    recorded = vm.vm.status.operation
    vm.agent_restarts()
    step = vm.look(DESTROYED)
    assert (verb(step), step.status.restart_count, step.status.operation) == (Verb.START, 1, recorded)


@pytest.mark.parametrize("word", ["SHUTDOWN", "CRASHED", "SAVED", "MIGRATED"])
def test_a1_what_a_dead_agent_started_and_somebody_ended_since_has_run(word: str) -> None:
    """It is judged like any other stop: memory that somebody saved to a file is not thrown away by a second start."""
    vm = unwanted_stop()
    vm.agent_restarts()
    step = vm.look(domain(Phase.STOPPED, reason=word), after_s=60, events=set())
    assert step.act is None
    assert step.status.operation is None
    assert step.status.last_stop
    assert step.status.last_stop.time == moment(vm.at_s).wall.replace(microsecond=0)
    expected = {"SAVED": Reason.SAVED_ELSEWHERE, "MIGRATED": Reason.MIGRATED_AWAY}
    assert step.reason is expected.get(word, Reason.SETTLING)


def test_a1_a_start_that_failed_without_its_agent_is_a_refusal() -> None:
    vm = starting()
    vm.agent_restarts()
    step = vm.look(domain(Phase.STOPPED, reason="FAILED"))
    assert (step.reason, step.act, step.status.operation) == (Reason.START_FAILED, None, None)
    assert step.status.backoff


# --- A10: the record is not the act -----------------------------------------------------------------------


def test_a10_a_record_whose_answer_was_lost_is_executed_and_counted_once() -> None:
    vm = unwanted_stop()  # and nothing was called, as the answer to the report was lost
    recorded = vm.vm.status
    step = vm.look(DESTROYED)
    assert (verb(step), step.status.restart_count, step.status.backoff) == (Verb.START, 1, recorded.backoff)
    assert step.status.operation == recorded.operation


def test_a10_a_record_that_waits_again_waits_for_no_settle_time_brake_or_backoff() -> None:
    vm = unwanted_stop()
    vm.node = replace(vm.node, braked_until=moment(vm.at_s + 100))
    assert verb(vm.look(DESTROYED)) is Verb.START


def test_a10_a_record_that_must_wait_for_its_turn_stays_and_is_counted_once() -> None:
    vm = unwanted_stop()
    for _ in range(3):
        step = vm.look(DESTROYED, turn_in_s=1.0)
        assert (step.act, step.status.restart_count) == (None, 1)
        assert step.status.operation
    assert vm.look(DESTROYED).status.restart_count == 1


@pytest.mark.parametrize("standing", [{"observe_only": True}, {"blocked": "The agent is stopping."}], ids=str)
def test_a10_a_record_that_may_not_be_executed_is_withdrawn_once(standing: dict[str, object]) -> None:
    """SIGTERM after the record: the next process is not to find a start that nobody has called."""
    vm = unwanted_stop()
    vm.node = replace(vm.node, **standing)  # type: ignore[arg-type]
    for _ in range(3):
        step = vm.look(DESTROYED)
        assert (step.act, step.status.operation, step.status.restart_count) == (None, None, 0)
        assert step.status.backoff  # the attempts are not forgotten


@pytest.mark.parametrize(
    "seen", [DESTROYED, domain(Phase.RUNNING, 2), domain(Phase.PAUSED, 2)], ids=lambda d: d.phase.name
)
def test_a10_a_start_that_found_another_domain_than_expected_counts_nothing(seen: Domain) -> None:
    """Somebody else was quicker, as a rule: then it runs, and virtsync did not start it."""
    vm = unwanted_stop()
    step = vm.look(seen, outcome=Outcome(Verb.START, Result.STALE))
    assert step.status.restart_count == (1 if step.act and step.act.verb is Verb.START else 0)


def test_a10_a_restart_that_is_not_wanted_any_more_ends_though_its_start_was_not_called() -> None:
    vm = restarting()
    vm.change(desired=STOPPED)
    step = vm.look(Phase.STOPPED)
    assert (step.reason, step.act, step.status.operation) == (Reason.IN_SYNC, None, None)


@pytest.mark.parametrize("spec", [*SPECS, {"desired": PAUSED}], ids=str)
@pytest.mark.parametrize("outcome", [None, Outcome(Verb.START, Result.STALE)], ids=["uncalled", "stale"])
def test_a10_whatever_the_user_wants_next_a_restart_that_was_not_called_leaves_a_sentence(
    spec: dict[str, object], outcome: Outcome | None
) -> None:
    vm = restarting()
    vm.change(**spec)
    for _ in range(2):
        step = vm.look(Phase.STOPPED, outcome=outcome)
        outcome = None
        assert verb(step) in {None, Verb.START_PAUSED}

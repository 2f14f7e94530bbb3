"""What a look means: whose report it builds on, why the VM stopped, what is in flight, and since when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from controller.api.virtualmachine import (
    DesiredPowerState,
    DomainRecord,
    Hold,
    LastStop,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    Status,
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
    Node,
    Observation,
    Outcome,
    Phase,
    Replaced,
    Result,
    Step,
    Unreadable,
)
from tests.policy.views import (
    CRASH,
    GUEST,
    PAUSED,
    RUNNING,
    STOPPED,
    T0,
    UID,
    WAITS,
    Vm,
    action,
    domain,
    done,
    handed_over,
    moment,
)

DESTROYED = domain(Phase.STOPPED, reason="DESTROYED")
FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
"""As a libvirtd shows it that has been started anew."""


def cause(step: Step) -> StopCause | None:
    return step.status.last_stop.cause if step.status.last_stop else None


# --- what was seen is told -------------------------------------------------------------------------------


def test_the_report_names_the_domain_that_was_seen() -> None:
    vm = Vm(domain_name="web-disk")
    seen = Domain(UID, "web-disk", Phase.RUNNING, 7, "RUNNING", "BOOTED", persistent=False, autostart=True)
    record = vm.look(seen).status.domain
    assert record
    assert (record.name, record.uuid, record.bound_by, record.id) == ("web-disk", UID, "web-disk", 7)
    assert (record.persistent, record.autostart) == (False, True)


GONE: list[tuple[Observation, PowerState]] = [
    (Absent(), PowerState.ABSENT),
    (Replaced(UUID(int=9), "web"), PowerState.UNKNOWN),
    (Conflict(VmKey("default", "older"), UID), PowerState.UNKNOWN),
]


@pytest.mark.parametrize(("sight", "power_state"), GONE)
def test_without_a_domain_the_report_keeps_only_which_one_it_was(sight: Observation, power_state: PowerState) -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=10, events=GUEST).status.completion_time
    vm.look(domain(Phase.RUNNING, 2), after_s=10)
    status = vm.look(sight, after_s=20).status
    assert (status.power_state, status.libvirt_state, status.libvirt_reason) == (power_state, "", "")
    assert status.power_state_transition_time == T0 + timedelta(seconds=40)
    assert status.domain
    assert (status.domain.uuid, status.domain.id) == (UID, None)


def test_a_domain_that_was_never_there_is_reported_absent() -> None:
    status = Vm().look(Absent()).status
    assert (status.power_state, status.domain) == (PowerState.ABSENT, DomainRecord("", None, "web"))


# --- whose report it is ----------------------------------------------------------------------------------


def test_an_object_that_was_made_anew_has_patience_anew() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60))
    for after_s in (1, 50):
        assert vm.look(Phase.SHUTTING_DOWN, after_s=after_s).reason is Reason.SHUTTING_DOWN
    vm.vm = replace(vm.vm, uid="uid-2", status=Status())
    assert vm.look(Phase.SHUTTING_DOWN, after_s=50).reason is Reason.SHUTTING_DOWN
    assert vm.look(Phase.SHUTTING_DOWN, after_s=50).reason is Reason.SHUTTING_DOWN
    assert vm.look(Phase.SHUTTING_DOWN, after_s=20).reason is Reason.SHUTDOWN_TIMED_OUT


def test_what_was_in_flight_on_another_node_is_not_in_flight_here() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    assert vm.look(Phase.RUNNING, after_s=1).status.operation
    vm.change(node_name="node-b")
    vm.node = Node("node-b", "boot-1")  # the same boot id, which is nothing to rely upon
    vm.agent_restarts()
    step = vm.look(Phase.RUNNING, after_s=30)
    assert step.status.operation
    assert step.status.operation.start_time == T0 + timedelta(seconds=31)


def test_failures_on_another_node_ask_for_no_patience_here() -> None:
    vm = Vm()
    vm.look(Phase.STOPPED)
    refused = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no disk"))
    assert refused.status.backoff
    vm.annotate(node_name="node-b")
    vm.node = Node("node-b", "boot-b")
    vm.agent_restarts()
    step = vm.look(Phase.STOPPED)
    assert action(step) is Action.START


def test_a_stop_on_another_node_is_not_told_again_and_has_no_settle_time_here() -> None:
    vm = handed_over(Phase.STOPPED)
    step = vm.look(DESTROYED)
    assert (action(step), step.status.last_stop, step.notices) == (Action.START, None, ())


def test_a_migrated_vm_that_is_already_off_again_at_its_new_home_is_started_at_once() -> None:
    vm = handed_over(Phase.RUNNING, vouched=True)
    step = vm.look(DESTROYED)
    assert (action(step), step.status.last_stop, step.notices) == (Action.START, None, ())


def test_a_stop_that_was_not_judged_before_the_user_moved_the_vm_is_not_judged_on_the_new_node() -> None:
    """A host that is emptied: its guests go off, and are wanted on elsewhere."""
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.SETTLING
    vm.change(node_name="node-b")
    vm.node = Node("node-b", "boot-b")
    vm.agent_restarts()
    step = vm.look(FORGOTTEN)
    assert (action(step), step.status.restart_count) == (Action.START, 0)


def test_an_accepted_stop_stays_accepted_on_another_node() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    completed = vm.look(Phase.STOPPED, after_s=10, events=GUEST)
    assert completed.reason is Reason.COMPLETED
    vm.change(node_name="node-b")
    vm.node = Node("node-b", "boot-b")
    vm.agent_restarts()
    for _ in range(2):
        there = vm.look(FORGOTTEN, after_s=60)
        assert (there.reason, there.action) == (Reason.COMPLETED, None)
        assert there.status.completion_time == completed.status.completion_time


def test_a_stop_that_was_reported_on_another_node_stays_in_the_report() -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    there = vm.look(Phase.STOPPED).status.last_stop
    assert there
    vm.moves_to("node-b", desired=RUNNING)
    assert vm.look(FORGOTTEN).status.last_stop == there


def test_while_libvirt_is_away_the_report_of_the_other_node_stands() -> None:
    vm = handed_over(Phase.STOPPED)
    away = vm.look(Unreadable("away"))
    assert (away.status.node_name, away.status.power_state) == ("node-a", PowerState.STOPPED)


def test_a_report_of_another_node_that_stands_is_about_the_newest_spec() -> None:
    vm = handed_over(Phase.RUNNING)
    step = vm.look(FORGOTTEN)
    assert step.reason is Reason.HANDOVER_UNCONFIRMED
    assert step.status.observed_generation == vm.vm.generation


def test_what_came_of_an_action_is_forgotten_while_the_report_of_another_node_stands() -> None:
    vm = handed_over(Phase.RUNNING)
    vm.look(FORGOTTEN)
    vm.look(FORGOTTEN, outcome=Outcome(Action.START, Result.REFUSED, "no such disk"))
    vm.annotate(confirmed_off=vouching(vm.vm.status))
    assert action(vm.look(FORGOTTEN)) is Action.START


# --- a restart that is asked for -------------------------------------------------------------------------


def test_a_request_from_the_moment_of_creation_is_none() -> None:
    """`kubectl apply` of an object that was restarted before it was exported, or stamped as it was made."""
    vm = Vm(created=T0).in_sync()
    vm.change(restart_request=T0)
    assert vm.look(Phase.RUNNING, after_s=60).reason is Reason.IN_SYNC
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert vm.look(Phase.RUNNING, after_s=60).reason is Reason.RESTARTING


def test_a_request_of_this_very_moment_is_served() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=60))
    assert action(vm.look(Phase.RUNNING, after_s=59.9)) is Action.SHUTDOWN


def test_a_scheduled_restart_is_looked_for_when_it_is_due_and_confirmed_ten_seconds_later() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=100))
    assert vm.look(Phase.RUNNING, after_s=39.9).recheck_s == pytest.approx(60)
    assert vm.look(Phase.RUNNING, after_s=60).recheck_s == pytest.approx(10)
    near = vm.look(Phase.RUNNING, after_s=9.5)
    assert near.action is None
    assert near.recheck_s == pytest.approx(0.5)
    begun = vm.look(Phase.RUNNING, after_s=0.5)
    assert action(begun) is Action.SHUTDOWN
    assert begun.status.last_restart_time == T0 + timedelta(seconds=100)


def test_a_wall_clock_that_jumps_and_comes_back_restarts_nothing() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1000))
    for ahead_s in (0, 5000, 0, 5000, 0):
        vm.wall_ahead_s = ahead_s
        for _ in range(2):
            assert vm.look(Phase.RUNNING, after_s=4).action is None


# --- a stop that could not be reported -------------------------------------------------------------------


def unreported(vm: Vm, cause: StopCause, at_s: float) -> LastStop:
    """The API server did not take the report of this stop."""
    stop = LastStop(cause, moment(at_s).wall, "It was seen while the API server was away.")
    vm.memory = replace(vm.memory, unreported_stop=stop, phase=Phase.STOPPED)
    return stop


def test_a_stop_that_could_not_be_reported_is_reported_later_with_its_time_and_its_event() -> None:
    vm = Vm().in_sync()
    stop = unreported(vm, StopCause.CRASH, 30)
    step = vm.look(FORGOTTEN, after_s=300)
    assert step.status.last_stop == stop
    assert [(notice.reason, notice.warning) for notice in step.notices] == [("StoppedUnexpectedly", True)]
    assert step.notices[0].note.startswith(stop.message)


def test_a_stop_of_unknown_cause_that_could_not_be_reported_is_judged_anew() -> None:
    vm = Vm().in_sync()
    unreported(vm, StopCause.UNKNOWN, 30)
    assert cause(vm.look(Phase.STOPPED, after_s=300, events=GUEST)) is StopCause.GUEST


def test_a_stop_that_could_not_be_reported_is_told_even_when_the_vm_runs_again() -> None:
    vm = Vm().in_sync()
    stop = unreported(vm, StopCause.CRASH, 30)
    assert vm.look(domain(Phase.RUNNING, 2), after_s=300).status.last_stop == stop


def test_an_older_stop_does_not_replace_a_newer_one() -> None:
    vm = Vm().in_sync()
    newer = vm.look(Phase.STOPPED, after_s=60, events=GUEST).status.last_stop
    assert newer
    for at_s in (30, (newer.time - T0).total_seconds()):
        unreported(vm, StopCause.CRASH, at_s)
        assert vm.look(domain(Phase.RUNNING, 2), after_s=60).status.last_stop == newer
    latest = unreported(vm, StopCause.CRASH, 70)
    assert vm.look(domain(Phase.RUNNING, 2), after_s=60).status.last_stop == latest


# --- what is learnt of a stop later ----------------------------------------------------------------------


def test_the_crash_loop_of_the_theory_of_operation() -> None:
    """As at the head of controller/policy/assess.py."""
    vm = Vm().in_sync()

    def passes(after_s: float, run: int | None, outcome: Outcome | None = None) -> tuple[object, ...]:
        events = CRASH if run is None else set()
        seen = domain(Phase.CRASHED_OFF if run is None else Phase.RUNNING, run)
        step = vm.look(seen, after_s=after_s, events=events, outcome=outcome)
        backoff = step.status.backoff
        next_s = (backoff.next_attempt_time - T0).total_seconds() - 100 if backoff else None
        return step.reason, action(step), backoff.failures if backoff else 0, next_s, step.status.restart_count

    started = done(Action.START)
    assert passes(99.9, None) == (Reason.STARTING, Action.START, 1, 11, 1)
    assert passes(1, 2, started) == (Reason.IN_SYNC, None, 1, 11, 1)
    assert passes(4, None) == (Reason.CRASH_LOOP_BACK_OFF, None, 1, 11, 1)
    assert passes(6, None) == (Reason.STARTING, Action.START, 2, 32, 2)
    assert passes(1, 3, started) == (Reason.IN_SYNC, None, 2, 32, 2)
    vm.agent_restarts()
    assert passes(3, 3) == (Reason.IN_SYNC, None, 2, 32, 2)
    assert passes(5, None) == (Reason.CRASH_LOOP_BACK_OFF, None, 2, 32, 2)
    assert passes(12, None) == (Reason.STARTING, Action.START, 3, 73, 3)
    assert passes(1, 4, started) == (Reason.IN_SYNC, None, 3, 73, 3)
    assert passes(600, 4) == (Reason.IN_SYNC, None, 0, None, 3)


def test_a_saved_memory_that_somebody_removes_is_no_memory_that_waits_elsewhere() -> None:
    vm = Vm().in_sync()
    saved = vm.look(Phase.SAVED, after_s=60)
    assert (cause(saved), saved.reason) == (StopCause.SAVED, Reason.SETTLING)
    removed = vm.look(FORGOTTEN, after_s=60)
    assert removed.status.last_stop
    assert saved.status.last_stop
    assert removed.status.last_stop == LastStop(
        StopCause.EXTERNAL, saved.status.last_stop.time, "Somebody removed the saved memory of the VM."
    )
    assert action(vm.look(FORGOTTEN, after_s=11)) is Action.START


def test_a_stop_by_the_guest_stays_one_whatever_a_saved_memory_does_then() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    vm.look(Phase.SAVED, after_s=1, events=GUEST)
    assert cause(vm.look(Phase.STOPPED, after_s=1, events=GUEST)) is StopCause.GUEST


REBOOTS = [
    (Phase.STOPPED, GUEST, "SHUTDOWN", StopCause.NODE_REBOOT),
    (Phase.STOPPED, set(), "DESTROYED", StopCause.NODE_REBOOT),
    (Phase.STOPPED, set(), "SHUTDOWN", StopCause.NODE_REBOOT),
    (Phase.SAVED, set(), "SAVED", StopCause.NODE_REBOOT),
    (Phase.STOPPED, set(), "SAVED", StopCause.SAVED),
    (Phase.STOPPED, set(), "MIGRATED", StopCause.MIGRATED),
    (Phase.CRASHED_OFF, CRASH, "CRASHED", StopCause.CRASH),
]


@pytest.mark.parametrize(("phase", "events", "reason", "then"), REBOOTS)
def test_a_stop_that_a_host_may_have_made_as_it_went_down_is_the_reboots(
    phase: Phase, events: set[Evidence], reason: str, then: StopCause
) -> None:
    vm = Vm().in_sync()
    vm.node = replace(vm.node, braked_until=moment(120))
    first = vm.look(domain(phase, reason=reason), after_s=30, events=events)
    vm.agent_restarts()
    vm.node = Node("node-a", "boot-2")
    booted = vm.look(domain(phase, reason="SAVED" if phase is Phase.SAVED else "UNKNOWN"), after_s=60)
    assert cause(booted) is then
    assert first.status.last_stop
    assert booted.status.last_stop
    assert booted.status.last_stop.time == first.status.last_stop.time
    reboot = "The node went down or was rebooted."
    assert (booted.status.last_stop.message == reboot) == (then is StopCause.NODE_REBOOT)


@pytest.mark.parametrize("kind", ["accepted", "wanted otherwise"])
def test_a_stop_that_has_been_answered_is_no_reboot(kind: str) -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    if kind == "accepted":
        assert vm.look(Phase.STOPPED, after_s=10, events=GUEST).reason is Reason.COMPLETED
    else:
        vm.change(desired=PAUSED)
    vm.node = Node("node-a", "boot-2")
    assert cause(vm.look(FORGOTTEN, after_s=60)) is StopCause.GUEST


def test_what_an_event_says_late_is_told_in_its_words() -> None:
    vm = Vm().in_sync()
    first = vm.look(FORGOTTEN)
    assert cause(first) is StopCause.UNKNOWN
    late = vm.look(FORGOTTEN, events=GUEST)
    assert first.status.last_stop
    assert late.status.last_stop == LastStop(
        StopCause.GUEST, first.status.last_stop.time, "The guest powered itself off."
    )


def test_an_acceptance_belongs_to_the_stop_that_it_accepted() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(FORGOTTEN)
    completed = vm.look(FORGOTTEN, after_s=10)
    assert completed.reason is Reason.COMPLETED
    failed = vm.look(FORGOTTEN, after_s=10, events=CRASH)
    assert failed.reason is Reason.FAILED
    assert failed.status.completion_time
    assert completed.status.completion_time
    assert failed.status.completion_time > completed.status.completion_time


# --- what is in flight -----------------------------------------------------------------------------------


def test_a_stop_that_libvirt_could_not_be_asked_about_has_a_new_grace_when_it_can() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    away = vm.look(Unreadable("away"), after_s=20)
    assert away.status.operation
    assert away.status.operation.start_time == T0 + timedelta(seconds=1)
    back = vm.look(Phase.RUNNING, after_s=100)
    assert action(back) is Action.SHUTDOWN
    operation = back.status.operation
    assert operation
    assert operation.deadline
    assert (operation.type, operation.domain_id) == (OperationType.STOP, 1)
    assert (operation.start_time - T0, operation.deadline - T0) == (timedelta(seconds=121), timedelta(seconds=181))


def test_a_stop_that_ends_while_libvirt_is_away_is_its_own() -> None:
    vm = Vm(STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Unreadable("away"))
    assert cause(vm.look(FORGOTTEN)) is StopCause.AGENT


def test_a_restart_that_is_no_longer_wanted_ends_as_a_stop() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0)
    started = vm.look(Phase.RUNNING)
    vm.change(desired=STOPPED)
    stopping = vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    assert stopping.reason is Reason.SHUTTING_DOWN
    assert stopping.status.operation
    assert started.status.operation
    assert stopping.status.operation == replace(started.status.operation, type=OperationType.STOP)
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, off.action) == (Reason.IN_SYNC, None)


@pytest.mark.parametrize("ahead_s", [0, 86_400, -86_400])
def test_a_recalled_stop_is_over_at_its_old_deadline_whatever_the_wall_clock_says(ahead_s: float) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.look(Phase.RUNNING, after_s=0)
    vm.look(Phase.RUNNING, after_s=0, outcome=done(Action.SHUTDOWN))
    vm.change(desired=RUNNING)
    vm.wall_ahead_s = ahead_s
    waiting = vm.look(Phase.RUNNING, after_s=1)
    assert (waiting.reason, waiting.action) == (Reason.RESTARTING, None)
    assert waiting.recheck_s == pytest.approx(59)
    assert waiting.message == (
        "A stop of the VM had begun before spec.powerState became Running, and a shutdown request cannot be canceled. "
        "virtsync starts the VM when it is off. If the VM is still on at 00:01:00Z, virtsync leaves it on."
    )
    assert vm.look(Phase.RUNNING, after_s=58.5).reason is Reason.RESTARTING
    assert vm.look(Phase.RUNNING, after_s=0.5).reason is Reason.IN_SYNC


def test_a_recalled_stop_keeps_its_deadline_over_a_restart_of_the_agent_but_no_longer_than_a_grace() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.look(Phase.RUNNING, after_s=0)
    vm.change(desired=RUNNING)
    vm.agent_restarts()
    assert vm.look(Phase.RUNNING, after_s=20).recheck_s == pytest.approx(40)
    vm.agent_restarts()
    vm.wall_ahead_s = -86_400
    assert vm.look(Phase.RUNNING, after_s=1).recheck_s == pytest.approx(60)


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.SUSPENDED, Phase.PAUSED_IO_ERROR])
def test_a_recalled_stop_is_waited_for_whatever_the_guest_does(phase: Phase) -> None:
    vm = Vm(STOPPED)
    vm.look(Phase.RUNNING)
    vm.change(desired=RUNNING)
    step = vm.look(phase, outcome=done(Action.SHUTDOWN))
    assert (step.reason, step.action) == (Reason.RESTARTING, None)


def test_another_run_is_asked_at_once_however_lately_the_former_was() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.look(Phase.RUNNING)
    assert vm.look(Phase.RUNNING, after_s=1, outcome=done(Action.SHUTDOWN)).action is None
    assert action(vm.look(domain(Phase.RUNNING, 2), after_s=5)) is Action.SHUTDOWN


# --- patience that is remembered -------------------------------------------------------------------------


def crash_looping() -> Vm:
    """It runs after a crash; ten seconds must pass before the next start."""
    vm = Vm().in_sync()
    assert action(vm.look(Phase.CRASHED_OFF, after_s=0.9, events=CRASH)) is Action.START
    assert vm.look(domain(Phase.RUNNING, 2), after_s=1, outcome=done(Action.START)).status.backoff
    return vm


def test_failures_are_forgotten_after_ten_minutes_of_running() -> None:
    vm = crash_looping()
    assert vm.look(domain(Phase.RUNNING, 2), after_s=1).recheck_s == pytest.approx(599)
    assert vm.look(domain(Phase.RUNNING, 2), after_s=598).status.backoff
    assert vm.look(domain(Phase.RUNNING, 2), after_s=1).status.backoff is None


def test_a_new_process_goes_on_counting_the_time_that_the_vm_has_run() -> None:
    vm = crash_looping()
    vm.agent_restarts()
    assert vm.look(domain(Phase.RUNNING, 2), after_s=400).status.backoff
    assert vm.look(domain(Phase.RUNNING, 2), after_s=200).status.backoff is None


def test_only_what_the_user_asks_for_ends_a_backoff() -> None:
    vm = crash_looping()
    vm.change(shutdown=Shutdown(ShutdownMode.FORCE))
    assert vm.look(Phase.CRASHED_OFF, events=CRASH).reason is Reason.CRASH_LOOP_BACK_OFF
    vm.change(restart_request=T0 + timedelta(seconds=2))
    assert action(vm.look(Phase.CRASHED_OFF, events=CRASH)) is Action.START


def test_a_refusal_just_before_the_next_attempt_does_not_lengthen_the_wait() -> None:
    vm = Vm(PAUSED)
    refused = Outcome(Action.SUSPEND, Result.REFUSED, "not now")
    vm.look(Phase.RUNNING, after_s=0)
    vm.look(Phase.RUNNING, after_s=0, outcome=refused)
    again = vm.look(Phase.RUNNING, after_s=9.5, outcome=refused)
    assert again.status.backoff
    assert again.status.backoff.failures == 1


# --- the settle time -------------------------------------------------------------------------------------


def test_somebody_who_resumes_a_vm_that_should_be_paused_has_ten_seconds() -> None:
    vm = Vm(PAUSED).in_sync()
    assert vm.look(Phase.RUNNING).recheck_s == pytest.approx(10)
    assert action(vm.look(Phase.RUNNING, after_s=10)) is Action.SUSPEND


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.SUSPENDED, Phase.SAVED])
def test_a_pause_a_suspend_and_a_save_have_a_quarter_of_an_hour(phase: Phase) -> None:
    assert Vm().in_sync().look(phase).recheck_s == pytest.approx(900)


def test_an_io_error_is_nobody_at_work() -> None:
    step = Vm().in_sync().look(Phase.PAUSED_IO_ERROR)
    assert (step.reason, action(step)) == (Reason.PAUSED_BY_IO_ERROR, Action.RESUME)


@pytest.mark.parametrize(("desired", "phase", "act"), [(RUNNING, Phase.STOPPED, Action.START)])
def test_a_settle_time_of_nothing_is_none(desired: DesiredPowerState, phase: Phase, act: Action) -> None:
    vm = Vm(desired).in_sync()
    vm.waits = replace(WAITS, settle_power_s=0)
    assert action(vm.look(phase, events=GUEST)) is act


def test_another_change_of_the_spec_does_not_cut_a_settle_time_short() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    vm.change(shutdown=Shutdown(grace_s=20))
    assert vm.look(Phase.STOPPED, after_s=4, events=GUEST).recheck_s == pytest.approx(6)


def test_a_requested_restart_does_not_settle() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.STOPPED, after_s=60, events=GUEST).reason is Reason.SETTLING
    vm.change(restart_request=T0 + timedelta(seconds=10))
    assert action(vm.look(Phase.STOPPED, events=GUEST)) is Action.START


def test_a_new_process_goes_on_with_the_settle_time() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.PAUSED, after_s=0.9)
    vm.agent_restarts()
    assert vm.look(Phase.PAUSED, after_s=500).recheck_s == pytest.approx(400)
    assert action(vm.look(Phase.PAUSED, after_s=400)) is Action.RESUME


def test_a_crash_out_of_a_pause_that_settles_is_answered_at_once() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.PAUSED).reason is Reason.SETTLING
    assert action(vm.look(Phase.CRASHED_OFF, after_s=60, events=CRASH)) is Action.START


def test_each_new_sort_of_change_settles_anew() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.PAUSED).recheck_s == pytest.approx(900)
    assert vm.look(Phase.SUSPENDED, after_s=800).recheck_s == pytest.approx(900)
    assert vm.look(Phase.STOPPED, after_s=800, events=GUEST).recheck_s == pytest.approx(10)


def released(events: set[Evidence] | None = None) -> Vm:
    """Held for an hour while it was off, and released a moment ago."""
    vm = Vm().in_sync()
    vm.annotate(holds=(Hold("ann", ""),))
    vm.look(Phase.STOPPED, events=events)
    vm.change(desired=PAUSED)
    vm.look(Phase.STOPPED, after_s=3600, events=events)
    vm.annotate(holds=())
    step = vm.look(Phase.STOPPED, after_s=0.8, events=events)
    assert step.reason is Reason.SETTLING
    assert step.recheck_s == pytest.approx(10)
    assert [notice.reason for notice in step.notices] == ["HoldReleased"]
    return vm


@pytest.mark.parametrize("events", [GUEST, CRASH])
def test_whatever_is_due_when_a_hold_goes_settles_first(events: set[Evidence]) -> None:
    vm = released(events)
    assert vm.look(Phase.STOPPED, after_s=9.9, events=events).action is None
    assert action(vm.look(Phase.STOPPED, after_s=0.2, events=events)) is Action.START_PAUSED


def test_a_new_process_goes_on_with_the_settle_time_after_a_hold() -> None:
    vm = released()
    vm.agent_restarts()
    waiting = vm.look(Phase.STOPPED, after_s=4)
    assert waiting.reason is Reason.SETTLING
    assert waiting.recheck_s == pytest.approx(6)
    assert action(vm.look(Phase.STOPPED, after_s=6)) is Action.START_PAUSED


def test_a_libvirt_that_is_away_for_a_moment_does_not_end_the_settle_time_after_a_hold() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.annotate(holds=(Hold("ann", ""),))
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, after_s=3600)
    vm.annotate(holds=())
    assert vm.look(Phase.RUNNING).reason is Reason.SETTLING
    vm.look(Unreadable("away"), after_s=1)
    assert vm.look(Phase.RUNNING, after_s=8).reason is Reason.SETTLING
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.SHUTDOWN


def test_the_settle_time_after_a_hold_goes_on_though_the_memory_of_the_vm_is_saved_meanwhile() -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),)).in_sync()
    vm.change(desired=RUNNING)
    assert vm.look(Phase.STOPPED).reason is Reason.HELD
    vm.annotate(holds=())
    assert vm.look(Phase.STOPPED).reason is Reason.SETTLING
    assert vm.look(Phase.SAVED, after_s=5).reason is Reason.SETTLING
    assert action(vm.look(Phase.SAVED, after_s=5)) is Action.START


def test_a_stop_that_was_reported_by_a_clock_ahead_lengthens_no_settle_time_of_a_vm_that_is_on() -> None:
    vm = Vm().in_sync()
    vm.wall_ahead_s = 7200
    assert vm.look(Phase.STOPPED).status.last_stop
    vm.wall_ahead_s = 0
    vm.look(domain(Phase.RUNNING, 2), after_s=60)
    assert vm.look(domain(Phase.PAUSED, 2), after_s=60).reason is Reason.SETTLING
    vm.agent_restarts()
    assert vm.look(domain(Phase.PAUSED, 2), after_s=600).recheck_s == pytest.approx(300, abs=1)


def test_a_stop_that_was_reported_after_the_decision_begins_the_settle_time_of_a_new_process_anew() -> None:
    vm = Vm(RUNNING).in_sync()
    stop = vm.look(Phase.STOPPED).status.last_stop
    assert stop
    vm.edit(last_stop=replace(stop, time=moment(6).wall))
    vm.agent_restarts()
    step = vm.look(Phase.STOPPED, after_s=7.8)
    assert step.reason is Reason.SETTLING
    assert step.recheck_s == pytest.approx(8)


def test_a_report_without_the_time_of_its_decision_settles_its_whole_time() -> None:
    vm = released()
    vm.agent_restarts()
    vm.edit(decided_transition_time=None)
    assert vm.look(Phase.STOPPED, after_s=4).recheck_s == pytest.approx(10)


def test_what_was_only_watched_settles_when_the_agent_may_act_again() -> None:
    vm = Vm().in_sync()
    vm.node = Node("node-a", "boot-1", observe_only=True)
    vm.look(Phase.STOPPED, events=GUEST)
    for _ in range(2):
        assert vm.look(Phase.STOPPED, after_s=3600, events=GUEST).reason is Reason.OBSERVE_ONLY
    vm.node = Node("node-a", "boot-1")
    vm.agent_restarts()
    assert vm.look(Phase.STOPPED, events=GUEST).recheck_s == pytest.approx(10)


@pytest.mark.parametrize(("then", "left_s"), [(Phase.PAUSED, 880), (Phase.SUSPENDED, 900)])
def test_after_an_outage_that_an_older_version_reported_a_settle_time_goes_on_though_no_report_is_taken(
    then: Phase, left_s: float
) -> None:
    """The settle time of another kind of drift begins when that drift is first observed."""
    vm = Vm().in_sync()
    vm.look(Unreadable("away"))
    vm.edit(decided_reason="")
    vm.agent_restarts()
    assert vm.look_unreported(Phase.PAUSED).reason is Reason.SETTLING
    step = vm.look(then, after_s=20)
    assert step.reason is Reason.SETTLING
    assert step.recheck_s == pytest.approx(left_s)


@pytest.mark.parametrize(
    ("desired", "phase"), [(RUNNING, Phase.STOPPED), (STOPPED, Phase.RUNNING), (RUNNING, Phase.PAUSED)]
)
def test_what_this_agent_does_is_not_held_up_half_way(desired: DesiredPowerState, phase: Phase) -> None:
    """An act that is due, and delayed, settles no second time."""
    vm = Vm(desired).in_sync()
    vm.look(phase, events=GUEST)
    first = vm.look(phase, after_s=1000, events=GUEST)
    assert first.action
    vm.agent_restarts()
    again = vm.look(phase, after_s=1, events=GUEST)
    assert again.reason is not Reason.SETTLING


@pytest.mark.parametrize(("phase", "first"), [(Phase.PAUSED, Action.RESUME), (Phase.SUSPENDED, Action.WAKE)])
def test_the_second_half_of_a_stop_does_not_settle_though_the_agent_is_new(phase: Phase, first: Action) -> None:
    vm = Vm(STOPPED).in_sync()
    vm.look(phase)
    assert action(vm.look(phase, after_s=10)) is first
    vm.agent_restarts()
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN


def test_a_pause_that_a_start_of_ours_brings_back_is_ended_at_once() -> None:
    """It was saved while it was paused."""
    vm = Vm().in_sync()
    vm.look(Phase.SAVED)
    assert action(vm.look(Phase.SAVED, after_s=900)) is Action.START
    assert action(vm.look(domain(Phase.PAUSED, 2), outcome=done(Action.START))) is Action.RESUME


def test_a_pause_that_somebody_makes_while_ours_waits_is_left_alone() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.CRASHED_OFF, events=CRASH)
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    assert vm.look(Phase.CRASHED_OFF, events=CRASH).reason is Reason.CRASH_LOOP_BACK_OFF
    assert vm.look(domain(Phase.PAUSED, 3)).reason is Reason.SETTLING


def test_a_guest_that_stops_as_it_starts_is_left_alone_for_its_settle_time() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.STARTING, after_s=60).reason is Reason.STARTING
    vm.agent_restarts()
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.SETTLING


def test_a_user_who_wants_it_on_again_after_a_stop_of_ours_waits_for_nothing() -> None:
    vm = Vm(STOPPED)
    vm.look(Phase.RUNNING)
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert cause(off) is StopCause.AGENT
    vm.change(desired=RUNNING)
    assert action(vm.look(Phase.STOPPED)) is Action.START

"""A maintenance of the host: Hold forbids every action, Shutdown stops what may be stopped and starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.hypervisor import MaintenanceMode
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
)
from controller.policy.assess import assess
from controller.policy.view import Action, Evidence, Facts, Node, Outcome, Phase, Result, Step, Unreadable, View
from controller.policy.wording import in_maintenance
from tests.policy.test_faults_walks import walked, walks
from tests.policy.views import GUEST, PAUSED, RUNNING, STOPPED, T0, WAITS, Vm, action, domain, done, moment

HOLD, SHUTDOWN = MaintenanceMode
FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
AWAY = Unreadable("connection reset")
WHY = "node-a is in maintenance (new RAM)"
modes = pytest.mark.parametrize("mode", MaintenanceMode)


def cause(step: Step) -> StopCause | None:
    return step.status.last_stop.cause if step.status.last_stop else None


def shut_down(policy: RestartPolicy = RestartPolicy.ALWAYS) -> Vm:
    """A VM that ran as wanted, and that a maintenance has shut down."""
    vm = being_shut_down(policy)
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, off.action, cause(off)) == (Reason.HELD, None, StopCause.AGENT)
    return vm


def being_shut_down(policy: RestartPolicy = RestartPolicy.ALWAYS) -> Vm:
    vm = Vm(restart_policy=policy, shutdown=Shutdown(grace_s=60)).in_sync()
    vm.maintain(SHUTDOWN)
    assert action(vm.look(Phase.RUNNING, after_s=60)) is Action.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    return vm


# --- Hold ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("desired", DesiredPowerState)
@pytest.mark.parametrize("phase", Phase)
def test_hold_forbids_what_a_hold_forbids(desired: DesiredPowerState, phase: Phase) -> None:
    """The same decisions as with an annotation, and other texts."""
    held, maintained = Vm(desired), Vm(desired)
    held.annotate(holds=(Hold("ann", ""),))
    maintained.maintain(HOLD)
    for after_s in (0.1, 60, 3600):
        one, other = held.look(phase, after_s=after_s), maintained.look(phase, after_s=after_s)
        assert other.action is None
        assert (other.reason, other.recheck_s, other.memory) == (one.reason, one.recheck_s, one.memory)
        assert replace(other.status, conditions=()) == replace(one.status, conditions=())


def test_hold_says_which_host_and_why() -> None:
    vm = Vm().in_sync()
    vm.maintain(HOLD)
    assert vm.look(Phase.RUNNING).message == f"The VM is running, as spec.powerState asks; {WHY}."
    held = vm.look(Phase.STOPPED, events=GUEST)
    assert held.reason is Reason.HELD
    assert held.message == (
        f"{WHY}: The VM is stopped and should be running. virtsync takes no action before the maintenance ends."
    )


def test_the_reason_is_on_one_line() -> None:
    vm = Vm()
    vm.maintain(HOLD, "new RAM,\nand a new fan")
    assert vm.look(Phase.STOPPED).message.startswith("node-a is in maintenance (new RAM, and a new fan): ")


@pytest.mark.parametrize(("length", "told"), [(1024, "x" * 1024), (1025, "x" * 1021 + "…")])
def test_the_reason_is_cut_where_a_report_cuts_it(length: int, told: str) -> None:
    vm = Vm()
    vm.maintain(HOLD, "x" * length)
    assert vm.look(Phase.STOPPED).message.startswith(f"node-a is in maintenance ({told}): ")


def test_a_host_that_is_not_in_maintenance_has_no_words_for_it() -> None:
    vm = Vm()
    view = View(vm.vm, domain(Phase.RUNNING), vm.node, moment(0), vm.memory)
    assert in_maintenance(assess(view, WAITS)) == ""


def test_an_annotation_on_a_vm_is_told_before_the_maintenance() -> None:
    vm = Vm(holds=(Hold("ann", "backup"),))
    for mode in MaintenanceMode:
        vm.maintain(mode)
        assert vm.look(Phase.STOPPED).message.endswith("virtsync takes no action while the VM is held by ann (backup).")


def test_hold_drops_a_stop_and_its_end_is_followed_by_a_settle_time_and_a_new_grace_period() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.maintain(HOLD)
    held = vm.look(Phase.RUNNING, after_s=120)
    assert (held.reason, held.action, held.status.operation) == (Reason.HELD, None, None)
    vm.maintain(None)
    ended = vm.look(Phase.RUNNING, after_s=1)
    assert (ended.reason, [notice.reason for notice in ended.notices]) == (Reason.SETTLING, ["HoldReleased"])
    again = vm.look(Phase.RUNNING, after_s=10.1)
    assert action(again) is Action.SHUTDOWN
    assert again.status.operation
    assert again.status.operation.start_time > T0 + timedelta(seconds=120)


def test_hold_lets_a_stop_of_the_host_be_judged_as_without_it() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.maintain(HOLD)
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=11, events=GUEST).reason is Reason.COMPLETED


# --- Shutdown: what is stopped -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "act"),
    [
        (Shutdown(grace_s=60), Action.SHUTDOWN),
        (Shutdown(ShutdownMode.GRACEFUL, 60), Action.SHUTDOWN),
        (Shutdown(ShutdownMode.FORCE, 60), Action.DESTROY),
    ],
)
@pytest.mark.parametrize("policy", RestartPolicy)
def test_a_vm_that_runs_as_wanted_is_stopped_as_its_spec_says(
    spec: Shutdown, act: Action, policy: RestartPolicy
) -> None:
    vm = Vm(shutdown=spec, restart_policy=policy).in_sync()
    vm.maintain(SHUTDOWN)
    step = vm.look(Phase.RUNNING, after_s=60)
    assert (step.reason, action(step)) == (Reason.SHUTTING_DOWN, act)
    assert step.status.operation
    assert step.status.operation.type is OperationType.STOP
    assert step.message.endswith(f" {WHY}.")
    assert step.status.desired is RUNNING


def test_a_stop_that_the_guest_ignores_ends_at_its_deadline() -> None:
    vm = being_shut_down()
    assert action(vm.look(Phase.RUNNING, after_s=59)) is not Action.DESTROY
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.DESTROY


def test_a_graceful_stop_that_the_guest_ignores_stays_one() -> None:
    vm = Vm(shutdown=Shutdown(ShutdownMode.GRACEFUL, 60)).in_sync()
    vm.maintain(SHUTDOWN)
    vm.look(Phase.RUNNING, after_s=60)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    step = vm.look(Phase.RUNNING, after_s=60)
    assert (step.reason, step.action) == (Reason.SHUTDOWN_TIMED_OUT, None)
    assert step.message.endswith(f" {WHY}.")
    assert step.status.desired is RUNNING
    vm.maintain(None)
    ended = vm.look(Phase.RUNNING, after_s=600)
    assert (ended.reason, ended.action, ended.status.operation) == (Reason.IN_SYNC, None, None)


def test_a_message_that_is_repeated_names_the_maintenance_once() -> None:
    vm = Vm().in_sync()
    vm.maintain(SHUTDOWN, "new RAM,\nand a new fan")
    first = vm.look(Phase.RUNNING, after_s=60)
    again = vm.look(Phase.RUNNING, after_s=1, call=Action.SHUTDOWN, call_began_s=vm.at_s)
    assert again.message == first.message
    assert again.message.count("in maintenance") == 1


def test_what_was_just_started_settles_first() -> None:
    """Somebody started it a moment ago: libvirt's autostart, or an administrator who is still working on it."""
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.maintain(SHUTDOWN)
    assert vm.look(Phase.STOPPED).reason is Reason.HELD
    assert vm.look(Phase.RUNNING).reason is Reason.SETTLING
    assert vm.look(Phase.RUNNING, after_s=9.9).action is None
    assert action(vm.look(Phase.RUNNING, after_s=0.2)) is Action.SHUTDOWN


@pytest.mark.parametrize(("phase", "first"), [(Phase.PAUSED, Action.RESUME), (Phase.SUSPENDED, Action.WAKE)])
def test_a_pause_that_a_backup_might_need_settles_its_whole_time(phase: Phase, first: Action) -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    vm.look(phase)
    vm.maintain(SHUTDOWN)
    assert vm.look(phase, after_s=899).reason is Reason.SETTLING
    stopping = vm.look(phase, after_s=1.1)
    assert (stopping.reason, action(stopping)) == (Reason.SHUTTING_DOWN, first)
    assert action(vm.look(Phase.RUNNING, outcome=done(first))) is Action.SHUTDOWN


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.SHUTTING_DOWN, Phase.PAUSED_BUSY])
def test_what_starts_or_shuts_down_or_is_worked_on_is_stopped_too(phase: Phase) -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(phase)
    vm.maintain(SHUTDOWN)
    stopping = vm.look(phase, after_s=3600)
    assert stopping.status.operation
    assert stopping.status.operation.type is OperationType.STOP
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, cause(off)) == (Reason.HELD, StopCause.AGENT)


def test_a_vm_that_is_on_at_boot_is_stopped_again() -> None:
    vm = shut_down()
    vm.node = replace(vm.node, boot_id="boot-2")
    vm.agent_restarts()
    vm.look(domain(Phase.RUNNING, 2), after_s=600)
    assert action(vm.look(domain(Phase.RUNNING, 2), after_s=10)) is Action.SHUTDOWN


def test_a_vm_that_the_spec_wants_off_is_stopped_as_ever() -> None:
    vm = Vm().in_sync()
    vm.maintain(SHUTDOWN)
    vm.change(desired=STOPPED)
    step = vm.look(Phase.RUNNING)
    assert action(step) is Action.SHUTDOWN
    assert "maintenance" not in step.message
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, off.status.desired) == (Reason.IN_SYNC, STOPPED)
    assert off.message == f"The VM is stopped, as spec.powerState asks; {WHY}."


# --- Shutdown: what is left alone ----------------------------------------------------------------------------------

KEPT = [
    Phase.PAUSED_IO_ERROR,
    Phase.PAUSED_WATCHDOG,
    Phase.CRASHED_KEPT,
    Phase.POST_COPY_FAILED,
    Phase.POST_COPY_FAILED_RUNNING,
]


@pytest.mark.parametrize("phase", KEPT)
def test_what_is_kept_for_somebody_to_look_at_is_left_alone(phase: Phase) -> None:
    vm = Vm().in_sync()
    vm.look(phase)
    vm.maintain(SHUTDOWN)
    for after_s in (60, 3600):
        step = vm.look(phase, after_s=after_s)
        assert (step.action, step.status.operation) == (None, None)
    held = phase is Phase.PAUSED_IO_ERROR
    assert (step.reason is Reason.HELD) is held


@pytest.mark.parametrize("phase", KEPT)
def test_what_is_kept_is_left_alone_although_a_restart_is_due(phase: Phase) -> None:
    vm = Vm().in_sync()
    vm.look(phase)
    vm.maintain(SHUTDOWN)
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert vm.look(phase, after_s=3600).action is None


@pytest.mark.parametrize("phase", KEPT[:3])
def test_a_stop_is_left_alone_once_the_vm_is_kept_for_somebody_to_look_at(phase: Phase) -> None:
    vm = being_shut_down()
    for after_s in (1, 3600):
        assert vm.look(phase, after_s=after_s).action is None
    assert vm.vm.status.operation is None


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("after_s", [0.1, 3600.0])
def test_a_vm_that_is_wanted_paused_is_left_alone(phase: Phase, after_s: float) -> None:
    vm = Vm(PAUSED).in_sync()
    vm.maintain(SHUTDOWN)
    step = vm.look(phase, after_s=after_s)
    assert step.action is None
    if phase is Phase.PAUSED:
        assert (step.reason, step.message) == (Reason.IN_SYNC, f"The VM is paused, as spec.powerState asks; {WHY}.")
    if phase in {Phase.RUNNING, Phase.STOPPED}:
        assert step.reason is Reason.HELD


@pytest.mark.parametrize("phase", Phase)
def test_a_vm_that_is_only_observed_is_left_alone(phase: Phase) -> None:
    vm = Vm(None)
    vm.maintain(SHUTDOWN)
    step = vm.look(phase, after_s=3600)
    assert (step.reason, step.action) == (Reason.OBSERVED, None)


def test_a_vm_that_is_held_is_left_alone() -> None:
    vm = Vm(holds=(Hold("ann", "backup"),)).in_sync()
    vm.maintain(SHUTDOWN)
    step = vm.look(Phase.RUNNING, after_s=60)
    assert (step.reason, step.action) == (Reason.IN_SYNC, None)
    assert step.message == f"The VM is running, as spec.powerState asks; held by ann (backup); {WHY}."


def test_the_end_of_a_hold_during_a_maintenance_is_followed_by_a_settle_time() -> None:
    vm = Vm(holds=(Hold("ann", "backup"),)).in_sync()
    vm.look(Phase.PAUSED)
    vm.maintain(SHUTDOWN)
    assert vm.look(Phase.PAUSED, after_s=3600).reason is Reason.HELD
    vm.look(Phase.RUNNING, after_s=3600)
    vm.look(Phase.PAUSED, after_s=3600)
    vm.annotate(holds=())
    ended = vm.look(Phase.PAUSED, after_s=3600)
    assert (ended.reason, ended.notices) == (Reason.SETTLING, ())
    assert ended.recheck_s == pytest.approx(900)


@pytest.mark.parametrize("seen", [domain(Phase.UNKNOWN), AWAY], ids=["unknown", "unreadable"])
def test_what_is_not_known_is_left_alone(seen: object) -> None:
    vm = Vm().in_sync()
    vm.maintain(SHUTDOWN)
    assert vm.look(seen, after_s=60).action is None  # type: ignore[arg-type]


# --- nothing is started --------------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("policy", RestartPolicy)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.off])
@pytest.mark.parametrize("desired", [RUNNING, PAUSED])
def test_nothing_is_started(mode: MaintenanceMode, policy: RestartPolicy, phase: Phase, desired: object) -> None:
    vm = Vm(desired, restart_policy=policy)  # type: ignore[arg-type]
    vm.maintain(mode)
    for after_s in (0.1, 60, 3600):
        step = vm.look(phase, after_s=after_s)
        assert (step.reason, step.action) == (Reason.HELD, None)
    state = step.status.power_state.lower()
    assert f"{WHY}: The VM " in step.message
    assert state in step.message
    assert f"should be {str(desired).lower()}" in step.message


@modes
def test_a_start_on_record_is_waited_for(mode: MaintenanceMode) -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    assert action(vm.look(Phase.STOPPED)) is Action.START
    began_s = vm.at_s
    vm.maintain(mode)
    waits = vm.look(Phase.STOPPED, after_s=20, call=Action.START, call_began_s=began_s)
    assert (waits.reason, waits.action) == (Reason.STARTING, None)
    assert ("virtsync stops the VM as soon as it is on." in waits.message) is (mode is SHUTDOWN)
    on = vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    assert on.status.operation is None or mode is SHUTDOWN
    assert action(on) is (Action.SHUTDOWN if mode is SHUTDOWN else None)


@modes
def test_a_start_that_a_dead_agent_left_over_is_not_made_again(mode: MaintenanceMode) -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    vm.agent_restarts()
    vm.maintain(mode)
    waits = vm.look(Phase.STOPPED, after_s=1)
    assert (waits.reason, waits.action) == (Reason.STARTING, None)
    held = vm.look(Phase.STOPPED, after_s=10)
    assert (held.reason, held.action, held.status.operation) == (Reason.HELD, None, None)


@modes
def test_a_start_that_was_recorded_and_not_called_is_held(mode: MaintenanceMode) -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    vm.maintain(mode)
    held = vm.look(Phase.STOPPED)
    assert (held.reason, held.action, held.status.operation) == (Reason.HELD, None, None)


# --- restarts ------------------------------------------------------------------------------------------------------


def test_a_restart_that_is_due_is_not_begun_and_is_one_start_in_the_end() -> None:
    vm = Vm().in_sync()
    vm.maintain(SHUTDOWN)
    vm.change(restart_request=T0 + timedelta(seconds=1))
    stop = vm.look(Phase.RUNNING, after_s=60)
    assert (stop.reason, action(stop), stop.status.last_restart_time) == (Reason.SHUTTING_DOWN, Action.SHUTDOWN, None)
    assert stop.status.operation
    assert stop.status.operation.type is OperationType.STOP
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, off.action, off.status.operation) == (Reason.HELD, None, None)
    assert off.message.startswith(f"{WHY}: The VM is stopped, and a restart is requested.")
    assert off.status.last_restart_time is None
    vm.maintain(None)
    assert vm.look(Phase.STOPPED, after_s=60).reason is Reason.SETTLING
    start = vm.look(Phase.STOPPED, after_s=10)
    assert (action(start), start.status.last_restart_time) == (Action.START, T0 + timedelta(seconds=1))
    on = vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    assert (on.reason, on.status.operation, on.status.restart_count) == (Reason.IN_SYNC, None, 0)
    assert vm.look(domain(Phase.RUNNING, 2), after_s=600).action is None


def test_a_restart_that_is_due_under_hold_follows_it() -> None:
    vm = Vm().in_sync()
    vm.maintain(HOLD)
    vm.change(restart_request=T0 + timedelta(seconds=1))
    held = vm.look(Phase.RUNNING, after_s=60)
    assert (held.reason, held.action, held.status.last_restart_time) == (Reason.HELD, None, None)
    vm.maintain(None)
    assert vm.look(Phase.RUNNING, after_s=60).reason is Reason.SETTLING
    assert action(vm.look(Phase.RUNNING, after_s=10)) is Action.SHUTDOWN


def test_a_restart_of_a_completed_vm_starts_it_only_after_the_maintenance() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=11, events=GUEST).reason is Reason.COMPLETED
    vm.maintain(SHUTDOWN)
    vm.change(restart_request=T0 + timedelta(seconds=1))
    assert vm.look(Phase.STOPPED, after_s=60, events=GUEST).reason is Reason.HELD
    vm.maintain(None)
    vm.look(Phase.STOPPED, after_s=60, events=GUEST)
    assert action(vm.look(Phase.STOPPED, after_s=10, events=GUEST)) is Action.START


def test_a_restart_in_flight_becomes_a_stop_with_its_deadline() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0)
    restart = vm.look(Phase.RUNNING).status.operation
    assert restart
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.maintain(SHUTDOWN)
    stop = replace(restart, type=OperationType.STOP, for_maintenance=True)
    assert vm.look(Phase.RUNNING).status.operation == stop
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, off.status.operation, cause(off)) == (Reason.HELD, None, StopCause.AGENT)


def test_a_restart_whose_vm_is_off_already_is_held() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.change(restart_request=T0)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.maintain(SHUTDOWN)
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert (off.reason, off.action, off.status.operation) == (Reason.HELD, None, None)
    vm.maintain(None)
    assert vm.look(Phase.STOPPED, after_s=60).reason is Reason.SETTLING
    assert action(vm.look(Phase.STOPPED, after_s=10)) is Action.START


def test_a_scheduled_restart_is_not_served_while_the_vm_is_shut_down() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=100))
    vm.look(Phase.RUNNING)
    vm.maintain(SHUTDOWN)
    vm.look(Phase.RUNNING, after_s=60)
    for after_s in (30, 11, 11):
        step = vm.look(Phase.RUNNING, after_s=after_s, outcome=done(Action.SHUTDOWN))
        assert step.status.last_restart_time is None
        assert step.reason is Reason.SHUTTING_DOWN


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", RestartPolicy)
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_maintenance_shut_down_is_started_after_the_settle_time(
    policy: RestartPolicy, *, restarted: bool
) -> None:
    vm = shut_down(policy)
    if restarted:
        vm.agent_restarts()
    vm.maintain(None)
    ended = vm.look(Phase.STOPPED, after_s=3600, events=GUEST)
    assert (ended.reason, [notice.reason for notice in ended.notices]) == (Reason.SETTLING, ["HoldReleased"])
    assert vm.look(Phase.STOPPED, after_s=9.9, events=GUEST).action is None
    start = vm.look(Phase.STOPPED, after_s=0.2, events=GUEST)
    assert action(start) is Action.START
    assert (start.status.restart_count, start.status.backoff) == (0, None)


def test_a_maintenance_that_comes_back_within_the_settle_time_lets_nothing_start() -> None:
    vm = shut_down()
    vm.maintain(None)
    vm.look(Phase.STOPPED, after_s=60)
    vm.maintain(SHUTDOWN)
    assert vm.look(Phase.STOPPED, after_s=9).reason is Reason.HELD
    vm.maintain(None)
    assert vm.look(Phase.STOPPED, after_s=60).reason is Reason.SETTLING


def test_the_end_is_no_change_of_the_spec() -> None:
    vm = shut_down(RestartPolicy.NEVER)
    assert vm.vm.status.desired is RUNNING
    vm.maintain(None)
    vm.look(Phase.STOPPED, after_s=60, events=GUEST)
    vm.node = replace(vm.node, braked_until=None)
    assert vm.look(Phase.STOPPED, after_s=5, events=GUEST).recheck_s == pytest.approx(5)


@modes
def test_what_was_completed_before_stays_completed(mode: MaintenanceMode) -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    completed = vm.look(Phase.STOPPED, after_s=11, events=GUEST)
    assert completed.reason is Reason.COMPLETED
    for declared in (mode, None):
        vm.maintain(declared)
        for _ in range(2):
            step = vm.look(Phase.STOPPED, after_s=60, events=GUEST)
            assert (step.reason, step.action) == (Reason.COMPLETED, None)
            assert step.status.completion_time == completed.status.completion_time


def test_a_vm_that_powers_itself_off_before_it_is_asked_is_judged_by_its_policy() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.maintain(SHUTDOWN)
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=11, events=GUEST).reason is Reason.COMPLETED


@pytest.mark.parametrize("policy", RestartPolicy)
@pytest.mark.parametrize("over", [False, True])
def test_the_power_of_the_host_during_a_maintenance_stop_is_our_stop(policy: RestartPolicy, *, over: bool) -> None:
    """The administrator powers the host off before the guest is; the maintenance lasts, or is over at the boot."""
    vm = being_shut_down(policy)
    vm.node = Node("node-a", "boot-2")
    vm.agent_restarts()
    if not over:
        vm.maintain(SHUTDOWN)
        held = vm.look(FORGOTTEN, after_s=600)
        assert (held.reason, cause(held), held.status.completion_time) == (Reason.HELD, StopCause.AGENT, None)
        vm.maintain(None)
    ended = vm.look(FORGOTTEN, after_s=600)
    assert (ended.reason, ended.action, cause(ended)) == (Reason.SETTLING, None, StopCause.AGENT)
    assert action(vm.look(FORGOTTEN, after_s=10)) is Action.START


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stop_that_is_in_flight_at_the_end_is_waited_for_and_settles_then(*, restarted: bool) -> None:
    vm = being_shut_down(RestartPolicy.NEVER)
    vm.maintain(None)
    for _ in range(2):
        if restarted:
            vm.agent_restarts()
        waits = vm.look(Phase.RUNNING, after_s=5)
        assert (waits.reason, waits.action, waits.notices) == (Reason.SHUTTING_DOWN, None, ())
        assert "begun before the maintenance of node-a ended" in waits.message
    off = vm.look(Phase.STOPPED, after_s=5, events=GUEST)
    assert (off.reason, off.action, cause(off)) == (Reason.SETTLING, None, StopCause.AGENT)
    assert action(vm.look(Phase.STOPPED, after_s=10, events=GUEST)) is Action.START


def test_a_stop_that_the_guest_ignored_is_over_at_its_deadline_once_the_maintenance_has_ended() -> None:
    vm = being_shut_down()
    vm.maintain(None)
    assert vm.look(Phase.RUNNING, after_s=50).reason is Reason.SHUTTING_DOWN
    on = vm.look(Phase.RUNNING, after_s=11)
    assert (on.reason, on.action, on.status.operation) == (Reason.IN_SYNC, None, None)


def test_a_stop_that_the_user_recalls_is_told_and_ends_as_ever() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.change(desired=RUNNING)
    for _ in range(3):
        recalled = vm.look(Phase.RUNNING, after_s=1)
        assert recalled.reason is Reason.RESTARTING
        assert "begun before spec.powerState became Running" in recalled.message
    assert action(vm.look(Phase.STOPPED, events=GUEST)) is Action.START


def test_a_user_who_changes_the_spec_during_a_maintenance_is_obeyed_afterwards() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.maintain(SHUTDOWN)
    vm.change(desired=RUNNING)
    held = vm.look(Phase.STOPPED)
    assert (held.reason, held.status.desired) == (Reason.HELD, STOPPED)
    vm.maintain(None)
    assert vm.look(Phase.STOPPED, after_s=60).reason is Reason.SETTLING
    assert action(vm.look(Phase.STOPPED, after_s=10)) is Action.START


def test_a_user_who_wants_it_off_during_the_stop_has_it_off_for_good() -> None:
    vm = being_shut_down()
    vm.change(desired=STOPPED)
    assert vm.look(Phase.RUNNING).reason is Reason.SHUTTING_DOWN
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.IN_SYNC
    vm.maintain(None)
    assert vm.look(Phase.STOPPED, after_s=600).action is None


@pytest.mark.parametrize("over", [False, True])
def test_an_agent_that_does_not_know_the_maintenance_yet_may_not_act_and_forgets_nothing(*, over: bool) -> None:
    """A new process is blocked until it has read the Hypervisor object."""
    vm = shut_down()
    vm.agent_restarts()
    vm.node = Node("node-a", "boot-2", blocked="The agent has not read its Hypervisor object yet.")
    for _ in range(2):
        blocked = vm.look(FORGOTTEN, after_s=600)
        assert (blocked.reason, blocked.action, blocked.notices) == (Reason.ACTION_BLOCKED, None, ())
    vm.node = Node("node-a", "boot-2")
    if not over:
        vm.maintain(SHUTDOWN)
        assert vm.look(FORGOTTEN).reason is Reason.HELD
        return
    ended = vm.look(FORGOTTEN)
    assert (ended.reason, [notice.reason for notice in ended.notices]) == (Reason.SETTLING, ["HoldReleased"])
    assert ended.recheck_s == pytest.approx(10)


def test_nor_does_it_forget_a_stop_in_flight() -> None:
    vm = being_shut_down()
    vm.agent_restarts()
    vm.node = replace(vm.node, maintenance=None, blocked="The agent has not read its Hypervisor object yet.")
    assert vm.look(Phase.RUNNING, after_s=5).reason is Reason.ACTION_BLOCKED
    vm.node = replace(vm.node, blocked="")
    vm.maintain(SHUTDOWN)
    again = vm.look(Phase.RUNNING, after_s=5)
    assert (again.reason, action(again)) == (Reason.SHUTTING_DOWN, Action.SHUTDOWN)


def test_a_refused_stop_is_tried_again() -> None:
    vm = Vm(shutdown=Shutdown(ShutdownMode.FORCE, 60)).in_sync()
    vm.maintain(SHUTDOWN)
    vm.look(Phase.RUNNING, after_s=60)
    refused = vm.look(Phase.RUNNING, outcome=Outcome(Action.DESTROY, Result.REFUSED, "no"))
    assert (refused.reason, refused.action) == (Reason.ACTION_FAILED, None)
    assert refused.message.endswith(f" {WHY}.")
    assert vm.look(Phase.RUNNING, after_s=5).message == refused.message
    assert action(vm.look(Phase.RUNNING, after_s=6)) is Action.DESTROY


# --- properties ----------------------------------------------------------------------------------------------------

Change = Callable[[Vm], None]
PHASES = [phase for phase in Phase if phase is not Phase.UNKNOWN]


@settings(max_examples=800, derandomize=True)
@given(
    st.sampled_from(RestartPolicy),
    walks,
    st.sampled_from(MaintenanceMode),
    st.lists(st.tuples(st.sampled_from(PHASES), st.sampled_from([0.1, 11.0, 1000.0]), st.booleans()), max_size=8),
)
def test_whatever_was_before_nothing_is_started_during_a_maintenance(
    policy: RestartPolicy,
    story: list[tuple[object, ...]],
    mode: MaintenanceMode,
    looks: list[tuple[Phase, float, bool]],
) -> None:
    walk = walked(policy, story)
    vm = walk.vm
    vm.maintain(mode)
    for phase, after_s, restarts in looks:
        if restarts:
            vm.agent_restarts()
        desired = vm.vm.status.desired
        step = vm.look(domain(phase, 2), after_s=after_s, facts=Facts(), events={Evidence.SHUTDOWN_GUEST})
        allowed = set() if mode is HOLD else {Action.SHUTDOWN, Action.DESTROY, Action.RESUME, Action.WAKE}
        assert action(step) in {None, *allowed}
        if step.action:
            assert vm.vm.desired in {RUNNING, STOPPED}
            assert not vm.vm.holds
            assert step.status.operation is not None
            assert step.status.operation.type is OperationType.STOP
        assert step.status.desired in {desired, vm.vm.desired, None}


@settings(max_examples=300, derandomize=True)
@given(
    st.sampled_from(RestartPolicy),
    st.lists(st.sampled_from(["agent", "boot", "mark", "libvirt", "restart"]), max_size=6),
)
def test_whatever_comes_between_a_vm_that_was_shut_down_is_on_afterwards(
    policy: RestartPolicy, between: list[str]
) -> None:
    vm, seen = shut_down(policy), domain(Phase.STOPPED)
    for number, what in enumerate(between):
        if what == "agent":
            vm.agent_restarts()
        elif what == "boot":
            vm.node, seen = replace(vm.node, boot_id=f"boot-{number + 2}"), FORGOTTEN
            vm.agent_restarts()
        elif what == "mark":
            vm.is_marked()
        elif what == "libvirt":
            vm.look(AWAY, after_s=60)
            seen = FORGOTTEN
        else:
            vm.change(restart_request=T0 + timedelta(seconds=vm.at_s))
        assert vm.look(seen, after_s=60).reason is Reason.HELD
    vm.maintain(None)
    assert vm.look(seen, after_s=60).reason is Reason.SETTLING
    start = vm.look(seen, after_s=10)
    assert action(start) is Action.START
    on = vm.look(domain(Phase.RUNNING, 9), outcome=done(Action.START))
    assert (on.reason, on.status.power_state, on.status.restart_count) == (Reason.IN_SYNC, PowerState.RUNNING, 0)

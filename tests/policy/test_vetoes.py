"""Where nothing is done whatever is wanted, what is said instead; and what a report makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.api.virtualmachine import (
    DesiredPowerState,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    StopCause,
    VirtualMachine,
)
from controller.policy.conclusion import MESSAGE_LIMIT
from controller.policy.view import Absent, Action, Node, Outcome, Phase, Result
from tests.policy.views import CRASH, GUEST, PAUSED, RUNNING, STOPPED, T0, WAITS, Vm, action, domain, done

FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
"""As a libvirtd shows it that has been started anew, or a domain that has just been defined."""


# --- memory that is somewhere else -----------------------------------------------------------------------


def test_a_vm_that_was_never_seen_is_started_whatever_libvirt_has_forgotten() -> None:
    assert action(Vm().look(FORGOTTEN)) is Action.START


@pytest.mark.parametrize(("word", "reason"), [("SAVED", Reason.SAVED_ELSEWHERE), ("MIGRATED", Reason.MIGRATED_AWAY)])
@pytest.mark.parametrize("desired", [RUNNING, PAUSED])
def test_memory_elsewhere_is_remembered_though_libvirt_forgets_it(
    word: str, reason: Reason, desired: DesiredPowerState
) -> None:
    vm = Vm(desired).in_sync()
    assert vm.look(domain(Phase.STOPPED, reason=word)).reason is reason
    assert vm.look(FORGOTTEN, after_s=3600).reason is reason
    vm.look(Absent(), after_s=60)
    vm.agent_restarts()
    defined_again = vm.look(FORGOTTEN, after_s=60)
    assert (defined_again.reason, defined_again.action) == (reason, None)


@pytest.mark.parametrize("word", ["SAVED", "MIGRATED"])
def test_memory_elsewhere_is_void_once_libvirt_tells_of_another_stop(word: str) -> None:
    """Somebody has run it meanwhile, while nobody watched."""
    vm = Vm().in_sync()
    vm.look(domain(Phase.STOPPED, reason=word))
    vm.look(domain(Phase.STOPPED, reason="DESTROYED"), after_s=3600)
    assert action(vm.look(domain(Phase.STOPPED, reason="DESTROYED"), after_s=3600)) is Action.START


def test_memory_elsewhere_is_void_once_it_has_run_again_though_it_is_gone_when_that_ends() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.SAVED).status.last_stop
    vm.look(Phase.RUNNING, after_s=1000)
    gone = vm.look(Absent()).status.last_stop
    assert gone
    assert gone.cause is StopCause.UNKNOWN
    # Somebody defines it anew, and libvirt knows nothing of its past.
    step = vm.look(FORGOTTEN)
    assert step.reason is Reason.STARTING
    assert action(step) is Action.START


def test_a_stop_by_the_guest_is_not_taken_for_memory_elsewhere() -> None:
    vm = Vm().in_sync()
    vm.look(FORGOTTEN, events=GUEST)
    assert action(vm.look(FORGOTTEN, after_s=10, events=GUEST)) is Action.START


def test_where_its_memory_is_and_how_to_go_on_is_said() -> None:
    saved = Vm().in_sync().look(domain(Phase.STOPPED, reason="SAVED"))
    assert saved.message == (
        "Somebody saved the memory of the VM to a file (virsh save). A normal start would make that file useless. "
        "Restore the VM from the file with virsh restore."
    )


# --- stops that are accepted -----------------------------------------------------------------------------


def test_what_is_wanted_off_is_not_accepted_but_in_sync() -> None:
    vm = Vm(STOPPED, restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.RUNNING)
    off = vm.look(Phase.STOPPED, after_s=30, events=GUEST)
    assert (off.reason, off.status.completion_time) == (Reason.IN_SYNC, None)


def test_a_policy_does_not_speak_of_a_start_that_was_decided_on_already() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    assert action(vm.look(Phase.STOPPED, after_s=10, events=GUEST)) is Action.START
    vm.change(restart_policy=RestartPolicy.NEVER)
    refused = vm.look(Phase.STOPPED, events=GUEST, outcome=Outcome(Action.START, Result.REFUSED, "no disk"))
    assert refused.reason is Reason.START_FAILED
    assert action(vm.look(Phase.STOPPED, after_s=11, events=GUEST)) is Action.START


def test_a_policy_speaks_of_a_new_stop_though_a_start_was_the_last_that_was_said() -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    vm.waits = replace(WAITS, settle_power_s=0)
    assert action(vm.look(Phase.CRASHED_OFF, events=CRASH)) is Action.START
    assert vm.look(domain(Phase.STARTING, 2), outcome=done(Action.START)).reason is Reason.STARTING
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.COMPLETED


def test_a_request_to_restart_starts_what_has_completed_and_is_on_record_before() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=10, events=GUEST).reason is Reason.COMPLETED
    vm.change(restart_request=T0 + timedelta(seconds=10))
    started = vm.look(Phase.STOPPED, events=GUEST)
    assert action(started) is Action.START
    assert started.message == "The VM is being started, to complete the requested restart."
    assert started.status.last_restart_time == T0 + timedelta(seconds=10)
    assert started.status.restart_count == 0
    vm.agent_restarts()
    again = vm.look(Phase.STOPPED, events=GUEST)
    assert action(again) is Action.START
    assert vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START)).status.operation is None


def test_a_report_that_somebody_edited_is_still_a_sentence() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    completed = vm.look(Phase.STOPPED, after_s=10, events=GUEST)
    assert completed.message == "The guest powered itself off. spec.restartPolicy Never leaves the VM off."
    vm.vm = _without_last_stop(vm)
    assert vm.look(Phase.STOPPED, after_s=10, events=GUEST).message == "spec.restartPolicy Never leaves the VM off."


def _without_last_stop(vm: Vm) -> VirtualMachine:
    return replace(vm.vm, status=replace(vm.vm.status, last_stop=None))


# --- what passes, and what sleeps ------------------------------------------------------------------------


def test_a_shutdown_by_itself_is_waited_for_as_long_as_a_grace_and_then_told() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    passing = vm.look(Phase.SHUTTING_DOWN)
    assert passing.message == "The VM is shutting down. virtsync waits until it is off."
    assert passing.recheck_s == pytest.approx(60)
    late = vm.look(Phase.SHUTTING_DOWN, after_s=59.5)
    assert late.reason is Reason.SHUTTING_DOWN
    assert late.recheck_s == pytest.approx(0.5)
    timed_out = vm.look(Phase.SHUTTING_DOWN, after_s=0.6)
    assert (timed_out.reason, timed_out.action) == (Reason.SHUTDOWN_TIMED_OUT, None)
    assert timed_out.message == (
        "The QEMU process of the VM has not exited within the grace period. The VM should be running, so virtsync does "
        "not force it off."
    )


@pytest.mark.parametrize("policy", RestartPolicy)
@pytest.mark.parametrize(
    ("desired", "woken"), [(RUNNING, RestartPolicy.ALWAYS), (PAUSED, None), (STOPPED, "whatever the policy")]
)
def test_a_guest_that_sleeps_is_woken_where_it_should_always_run_or_be_stopped(
    policy: RestartPolicy, desired: DesiredPowerState, woken: RestartPolicy | str | None
) -> None:
    step = Vm(desired, restart_policy=policy).look(Phase.SUSPENDED)
    assert (action(step) is Action.WAKE) == (woken in {policy, "whatever the policy"})
    assert (step.reason is Reason.SUSPENDED_BY_GUEST) == (step.action is None)


# --- restarts of what is being stopped -------------------------------------------------------------------


def test_a_stop_in_flight_becomes_the_first_half_of_a_restart_and_keeps_its_deadline() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    stop = vm.look(Phase.RUNNING, after_s=0).status.operation
    assert stop
    vm.change(desired=RUNNING, restart_request=T0)
    step = vm.look(Phase.RUNNING, after_s=10, outcome=done(Action.SHUTDOWN))
    assert step.reason is Reason.RESTARTING
    assert step.status.operation
    assert (step.status.operation.type, step.status.operation.deadline) == ("Restart", stop.deadline)
    assert action(vm.look(Phase.RUNNING, after_s=50)) is Action.DESTROY


def test_a_second_request_is_on_record_though_it_comes_when_force_does() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(restart_request=T0)
    vm.look(Phase.RUNNING, after_s=0.9)
    vm.look(Phase.RUNNING, after_s=0, outcome=done(Action.SHUTDOWN))
    vm.change(restart_request=T0 + timedelta(seconds=30))
    forced = vm.look(Phase.RUNNING, after_s=60)
    assert action(forced) is Action.DESTROY
    assert forced.status.last_restart_time == T0 + timedelta(seconds=30)


# --- what counts as a restart ----------------------------------------------------------------------------


def test_a_start_that_the_user_asks_for_is_no_restart() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    vm.look(Phase.STOPPED, after_s=10, events=GUEST)
    vm.change(desired=STOPPED)
    vm.look(Phase.STOPPED)
    vm.change(desired=RUNNING)
    step = vm.look(Phase.STOPPED)
    assert action(step) is Action.START
    assert (step.status.restart_count, step.status.backoff) == (0, None)


def test_a_start_after_a_stop_of_our_own_is_no_restart() -> None:
    vm = Vm(STOPPED)
    vm.look(Phase.RUNNING)
    vm.change(desired=RUNNING)
    step = vm.look(Phase.STOPPED, events=GUEST, outcome=done(Action.SHUTDOWN))
    assert (action(step), step.status.restart_count, step.status.backoff) == (Action.START, 0, None)
    assert step.status.last_stop
    assert step.status.last_stop.cause is StopCause.AGENT


# --- the report ------------------------------------------------------------------------------------------


def test_an_act_is_for_the_very_domain_that_was_seen() -> None:
    seen = domain(Phase.PAUSED, 5)
    step = Vm().look(seen)
    assert step.action
    assert step.action.domain is seen


def test_a_condition_tells_which_spec_it_is_about() -> None:
    vm = Vm().in_sync()
    vm.change(shutdown=Shutdown(ShutdownMode.GRACEFUL))
    assert {condition.observed_generation for condition in vm.look(Phase.RUNNING).status.conditions} == {2}


def test_a_vm_that_is_as_wanted_without_running_has_its_failures_forgotten() -> None:
    vm = Vm(PAUSED)
    vm.look(Phase.STOPPED)
    assert vm.look(Phase.STOPPED, outcome=Outcome(Action.START_PAUSED, Result.REFUSED, "no disk")).status.backoff
    assert vm.look(Phase.PAUSED).status.backoff is None


@pytest.mark.parametrize("length", [MESSAGE_LIMIT - 1, MESSAGE_LIMIT])
def test_a_message_that_the_api_takes_is_whole(length: int) -> None:
    assert _told("x" * length) == "x" * length


def test_a_message_that_the_api_would_refuse_is_cut_and_shows_it() -> None:
    assert _told("x" * (MESSAGE_LIMIT + 1)) == "x" * (MESSAGE_LIMIT - 3) + "…"
    assert MESSAGE_LIMIT == 32768


def _told(sentence: str) -> str:
    vm = Vm()
    vm.node = Node("node-a", "boot-1", blocked=sentence)
    ready = vm.look(Phase.STOPPED).status.condition("Ready")
    assert ready
    return ready.message

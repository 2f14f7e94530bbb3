"""Faults of patience: waits that never ended, that nobody was told of, or that served nobody; named after the fault.

Every wait ends within its own longest length of monotonic time, counted from when this process first saw it, whatever
the wall clock does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from controller.api.virtualmachine import Backoff, Hold, Reason, RestartPolicy, Shutdown, ShutdownMode
from controller.policy.view import Action, Facts, Node, Outcome, Phase, Result, Step, Unreadable
from tests.policy.views import CRASH, GUEST, PAUSED, RUNNING, STOPPED, T0, Vm, action, domain, done, moment

DESTROYED = domain(Phase.STOPPED, reason="DESTROYED")
YEARS_S = 20 * 365 * 86400.0
JUMPS = [-YEARS_S, -7200.0, 0.0, 7200.0, YEARS_S]
NEVER_RAN = Facts(never_ran=True)


# --- A7, B4: no wait is longer than its own longest length ----------------------------------------------


def settles() -> tuple[Vm, Phase, float]:
    vm = Vm().in_sync()
    vm.look(Phase.STOPPED, after_s=60)
    return vm, Phase.STOPPED, vm.waits.settle_power_s


def settles_a_pause() -> tuple[Vm, Phase, float]:
    vm = Vm().in_sync()
    vm.look(Phase.PAUSED, after_s=60)
    assert vm.waits.settle_pause_s
    return vm, Phase.PAUSED, vm.waits.settle_pause_s


def backs_off() -> tuple[Vm, Phase, float]:
    vm = Vm().in_sync()
    vm.look(Phase.CRASHED_OFF, events=CRASH)
    for _ in range(8):
        vm.look(Phase.CRASHED_OFF, after_s=vm.waits.backoff_max_s, outcome=Outcome(Action.START, Result.REFUSED, "no"))
    return vm, Phase.CRASHED_OFF, vm.waits.backoff_max_s


def is_released() -> tuple[Vm, Phase, float]:
    vm = Vm(holds=(Hold("ann", ""),))
    vm.look(Phase.STOPPED)
    vm.annotate(holds=())
    vm.look(Phase.STOPPED, after_s=60)
    return vm, Phase.STOPPED, vm.waits.settle_power_s


def has_a_grace() -> tuple[Vm, Phase, float]:
    vm = Vm(shutdown=Shutdown(grace_s=120)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING, after_s=60)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    return vm, Phase.RUNNING, 120.0


def left_over() -> tuple[Vm, Phase, float]:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    vm.agent_restarts()
    vm.change(desired=STOPPED)
    vm.look(Phase.STOPPED)
    return vm, Phase.STOPPED, 10.0


WAITS = [settles, settles_a_pause, backs_off, is_released, has_a_grace, left_over]


def is_over(step: Step) -> bool:
    """It has been acted, and not only asked; or nothing is left to do."""
    return action(step) not in {None, Action.SHUTDOWN} or step.reason is Reason.IN_SYNC


@pytest.mark.parametrize("jump_s", JUMPS)
@pytest.mark.parametrize("new_process", [False, True])
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_b4_a_wait_ends_within_its_longest_length_whatever_the_wall_clock_does(
    wait: Callable[[], tuple[Vm, Phase, float]], *, new_process: bool, jump_s: float
) -> None:
    vm, seen, longest_s = wait()
    vm.wall_ahead_s += jump_s
    if new_process:
        vm.agent_restarts()
    began_s = vm.at_s + 0.1
    while not is_over(step := vm.look(seen)):
        assert step.recheck_s is not None
        assert step.recheck_s > 0
        assert vm.at_s - began_s <= longest_s + 1, step
        vm.look(seen, after_s=step.recheck_s, outcome=done(step.action.kind) if step.action else None)
        if is_over(vm.look(seen)):
            break


@pytest.mark.parametrize("jump_s", JUMPS)
@pytest.mark.parametrize("wait", [w for w in WAITS if w is not has_a_grace], ids=lambda wait: wait.__name__)
def test_a7_a_wait_is_not_cut_short_by_the_wall_clock_either(
    wait: Callable[[], tuple[Vm, Phase, float]], jump_s: float
) -> None:
    """Each look jumps, there and back."""
    vm, seen, longest_s = wait()
    began_s = vm.at_s
    for number in range(8):
        vm.wall_ahead_s = jump_s if number % 2 else 0.0
        assert not is_over(vm.look(seen, after_s=longest_s / 10)), (number, vm.at_s - began_s)


def test_a7_a_backoff_on_record_ends_after_the_clock_was_set_back() -> None:
    vm = Vm().in_sync()
    vm.waits = replace(vm.waits, backoff_max_s=20.0)
    assert action(vm.look(Phase.CRASHED_OFF, events=CRASH)) is Action.START
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    vm.wall_ahead_s = -3600.0
    first = vm.look(Phase.CRASHED_OFF, after_s=5, events=CRASH)
    assert first.reason is Reason.CRASH_LOOP_BACK_OFF
    assert first.recheck_s
    assert first.recheck_s <= 20.0
    assert action(vm.look(Phase.CRASHED_OFF, after_s=first.recheck_s, events=CRASH)) is Action.START


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=21 * 365)])
def test_b4_a_backoff_that_was_written_by_a_clock_ahead_is_bounded_once(ahead: timedelta) -> None:
    vm = Vm()
    vm.waits = replace(vm.waits, backoff_first_s=8.0, backoff_max_s=8.0)
    vm.look(Phase.STOPPED, after_s=1)
    vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no disk"))
    vm.edit(backoff=Backoff(5, T0 + ahead))
    vm.agent_restarts()
    for _ in range(8):
        assert vm.look(Phase.STOPPED, after_s=0.9).action is None
    assert action(vm.look(Phase.STOPPED, after_s=1.7)) is Action.START


# --- A5, rule 18: a change of spec.shutdown counts for the stop in flight --------------------------------


def asked(grace_s: int, mode: ShutdownMode = ShutdownMode.GRACEFUL_THEN_FORCE) -> Vm:
    vm = Vm(shutdown=Shutdown(mode, grace_s)).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    return vm


def forced_after_s(vm: Vm) -> float:
    """Seconds from the beginning of the stop, which began at 1.0, until force; looked at each second."""
    while action(vm.look(Phase.RUNNING, after_s=1.0)) is not Action.DESTROY:
        assert vm.at_s < 1000
        assert vm.vm.status.operation
    return vm.at_s - 1.0


@pytest.mark.parametrize("ahead_s", [0.0, -7200.0, 7200.0])
@pytest.mark.parametrize(("before_s", "after_s", "expected_s"), [(20, 300, 300), (300, 60, 60), (300, 5, 30)])
def test_a5_the_grace_is_the_one_of_the_newest_spec(
    before_s: int, after_s: int, expected_s: int, ahead_s: float
) -> None:
    vm = asked(before_s)
    vm.look(Phase.RUNNING, after_s=5)
    vm.wall_ahead_s = ahead_s
    vm.change(shutdown=Shutdown(grace_s=after_s))
    started = vm.vm.status.operation
    assert started
    step = vm.look(Phase.RUNNING, after_s=1)
    assert step.status.operation
    assert step.status.operation.deadline == started.start_time + timedelta(seconds=after_s)
    # --force-wait counts from this process's first press, and is never longer than the grace of now.
    least_s = min(30, after_s) if expected_s == 30 else expected_s
    assert forced_after_s(vm) == pytest.approx(max(least_s, 7.0), abs=1.2)


def test_a5_a_grace_that_is_raised_twice_and_lowered_again_is_what_it_says_last() -> None:
    vm = asked(60)
    for grace_s in (600, 900, 100):
        vm.change(shutdown=Shutdown(grace_s=grace_s))
        vm.look(Phase.RUNNING, after_s=2)
    assert forced_after_s(vm) == pytest.approx(100, abs=1.2)


def test_a5_force_is_at_once() -> None:
    vm = asked(300)
    vm.change(shutdown=Shutdown(ShutdownMode.FORCE, 300))
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.DESTROY


def test_a5_graceful_is_never_forced_and_force_may_follow_again() -> None:
    vm = asked(60)
    vm.change(shutdown=Shutdown(ShutdownMode.GRACEFUL, 60))
    for _ in range(5):
        step = vm.look(Phase.RUNNING, after_s=30)
        assert action(step) in {None, Action.SHUTDOWN}
    assert step.reason is Reason.SHUTDOWN_TIMED_OUT
    vm.change(shutdown=Shutdown(ShutdownMode.GRACEFUL_THEN_FORCE, 60))
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.DESTROY


# --- A11: a long start is Starting, and since when -------------------------------------------------------


def test_a11_a_start_that_takes_long_says_so_and_since_when() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED, after_s=13)
    began_s = vm.at_s
    told = [vm.look(Phase.STOPPED, after_s=4, call=Action.START, call_began_s=began_s) for _ in range(6)]
    assert {step.reason for step in told} == {Reason.STARTING}
    assert [step.message for step in told[1:]] == [told[-1].message] * 5  # one more write, and no other
    assert "00:00:13Z" in told[-1].message
    assert told[0].message == "The VM was stopped and is being started."


def test_a11_what_somebody_elses_call_holds_is_busy_and_not_unreachable() -> None:
    vm = Vm().in_sync()
    step = vm.look(Unreadable("Another call on the domain has not returned.", busy=True))
    assert (step.reason, step.action) == (Reason.HYPERVISOR_BUSY, None)
    assert step.status.condition("Ready")
    assert step.status.decided_reason == Reason.IN_SYNC
    assert step.recheck_s == vm.look(Unreadable("away")).recheck_s  # no event tells when such a call returns


# --- B7, rule 14: never more to reach less ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ShutdownMode)
def test_b7_what_was_started_paused_and_has_not_run_is_left_to_its_tool_and_then_destroyed(mode: ShutdownMode) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(mode, 60)).in_sync()
    looks = [vm.look(Phase.PAUSED, after_s=a, facts=NEVER_RAN) for a in (1, 15, 800, 84.5)]
    assert [step.reason for step in looks] == [Reason.SETTLING] * 4
    assert action(vm.look(Phase.PAUSED, after_s=0.5, facts=NEVER_RAN)) is Action.DESTROY


def test_b7_a_change_of_the_spec_does_not_hurry_that_tool() -> None:
    vm = Vm(PAUSED).in_sync()
    vm.change(desired=STOPPED)
    step = vm.look(Phase.PAUSED, facts=NEVER_RAN)
    assert (step.reason, step.action) == (Reason.SETTLING, None)


def test_b7_what_has_run_is_resumed_and_asked_at_once() -> None:
    vm = Vm(PAUSED).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.PAUSED)) is Action.RESUME


def test_b7_where_pauses_are_never_ended_it_is_left_alone_and_told() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.waits = replace(vm.waits, settle_pause_s=None)
    step = vm.look(Phase.PAUSED, after_s=86400, facts=NEVER_RAN)
    assert (step.reason, step.action) == (Reason.SETTLING, None)
    assert "--settle-pause never" in step.message


@pytest.mark.parametrize("held", [False, True])
def test_b7_a_hold_is_told_before(*, held: bool) -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),) if held else ())
    step = vm.look(Phase.PAUSED, facts=NEVER_RAN)
    assert step.reason is (Reason.HELD if held else Reason.SETTLING)


# --- B8, rule 15: a job is named, and has one grace period ----------------------------------------------


def stopped_beside(job: str, mode: ShutdownMode = ShutdownMode.GRACEFUL_THEN_FORCE) -> Vm:
    vm = Vm(shutdown=Shutdown(mode, 60)).in_sync()
    vm.change(desired=STOPPED)
    first = vm.look(Phase.RUNNING, after_s=5, facts=Facts(job=job))
    assert (first.reason, first.action) == (Reason.HYPERVISOR_BUSY, None)
    assert f"({job}) has been working on the VM since 00:00:05Z" in first.message
    assert first.status.operation
    assert first.status.operation.deadline == T0 + timedelta(seconds=65)
    again = vm.look(Phase.RUNNING, after_s=30, facts=Facts(job=job))
    assert again.message == first.message
    return vm


@pytest.mark.parametrize("mode", ShutdownMode)
def test_b8_beside_a_backup_that_nobody_ends_the_stop_goes_on_after_one_grace(mode: ShutdownMode) -> None:
    vm = stopped_beside("backup", mode)
    step = vm.look(Phase.RUNNING, after_s=31, facts=Facts(job="backup"))
    assert action(step) is (Action.DESTROY if mode is ShutdownMode.FORCE else Action.SHUTDOWN)


def test_b8_beside_a_backup_the_guest_then_has_the_time_that_force_always_leaves_it() -> None:
    vm = stopped_beside("backup")
    backup = Facts(job="backup")
    vm.look(Phase.RUNNING, after_s=31, facts=backup)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN), facts=backup)
    assert action(vm.look(Phase.RUNNING, after_s=29, facts=backup)) is not Action.DESTROY
    assert action(vm.look(Phase.RUNNING, after_s=1, facts=backup)) is Action.DESTROY


def test_b8_graceful_beside_a_backup_ends_with_a_word() -> None:
    vm = stopped_beside("backup", ShutdownMode.GRACEFUL)
    backup = Facts(job="backup")
    vm.look(Phase.RUNNING, after_s=31, facts=backup)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN), facts=backup)
    assert vm.look(Phase.RUNNING, after_s=40, facts=backup).reason is Reason.SHUTTING_DOWN
    assert vm.look(Phase.RUNNING, after_s=21, facts=backup).reason is Reason.SHUTDOWN_TIMED_OUT


@pytest.mark.parametrize("mode", ShutdownMode)
@pytest.mark.parametrize("job", ["save", "dump", "migration", "snapshot", "job"])
def test_b8_beside_any_other_job_it_is_never_stopped_and_the_wait_has_an_end(job: str, mode: ShutdownMode) -> None:
    vm = stopped_beside(job, mode)
    for _ in range(2):
        step = vm.look(Phase.RUNNING, after_s=31, facts=Facts(job=job))
        assert (step.reason, step.action) == (Reason.SHUTDOWN_TIMED_OUT, None)
    assert "abort the job" in step.message
    assert action(vm.look(Phase.RUNNING)) is not None  # the job has ended


@pytest.mark.parametrize("job", ["save", "backup"])
def test_b8_a_job_has_the_whole_grace_period(job: str) -> None:
    vm = stopped_beside(job)
    last = vm.look(Phase.RUNNING, after_s=29.5, facts=Facts(job=job))
    assert last.reason is Reason.HYPERVISOR_BUSY
    assert last.recheck_s == pytest.approx(0.4)
    assert vm.look(Phase.RUNNING, after_s=0.4, facts=Facts(job=job)).reason is not Reason.HYPERVISOR_BUSY


def test_b8_a_second_request_to_restart_is_on_record_though_a_job_has_outlived_the_grace_period() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    save = Facts(job="save")
    vm.change(restart_request=T0)
    assert vm.look(Phase.RUNNING, after_s=5, facts=save).reason is Reason.HYPERVISOR_BUSY
    assert vm.look(Phase.RUNNING, after_s=60, facts=save).reason is Reason.SHUTDOWN_TIMED_OUT
    vm.change(restart_request=T0 + timedelta(seconds=60))
    step = vm.look(Phase.RUNNING, facts=save)
    assert (step.reason, step.action) == (Reason.SHUTDOWN_TIMED_OUT, None)
    assert step.status.last_restart_time == T0 + timedelta(seconds=60)


def test_b8_what_never_ran_is_destroyed_beside_a_backup_whose_tool_has_died() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60)).in_sync()
    facts = Facts(job="backup", never_ran=True)
    assert vm.look(Phase.PAUSED, after_s=1, facts=facts).reason is Reason.SETTLING
    assert vm.look(Phase.PAUSED, after_s=901, facts=facts).reason is Reason.HYPERVISOR_BUSY
    assert action(vm.look(Phase.PAUSED, after_s=61, facts=facts)) is Action.DESTROY


def test_b8_another_job_is_dated_anew() -> None:
    vm = Vm().in_sync()
    vm.change(desired=PAUSED)
    assert (
        "(backup) has been working on the VM since 00:00:02Z"
        in vm.look(Phase.RUNNING, after_s=2, facts=Facts(job="backup")).message
    )
    assert (
        "(save) has been working on the VM since 00:01:02Z"
        in vm.look(Phase.RUNNING, after_s=60, facts=Facts(job="save")).message
    )


# --- B10, rule 17: the brake never holds a change of the spec --------------------------------------------


def braked(vm: Vm) -> Vm:
    vm.node = Node("node-a", "boot-1", braked_until=moment(vm.at_s + 120))
    return vm


@pytest.mark.parametrize("policy", RestartPolicy)
def test_b10_a_start_that_the_user_asks_for_does_not_wait_for_the_brake(policy: RestartPolicy) -> None:
    vm = braked(Vm(STOPPED, restart_policy=policy).in_sync())
    vm.change(desired=RUNNING)
    assert action(vm.look(Phase.STOPPED)) is Action.START


def test_b10_nor_does_it_when_it_could_not_be_served_at_its_first_look() -> None:
    vm = braked(Vm(STOPPED).in_sync())
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED, turn_in_s=1.0)
    vm.look(Unreadable("away"))
    assert action(vm.look(Phase.STOPPED, after_s=1)) is Action.START


def test_b10_a_restart_by_policy_waits_for_it() -> None:
    vm = braked(Vm().in_sync())
    vm.look(Phase.STOPPED, events=GUEST)
    step = vm.look(Phase.STOPPED, after_s=11)
    assert (step.reason, step.action) == (Reason.SETTLING, None)
    assert "Several VMs stopped together" in step.message


# --- C4, C5, A13: what is told ---------------------------------------------------------------------------


def test_c4_a_scheduled_restart_and_a_hold_are_seen_while_all_is_well() -> None:
    vm = Vm(restart_request=T0 + timedelta(hours=22), holds=(Hold("ann", "backup"),))
    step = vm.look(Phase.RUNNING)
    expected = (
        "The VM is running, as spec.powerState asks; restart scheduled for 2026-01-01T22:00:00Z; held by ann (backup)."
    )
    assert (step.reason, step.message) == (Reason.IN_SYNC, expected)


def test_c5_a_start_that_failed_keeps_the_words_of_its_failure() -> None:
    vm = Vm()
    vm.look(Phase.STOPPED)
    refused = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no such disk"))
    assert (refused.reason, "no such disk" in refused.message) == (Reason.START_FAILED, True)
    for _ in range(3):
        step = vm.look(Phase.STOPPED, after_s=3)
        assert (step.reason, step.message) == (Reason.START_FAILED, refused.message)


def test_c5_nor_does_an_outage_turn_it_into_a_crash_loop() -> None:
    vm = Vm()
    vm.look(Phase.STOPPED)
    vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no such disk"))
    vm.look(Unreadable("away"))
    step = vm.look(Phase.STOPPED, after_s=1)
    assert step.reason is Reason.START_FAILED
    assert "keeps stopping" not in step.message


def test_a13_an_io_error_is_nobody_at_work() -> None:
    vm = Vm().in_sync()
    step = vm.look(Phase.PAUSED_IO_ERROR, after_s=60)
    assert step.reason is Reason.PAUSED_BY_IO_ERROR


def test_a13_nor_is_one_that_follows_a_pause_which_settles() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.PAUSED, after_s=60).reason is Reason.SETTLING
    step = vm.look(Phase.PAUSED_IO_ERROR, after_s=5)
    assert (step.reason, action(step)) == (Reason.PAUSED_BY_IO_ERROR, Action.RESUME)


def test_a13_an_unknown_word_in_the_spec_costs_nothing_that_was_known() -> None:
    """Rule 10."""
    vm = Vm().in_sync()
    before = vm.vm.status
    vm.change(misunderstood="powerState Hibernated")
    step = vm.look(Phase.STOPPED, after_s=60)
    assert (step.reason, step.action) == (Reason.SPEC_NOT_UNDERSTOOD, None)
    assert "powerState Hibernated" in step.message
    assert replace(step.status, conditions=()) == replace(before, conditions=())
    vm.change(misunderstood="")
    assert vm.look(Phase.RUNNING).reason is Reason.IN_SYNC


def test_a_spec_that_is_not_understood_is_not_looked_at_without_end() -> None:
    """Its VM has failures on record and has run for long: they are forgotten when the spec is understood again."""
    vm = Vm().in_sync()
    vm.look(Phase.CRASHED_OFF, events=CRASH)
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    assert vm.vm.status.backoff
    vm.change(misunderstood='spec.powerState "Hibernated"')
    for _ in range(3):
        step = vm.look(domain(Phase.RUNNING, 2), after_s=1000)
        assert (step.reason, step.recheck_s) == (Reason.SPEC_NOT_UNDERSTOOD, None)


def test_a_restart_far_ahead_is_looked_at_again_soon_because_the_clock_may_be_set() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(days=365 * 374))
    assert vm.look(Phase.RUNNING).recheck_s == 600
    vm.change(restart_request=T0 + timedelta(seconds=90))
    assert (vm.look(Phase.RUNNING).recheck_s or 0) < 91


def test_a_vm_that_is_off_at_the_time_of_its_restart_is_not_restarted_after_its_start() -> None:
    vm = Vm(restart_request=T0 + timedelta(seconds=100)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING, after_s=10)
    vm.look(Phase.STOPPED, after_s=10, outcome=done(Action.SHUTDOWN))
    vm.change(desired=RUNNING)
    step = vm.look(Phase.STOPPED, after_s=400)
    assert (action(step), step.status.last_restart_time) == (Action.START, vm.vm.restart_request)
    vm.look(domain(Phase.RUNNING, 2), after_s=2, outcome=done(Action.START))
    step = vm.look(domain(Phase.RUNNING, 2), after_s=11)
    assert (action(step), step.reason) == (None, Reason.IN_SYNC)


@pytest.mark.parametrize("result", [Result.REFUSED, Result.UNKNOWN])
def test_a_refused_request_to_the_guest_does_not_delay_the_forced_stop(result: Result) -> None:
    vm = Vm(shutdown=Shutdown(grace_s=180)).in_sync()
    vm.change(desired=STOPPED)
    step, began_s = vm.look(Phase.SUSPENDED), vm.at_s
    failed = Outcome(Action.WAKE, result, "Domain does not have suspend support")
    for _ in range(20):
        if (kind := action(step)) is Action.DESTROY:
            break
        assert kind in {Action.WAKE, None}
        step = vm.look(Phase.SUSPENDED, after_s=0.1 if kind else step.recheck_s or 1, outcome=failed if kind else None)
    assert action(step) is Action.DESTROY
    assert vm.at_s - began_s <= 181


def test_a_refused_forced_stop_backs_off() -> None:
    vm = Vm(shutdown=Shutdown(ShutdownMode.FORCE)).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.DESTROY
    step = vm.look(Phase.RUNNING, outcome=Outcome(Action.DESTROY, Result.REFUSED, "no"))
    assert (action(step), step.reason) == (None, Reason.ACTION_FAILED)
    assert action(vm.look(Phase.RUNNING, after_s=1)) is None
    assert action(vm.look(Phase.RUNNING, after_s=11)) is Action.DESTROY


def test_an_action_whose_result_is_not_known_backs_off_although_libvirt_answers() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.PAUSED)
    assert vm.waits.settle_pause_s
    assert action(vm.look(Phase.PAUSED, after_s=vm.waits.settle_pause_s + 1)) is Action.RESUME
    step = vm.look(Phase.PAUSED, outcome=Outcome(Action.RESUME, Result.UNKNOWN, "cannot reach the lock daemon"))
    assert (action(step), step.reason) == (None, Reason.ACTION_FAILED)
    assert "libvirt gave no result of the request to resume the VM: cannot reach the lock daemon." in step.message
    assert action(vm.look(Phase.PAUSED, after_s=11)) is Action.RESUME


def test_a_start_that_ends_libvirtd_each_time_is_called_again_only_with_a_wait() -> None:
    """The first call may have been lost, so it is made again at once. Later ones wait longer and longer."""
    vm = Vm().in_sync()
    step = vm.look(Phase.STOPPED, after_s=60, events=CRASH)
    starts_s: list[float] = []
    while vm.at_s < 400:
        if action(step) is Action.START:
            starts_s.append(vm.at_s)
            vm.look(Unreadable("not connected"), after_s=1, outcome=Outcome(Action.START, Result.UNKNOWN))
        step = vm.look(Phase.STOPPED, after_s=1)
    waits_s = [later - before for before, later in pairwise(starts_s)]
    assert waits_s[0] <= 3
    assert all(later > 1.5 * before for before, later in pairwise(waits_s[1:]))
    assert step.reason is Reason.STARTING
    assert "libvirt gave no result of several requests to start the VM. virtsync tries again at " in step.message


def calls_that_are_not_sent(vm: Vm, seconds: int) -> list[float]:
    """When a start is tried in the time to come, by looks ten times a second."""
    moments: list[float] = []
    step = vm.look(Phase.STOPPED)
    for _ in range(seconds * 10):
        if step.action:
            moments.append(vm.at_s)
        unsent = Outcome(step.action.kind, Result.UNSENT, "not connected") if step.action else None
        step = vm.look(Phase.STOPPED, outcome=unsent)
    return moments


def test_a_start_that_is_not_sent_is_told_and_tried_again_only_with_a_wait() -> None:
    vm = Vm()
    assert len(calls_that_are_not_sent(vm, 60)) == 3
    step = vm.look(Phase.STOPPED)
    assert (step.reason, step.status.restart_count) == (Reason.START_FAILED, 0)
    assert step.message.startswith("The request to start the VM was not sent to libvirt: not connected. virtsync tries")


def test_a_start_on_record_that_is_not_sent_is_called_again_only_with_a_wait() -> None:
    """Its first call had no result, so it may still be on its way, and the record stays."""
    vm = Vm()
    assert action(vm.look(Phase.STOPPED)) is Action.START
    vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.UNKNOWN))
    assert len(calls_that_are_not_sent(vm, 60)) <= 4


@pytest.mark.parametrize("called", [True, False])
def test_a_start_of_which_one_call_has_no_known_result_is_called_again_at_once(*, called: bool) -> None:
    vm = Vm().in_sync()
    vm.edit(backoff=Backoff(4, T0 + timedelta(seconds=30)))
    assert action(vm.look(Phase.STOPPED, after_s=60, events=CRASH)) is Action.START
    if called:
        step = vm.look(Phase.STOPPED, after_s=1, outcome=Outcome(Action.START, Result.UNKNOWN))
        assert action(step) is Action.START
        step = vm.look(Phase.STOPPED, after_s=1, outcome=Outcome(Action.START, Result.NOT_CALLED))
    else:  # a new process, whose first report fails
        vm.agent_restarts()
        assert action(vm.look_unreported(Phase.STOPPED, after_s=1)) is Action.START
        step = vm.look(Phase.STOPPED, after_s=1)
    assert action(step) is Action.START


@pytest.mark.parametrize("mode", [ShutdownMode.GRACEFUL_THEN_FORCE, ShutdownMode.FORCE])
def test_a_stop_without_a_result_that_has_worked_is_no_failure(mode: ShutdownMode) -> None:
    vm = Vm(shutdown=Shutdown(mode)).in_sync()
    vm.change(restart_request=T0)
    kind = action(vm.look(Phase.RUNNING, after_s=1))
    assert kind in {Action.SHUTDOWN, Action.DESTROY}
    step = vm.look(Phase.STOPPED, after_s=3, outcome=Outcome(kind, Result.UNKNOWN, "connection lost"), events=GUEST)
    assert (action(step), step.reason) == (Action.START, Reason.STARTING)


def test_a_resume_without_a_result_that_has_worked_is_no_failure() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.PAUSED)
    assert action(vm.look(Phase.PAUSED, after_s=1000)) is Action.RESUME
    step = vm.look(Phase.RUNNING, outcome=Outcome(Action.RESUME, Result.UNKNOWN, "connection lost"))
    assert (step.reason, step.status.backoff) == (Reason.IN_SYNC, None)


def test_a_refused_forced_stop_backs_off_after_a_restart_of_the_agent_too() -> None:
    vm = Vm(shutdown=Shutdown(ShutdownMode.FORCE)).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.DESTROY
    vm.look(Phase.RUNNING, outcome=Outcome(Action.DESTROY, Result.REFUSED, "no"))
    vm.agent_restarts()
    assert action(vm.look(Phase.RUNNING, after_s=1)) is None


def test_one_jump_of_the_clock_starts_no_vm_that_has_completed() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER, restart_request=T0 + timedelta(days=30)).in_sync()
    vm.look(Phase.STOPPED, after_s=60, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=60, events=GUEST).reason is Reason.COMPLETED
    vm.wall_ahead_s = 60 * 86400.0
    assert action(vm.look(Phase.STOPPED, after_s=1, events=GUEST)) is None
    assert action(vm.look(Phase.STOPPED, after_s=11, events=GUEST)) is Action.START


def test_a_qemu_that_lingers_has_its_grace_period_after_libvirtd_was_restarted() -> None:
    lingering = replace(domain(Phase.SHUTTING_DOWN), id=None, state="SHUTOFF", reason="DESTROYED")
    assert lingering.lingers
    vm = Vm(shutdown=Shutdown(ShutdownMode.FORCE, 180)).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.DESTROY
    assert vm.look(lingering, outcome=done(Action.DESTROY)).reason is Reason.SHUTTING_DOWN
    vm.look(Unreadable("not connected"), after_s=1)
    assert vm.look(lingering, after_s=1).reason is Reason.SHUTTING_DOWN
    assert vm.look(lingering, after_s=100).reason is Reason.SHUTTING_DOWN
    assert vm.look(lingering, after_s=81).reason is Reason.SHUTDOWN_TIMED_OUT


@pytest.mark.parametrize("ran_s", [60.0, 3600.0])
@pytest.mark.parametrize(
    ("change", "refused"),
    [
        pytest.param({"desired": PAUSED}, Action.SUSPEND, id="suspend"),
        pytest.param({"desired": STOPPED, "shutdown": Shutdown(ShutdownMode.FORCE, 180)}, Action.DESTROY, id="destroy"),
    ],
)
def test_a_refused_action_backs_off_however_long_the_vm_has_run(
    change: dict[str, Any], refused: Action, ran_s: float
) -> None:
    vm = Vm().in_sync()
    vm.look(Phase.RUNNING, after_s=ran_s)
    vm.change(**change)
    began_s, calls, step = vm.at_s, 0, vm.look(Phase.RUNNING)
    while vm.at_s < began_s + 60:
        calls += action(step) is refused
        outcome = Outcome(refused, Result.REFUSED, "no") if step.action else None
        step = vm.look(Phase.RUNNING, after_s=0.1, outcome=outcome)
        assert outcome is None or step.reason is Reason.ACTION_FAILED
    assert calls == 3, "at once, after 10 s and after 20 s more"

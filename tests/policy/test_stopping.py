"""A stop, step by step: polite for as long as it may be, forced only after this process has asked and waited."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.api.virtualmachine import Hold, OperationType, Reason, Shutdown, ShutdownMode
from controller.policy.stopping import CANNOT_REACT
from controller.policy.view import Action, Evidence, Facts, Outcome, Phase, Result, Step
from tests.policy.views import PAUSED, STOPPED, T0, Vm, action, domain, done

HANGS = Facts(hangs=True)
REBOOTS = Facts(reboots_on_poweroff=True)
FORCE, GRACEFUL = ShutdownMode.FORCE, ShutdownMode.GRACEFUL
REFUSED = Outcome(Action.SHUTDOWN, Result.REFUSED, "access denied")
UNSENT = Outcome(Action.SHUTDOWN, Result.UNSENT, "not connected")
DEAF = [Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT]


def asked(grace_s: int = 60, mode: ShutdownMode = ShutdownMode.GRACEFUL_THEN_FORCE) -> Vm:
    """It runs, and has been asked to shut down at the beginning of this clock; libvirt has taken that."""
    vm = Vm(STOPPED, shutdown=Shutdown(mode, grace_s))
    assert action(vm.look(Phase.RUNNING, after_s=0)) is Action.SHUTDOWN
    assert vm.look(Phase.RUNNING, after_s=0, outcome=done(Action.SHUTDOWN)).action is None
    return vm


def asking(deadline: str) -> str:
    """The message while the guest is asked to shut down."""
    return f"{course(Phase.RUNNING)} virtsync forces the VM off at {deadline} if it is still on."


def course(phase: Phase) -> str:
    """What the message says about the guest while the grace period runs."""
    if phase in CANNOT_REACT:
        return f"{CANNOT_REACT[phase]} and cannot react, so virtsync does not ask the guest to shut down."
    shutting_down = phase is Phase.SHUTTING_DOWN
    return "The guest is already shutting down." if shutting_down else "The guest is being asked to shut down."


def pressed(vm: Vm, seconds: int) -> list[float]:
    """When the power button is pressed in the time to come, by looks a second apart; nothing else may be done."""
    moments: list[float] = []
    outcome = None
    for _ in range(seconds):
        step = vm.look(Phase.RUNNING, after_s=1, outcome=outcome)
        outcome = done(step.action.kind) if step.action else None
        if step.action:
            assert step.action.kind is Action.SHUTDOWN
            moments.append(round(vm.at_s, 1))
    return moments


# --- asking ----------------------------------------------------------------------------------------------


def test_a_stop_is_recorded_with_its_deadline_before_the_guest_is_asked() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    step = vm.look(Phase.RUNNING)
    assert action(step) is Action.SHUTDOWN
    assert step.message == asking("00:01:00Z")
    assert step.status.operation
    operation = step.status.operation
    assert (operation.type, operation.start_time, operation.deadline, operation.domain_id) == (
        OperationType.STOP,
        T0,
        T0 + timedelta(seconds=60),
        1,
    )


def test_the_power_button_is_pressed_every_ten_seconds_because_a_guest_that_boots_loses_it() -> None:
    assert pressed(asked(), 58) == [10, 21, 32, 43, 54]


def test_the_next_look_is_when_the_button_is_pressed_again_or_the_grace_is_over() -> None:
    vm = asked(15)
    assert vm.look(Phase.RUNNING, after_s=4).recheck_s == pytest.approx(6)
    assert action(vm.look(Phase.RUNNING, after_s=6)) is Action.SHUTDOWN
    assert vm.look(Phase.RUNNING, after_s=1, outcome=done(Action.SHUTDOWN)).recheck_s == pytest.approx(4)


def test_a_guest_that_is_on_its_way_is_not_asked_again_until_it_is_forced() -> None:
    vm = asked()
    assert vm.look(Phase.SHUTTING_DOWN, after_s=1).recheck_s == pytest.approx(59)
    for _ in range(5):
        step = vm.look(Phase.SHUTTING_DOWN, after_s=11)
        assert (step.reason, step.action) == (Reason.SHUTTING_DOWN, None)
    assert step.recheck_s == pytest.approx(4)
    assert action(vm.look(Phase.SHUTTING_DOWN, after_s=4)) is Action.DESTROY


def test_a_paused_guest_is_resumed_first_and_then_asked() -> None:
    for phase, first in ((Phase.PAUSED, Action.RESUME), (Phase.SUSPENDED, Action.WAKE)):
        vm = Vm(STOPPED)
        assert action(vm.look(phase)) is first
        assert action(vm.look(Phase.RUNNING, outcome=done(first))) is Action.SHUTDOWN


@pytest.mark.parametrize("result", [Result.NOT_CALLED])
def test_a_press_that_did_not_happen_is_made_up_for_at_once(result: Result) -> None:
    vm = Vm(STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    assert action(vm.look(Phase.RUNNING, outcome=Outcome(Action.SHUTDOWN, result))) is Action.SHUTDOWN


@pytest.mark.parametrize("result", [Result.DONE, Result.ALREADY, Result.UNKNOWN])
def test_a_press_that_may_have_happened_counts(result: Result) -> None:
    vm = Vm(STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    assert vm.look(Phase.RUNNING, outcome=Outcome(Action.SHUTDOWN, result)).action is None


# --- a request that libvirt refuses ----------------------------------------------------------------------


def refused(vm: Vm, seconds: int) -> Step:
    """The last of so many looks, a second apart, at a guest that libvirt refuses to ask; nothing else may be done."""
    step = vm.look(Phase.RUNNING)
    for _ in range(seconds):
        assert action(step) in {Action.SHUTDOWN, None}
        step = vm.look(Phase.RUNNING, after_s=1, outcome=REFUSED if step.action else None)
    return step


@pytest.mark.parametrize("mode", [GRACEFUL, ShutdownMode.GRACEFUL_THEN_FORCE])
@pytest.mark.parametrize(
    ("result", "what"),
    [(Result.REFUSED, "libvirt refused to"), (Result.UNKNOWN, "libvirt gave no result of the request to")],
)
def test_a_request_to_the_guest_that_fails_is_told_in_libvirts_words(
    mode: ShutdownMode, result: Result, what: str
) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(mode, 60))
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    failed = vm.look(Phase.RUNNING, outcome=Outcome(Action.SHUTDOWN, result, "access denied"))
    assert (failed.reason, failed.action) == (Reason.ACTION_FAILED, None)
    assert failed.message == f"{what} shut down the VM: access denied. virtsync tries again at 00:00:10Z."
    later = vm.look(Phase.RUNNING, after_s=9.9)
    assert (later.reason, later.message, later.action) == (Reason.ACTION_FAILED, failed.message, None)
    assert action(vm.look(Phase.RUNNING, after_s=0.2)) is Action.SHUTDOWN
    assert vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN)).reason is Reason.SHUTTING_DOWN


@pytest.mark.parametrize("result", [Result.REFUSED, Result.UNSENT, Result.UNKNOWN])
def test_a_request_that_fails_is_never_repeated_faster_than_one_that_does_not(result: Result) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(GRACEFUL, 3600))
    vm.waits = replace(vm.waits, backoff_first_s=0.0, backoff_max_s=0.0)
    step, presses = vm.look(Phase.RUNNING), 0
    for _ in range(600):
        presses += step.action is not None
        failed = Outcome(Action.SHUTDOWN, result, "no") if step.action else None
        step = vm.look(Phase.RUNNING, after_s=0.1, outcome=failed)
        assert step.reason is (Reason.SHUTTING_DOWN if step.action else Reason.ACTION_FAILED)
        assert step.recheck_s
    assert presses == 6


def test_a_refusal_within_a_restart_and_of_a_later_press_is_told_too() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(restart_request=T0)
    assert vm.look(Phase.RUNNING, after_s=1).reason is Reason.RESTARTING
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    assert action(vm.look(Phase.RUNNING, after_s=10)) is Action.SHUTDOWN
    assert vm.look(Phase.RUNNING, outcome=REFUSED).reason is Reason.ACTION_FAILED


def test_a_refused_request_does_not_delay_force_which_tells_of_it() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    step = refused(vm, 59)
    assert step.reason is Reason.ACTION_FAILED
    assert step.recheck_s == pytest.approx(0.9)  # the next request would be due later
    forced = vm.look(Phase.RUNNING, after_s=0.9)
    assert action(forced) is Action.DESTROY
    assert forced.message == (
        "The VM is being forced off, because libvirt refused to ask its guest to shut down and its grace period is "
        "over."
    )


def test_a_guest_that_is_asked_at_last_has_the_time_that_force_always_leaves_it() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    refused(vm, 29)
    assert action(vm.look(Phase.RUNNING, after_s=11)) is Action.SHUTDOWN
    waiting = vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    assert waiting.message == asking("00:01:10Z")
    assert pressed(vm, 29)
    forced = vm.look(Phase.RUNNING, after_s=1.1)
    assert (action(forced), "refused" in forced.message) == (Action.DESTROY, False)


def test_graceful_asks_on_and_does_not_say_that_a_guest_ignored_what_it_was_never_asked() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(GRACEFUL, 60))
    step = refused(vm, 200)
    assert step.reason is Reason.ACTION_FAILED
    while action(step) is not Action.SHUTDOWN:
        assert step.recheck_s
        step = vm.look(Phase.RUNNING, after_s=step.recheck_s)
    assert vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN)).reason is Reason.SHUTTING_DOWN
    assert pressed(vm, 59)  # it has a grace period of its own
    late = vm.look(Phase.RUNNING, after_s=1.1)
    assert late.reason is Reason.SHUTDOWN_TIMED_OUT
    assert "because its guest did not shut down by" in late.message


def test_graceful_says_of_a_guest_that_could_not_be_woken_that_it_could_not_be_asked() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(GRACEFUL, 60))
    assert action(vm.look(Phase.SUSPENDED)) is Action.WAKE
    vm.look(Phase.SUSPENDED, outcome=Outcome(Action.WAKE, Result.REFUSED, "no"))
    late = vm.look(Phase.SUSPENDED, after_s=60)
    assert late.message == (
        "The VM is still on, because its guest could not be asked to shut down by 00:01:00Z. spec.shutdown.mode "
        "Graceful does not allow virtsync to force it off."
    )


# --- a request that was not sent -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [GRACEFUL, ShutdownMode.GRACEFUL_THEN_FORCE])
def test_a_request_that_was_not_sent_is_told_and_nobody_is_forced_off_who_was_never_asked(mode: ShutdownMode) -> None:
    """libvirt has accepted no connection for it, and answers every look."""
    vm = Vm(STOPPED, shutdown=Shutdown(mode, 20))
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    step = vm.look(Phase.RUNNING, outcome=UNSENT)
    why = "The request to shut down the VM was not sent to libvirt: not connected. virtsync tries again at 00:00:10Z."
    assert (step.reason, step.message, step.action) == (Reason.ACTION_FAILED, why, None)
    presses = 0
    for _ in range(200):
        step = vm.look(Phase.RUNNING, after_s=1, outcome=UNSENT if step.action else None)
        assert action(step) in {Action.SHUTDOWN, None}
        assert step.reason in {Reason.ACTION_FAILED, Reason.SHUTTING_DOWN}
        presses += step.action is not None
    assert 3 <= presses <= 5  # with backoff


def test_what_was_not_sent_begins_no_wait_for_force() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=UNSENT)
    assert action(vm.look(Phase.RUNNING, after_s=99.7)) is Action.SHUTDOWN
    assert vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN)).message == asking("00:02:10Z")
    assert pressed(vm, 29)
    assert action(vm.look(Phase.RUNNING, after_s=1.1)) is Action.DESTROY


# --- force -----------------------------------------------------------------------------------------------


def test_a_guest_that_obeys_nothing_is_forced_off_when_its_grace_is_over() -> None:
    vm = asked()
    assert vm.look(Phase.RUNNING, after_s=59.8, facts=None).reason is Reason.SHUTTING_DOWN
    forced = vm.look(Phase.RUNNING, after_s=0.3)
    assert action(forced) is Action.DESTROY
    assert forced.message == "The VM is being forced off, because its grace period is over."


@pytest.mark.parametrize(("grace_s", "waits_s"), [(180, 30), (60, 30), (10, 10)])
def test_a_new_process_waits_again_before_force_however_old_the_record_is(grace_s: int, waits_s: int) -> None:
    vm = asked(grace_s)
    vm.agent_restarts()
    again = vm.look(Phase.RUNNING, after_s=1000)
    assert action(again) is Action.SHUTDOWN
    assert again.status.operation
    assert again.status.operation.start_time == T0
    seconds = 1000 + waits_s
    assert again.message == asking(f"00:{seconds // 60}:{seconds % 60:02}Z")
    vm.look(Phase.RUNNING, after_s=0, outcome=done(Action.SHUTDOWN))
    assert action(vm.look(Phase.RUNNING, after_s=waits_s - 0.1)) is not Action.DESTROY
    assert action(vm.look(Phase.RUNNING, after_s=0.2)) is Action.DESTROY


def test_a_new_process_that_comes_early_keeps_the_deadline_but_not_before_its_own_wait() -> None:
    vm = asked(60)
    vm.agent_restarts()
    assert action(vm.look(Phase.RUNNING, after_s=50)) is Action.SHUTDOWN
    waiting = vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    assert waiting.message == asking("00:01:20Z")
    assert pressed(vm, 29)
    assert action(vm.look(Phase.RUNNING, after_s=1.1)) is Action.DESTROY


@pytest.mark.parametrize("ahead_s", [86_400, -86_400])
def test_a_wall_clock_that_is_set_neither_hastens_force_nor_puts_it_off(ahead_s: float) -> None:
    vm = asked(60)
    vm.look(Phase.RUNNING, after_s=20)
    vm.wall_ahead_s = ahead_s
    assert pressed(vm, 39)
    assert action(vm.look(Phase.RUNNING, after_s=1)) is Action.DESTROY


@pytest.mark.parametrize("phase", [*DEAF, Phase.STARTING, Phase.SHUTTING_DOWN])
def test_what_cannot_be_asked_is_waited_for_and_forced_off_at_the_deadline(phase: Phase) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    first = vm.look(phase, after_s=0)
    assert (first.reason, first.action) == (Reason.SHUTTING_DOWN, None)
    assert first.message == f"{course(phase)} virtsync forces the VM off at 00:01:00Z if it is still on."
    assert first.recheck_s == pytest.approx(60)
    assert vm.look(phase, after_s=59.9).action is None
    assert action(vm.look(phase, after_s=0.2)) is Action.DESTROY


@pytest.mark.parametrize("phase", [*DEAF, Phase.STARTING, Phase.SHUTTING_DOWN])
def test_a_new_process_waits_for_what_cannot_be_asked_too(phase: Phase) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.look(phase)
    vm.agent_restarts()
    again = vm.look(phase, after_s=1000)
    assert again.action is None
    assert again.recheck_s == pytest.approx(30)
    assert action(vm.look(phase, after_s=30)) is Action.DESTROY


def test_a_pause_that_cannot_be_ended_is_forced_off_at_the_deadline() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    assert action(vm.look(Phase.PAUSED)) is Action.RESUME
    refused = vm.look(Phase.PAUSED, outcome=Outcome(Action.RESUME, Result.REFUSED, "no"))
    assert (refused.reason, refused.action) == (Reason.ACTION_FAILED, None)
    assert action(vm.look(Phase.PAUSED, after_s=59.7)) is Action.RESUME
    assert action(vm.look(Phase.PAUSED, after_s=0.3)) is Action.DESTROY


def test_another_run_of_the_domain_is_asked_anew_and_has_a_grace_of_its_own() -> None:
    vm = asked(60)
    vm.look(Phase.RUNNING, after_s=55)
    other = vm.look(domain(Phase.RUNNING, 2), after_s=1)
    assert action(other) is Action.SHUTDOWN
    assert other.status.operation
    assert (other.status.operation.domain_id, other.status.operation.start_time) == (2, T0 + timedelta(seconds=56))
    vm.look(domain(Phase.RUNNING, 2), after_s=0, outcome=done(Action.SHUTDOWN))
    assert action(vm.look(domain(Phase.RUNNING, 2), after_s=59)) is Action.SHUTDOWN
    assert action(vm.look(domain(Phase.RUNNING, 2), after_s=1)) is Action.DESTROY


# --- a QEMU that hangs -----------------------------------------------------------------------------------


def test_a_press_that_libvirt_never_answers_has_been_made_when_it_began() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    assert action(vm.look(Phase.RUNNING, after_s=0)) is Action.SHUTDOWN

    def look(after_s: float) -> Step:
        return vm.look(Phase.RUNNING, after_s=after_s, facts=None, call=Action.SHUTDOWN, call_began_s=0)

    assert look(1).reason is Reason.SHUTTING_DOWN
    assert look(30).reason is Reason.HYPERVISOR_BUSY
    assert look(28.9).reason is Reason.HYPERVISOR_BUSY
    assert action(look(0.2)) is Action.DESTROY


def test_a_press_that_hangs_late_still_leaves_the_guest_its_time() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.look(Phase.RUNNING)
    vm.agent_restarts()
    assert action(vm.look(Phase.RUNNING, after_s=99.9)) is Action.SHUTDOWN
    for after_s, act in ((29.9, None), (0.2, Action.DESTROY)):
        step = vm.look(Phase.RUNNING, after_s=after_s, facts=None, call=Action.SHUTDOWN, call_began_s=100)
        assert action(step) is act


def test_a_resume_that_hangs_is_overtaken_at_the_deadline() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    assert action(vm.look(Phase.PAUSED, after_s=0)) is Action.RESUME
    for after_s, act in ((59.9, None), (0.2, Action.DESTROY)):
        step = vm.look(Phase.PAUSED, after_s=after_s, facts=None, call=Action.RESUME, call_began_s=0)
        assert action(step) is act


def test_the_grace_of_a_qemu_that_hangs_runs_though_it_could_not_be_asked() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    hangs = vm.look(Phase.RUNNING, after_s=0, facts=HANGS)
    assert (hangs.reason, hangs.action) == (Reason.HYPERVISOR_BUSY, None)
    assert hangs.status.operation
    assert hangs.status.operation.deadline == T0 + timedelta(seconds=60)
    assert vm.look(Phase.RUNNING, after_s=59.9, facts=HANGS).action is None
    assert action(vm.look(Phase.RUNNING, after_s=0.2, facts=HANGS)) is Action.DESTROY


def test_the_grace_of_a_qemu_that_hangs_runs_whatever_call_it_hangs_on() -> None:
    vm = Vm(PAUSED)
    assert action(vm.look(Phase.RUNNING, after_s=0)) is Action.SUSPEND
    vm.change(desired=STOPPED, shutdown=Shutdown(grace_s=60))

    def look(after_s: float) -> Step:
        return vm.look(Phase.RUNNING, after_s=after_s, facts=None, call=Action.SUSPEND, call_began_s=0)

    assert look(4.9).status.operation is None
    hangs = look(0.1)
    assert (hangs.reason, hangs.action) == (Reason.HYPERVISOR_BUSY, None)
    assert hangs.status.operation
    assert hangs.status.operation.deadline == T0 + timedelta(seconds=65)
    assert look(59.9).action is None
    assert action(look(0.2)) is Action.DESTROY


def test_a_hold_ends_the_grace_of_a_qemu_that_hangs() -> None:
    vm = Vm(STOPPED)
    vm.annotate(holds=(Hold("ann", ""),))
    held = vm.look(Phase.RUNNING, after_s=60, facts=None, call=Action.SHUTDOWN, call_began_s=0)
    assert (held.reason, held.action, held.status.operation) == (Reason.HELD, None, None)


def test_a_qemu_that_hangs_is_left_alone_where_force_is_forbidden() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(GRACEFUL, 60))
    for after_s in (1, 59, 1000):
        step = vm.look(Phase.RUNNING, after_s=after_s, facts=HANGS)
        assert (step.reason, step.action) == (Reason.HYPERVISOR_BUSY, None)


# --- what comes before a stop begins ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hold", "crowd"])
def test_the_grace_begins_when_the_stop_can_begin(kind: str) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    vm.annotate(holds=(Hold("ann", ""),) if kind == "hold" else ())
    waits = vm.look(Phase.RUNNING, crowded=kind == "crowd")
    assert (waits.action, waits.status.operation) == (None, None)


def test_a_vm_that_somebody_starts_is_stopped_after_its_settle_time() -> None:
    vm = Vm(STOPPED).in_sync()
    first = vm.look(Phase.RUNNING)
    assert (first.reason, first.action, first.status.operation) == (Reason.SETTLING, None, None)
    assert vm.look(Phase.RUNNING, after_s=9.9).action is None
    assert action(vm.look(Phase.RUNNING, after_s=0.2)) is Action.SHUTDOWN


# --- where force is forbidden, or a shutdown is a reboot -------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.SHUTTING_DOWN, *DEAF])
def test_graceful_says_at_the_deadline_that_it_still_runs(phase: Phase) -> None:
    vm = asked(60, GRACEFUL)
    waiting = vm.look(phase, after_s=59.9)
    assert waiting.reason is Reason.SHUTTING_DOWN
    assert waiting.message == course(phase)
    late = vm.look(phase, after_s=0.2)
    assert (late.reason, late.action) == (Reason.SHUTDOWN_TIMED_OUT, None)
    assert late.message == (
        "The VM is still on, because its guest did not shut down by 00:01:00Z. spec.shutdown.mode Graceful does not "
        "allow virtsync to force it off."
    )
    assert vm.look(phase, after_s=10_000).action is None


def test_graceful_says_at_once_that_a_shutdown_would_be_a_reboot() -> None:
    step = Vm(STOPPED, shutdown=Shutdown(GRACEFUL, 60)).look(Phase.RUNNING, facts=REBOOTS)
    assert (step.reason, step.action) == (Reason.SHUTDOWN_TIMED_OUT, None)
    assert step.message == (
        "The VM is still on, because its definition turns every shutdown into a reboot (on_poweroff). "
        "spec.shutdown.mode Graceful does not allow virtsync to force it off."
    )


def test_a_guest_that_would_reboot_is_forced_off_at_the_deadline_unasked() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=60))
    step = vm.look(Phase.RUNNING, after_s=0, facts=REBOOTS)
    assert (step.reason, step.action) == (Reason.SHUTTING_DOWN, None)
    assert (
        step.message
        == "The definition of the VM turns every shutdown into a reboot (on_poweroff), so virtsync does not "
        "ask the guest to shut down. virtsync forces the VM off at 00:01:00Z if it is still on."
    )
    assert step.recheck_s == pytest.approx(60)
    assert vm.look(Phase.RUNNING, after_s=59.9, facts=REBOOTS).action is None
    assert action(vm.look(Phase.RUNNING, after_s=0.2, facts=REBOOTS)) is Action.DESTROY


# --- libvirt refuses to ask the guest ---------------------------------------------------------------------


def calls(vm: Vm, *, until_s: float, accepted_from_s: float) -> list[tuple[int, Action]]:
    """What is called until this time or a forced stop, and when. libvirt refuses each SHUTDOWN before that time."""
    called: list[tuple[int, Action]] = []
    step = vm.look(Phase.RUNNING)
    while vm.at_s < until_s:
        outcome = None
        if step.action:
            kind = action(step)
            assert kind
            called.append((round(vm.at_s), kind))
            if kind is Action.DESTROY:
                break
            outcome = done(kind) if vm.at_s >= accepted_from_s else Outcome(kind, Result.REFUSED, "no")
        step = vm.look(Phase.RUNNING, after_s=0.5, outcome=outcome)
    return called


@pytest.mark.parametrize(("grace_s", "accepted_from_s"), [(60, 33), (180, 154), (600, 316)])
def test_a_guest_is_asked_as_soon_as_libvirt_accepts_that_before_it_is_forced_off(
    grace_s: int, accepted_from_s: int
) -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=grace_s))
    called = calls(vm, until_s=2 * grace_s, accepted_from_s=accepted_from_s)
    accepted = [at_s for at_s, kind in called if kind is Action.SHUTDOWN and at_s >= accepted_from_s]
    assert accepted
    assert accepted[0] <= accepted_from_s + vm.waits.acpi_resend_s + 1
    assert called[-1][1] is Action.DESTROY


def test_a_new_agent_asks_at_once_also_if_the_last_one_was_refused() -> None:
    vm = Vm(STOPPED, shutdown=Shutdown(grace_s=600))
    calls(vm, until_s=585, accepted_from_s=10_000)
    vm.agent_restarts()
    assert calls(vm, until_s=586, accepted_from_s=0) == [(585, Action.SHUTDOWN)]
    at_s, kind = calls(vm, until_s=3000, accepted_from_s=0)[-1]
    assert (kind, at_s <= 620) == (Action.DESTROY, True)


# --- a restart stops as any other ------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "act"), [(FORCE, Action.DESTROY), (GRACEFUL, Action.SHUTDOWN)])
def test_a_restart_stops_the_vm_in_the_manner_of_its_spec(mode: ShutdownMode, act: Action) -> None:
    vm = Vm(shutdown=Shutdown(mode, 60)).in_sync()
    vm.change(restart_request=T0)
    step = vm.look(Phase.RUNNING)
    assert (step.reason, action(step)) == (Reason.RESTARTING, act)
    assert step.status.operation
    assert step.status.operation.type is OperationType.RESTART
    off = vm.look(Phase.STOPPED, outcome=done(act), events={Evidence.SHUTDOWN_GUEST})
    assert action(off) is Action.START


def test_force_says_why() -> None:
    step = Vm(STOPPED, shutdown=Shutdown(FORCE)).look(Phase.RUNNING)
    assert (step.reason, action(step)) == (Reason.SHUTTING_DOWN, Action.DESTROY)
    assert step.message == "The VM is being forced off, as spec.shutdown.mode asks."
    assert step.status.operation
    assert step.status.operation.type is OperationType.STOP

"""What forbids an act that is due, and what asks for patience: in which order, in which words, and until when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.api.virtualmachine import DesiredPowerState, Hold, Reason, RestartPolicy, Shutdown, ShutdownMode
from controller.policy.view import Action, Evidence, Facts, Node, Outcome, Phase, Result
from controller.policy.wording import REQUESTS
from tests.policy.views import CRASH, GUEST, PAUSED, RUNNING, STOPPED, WAITS, Vm, action, domain, done, moment

HANGS = Facts(hangs=True)
JOB = Facts(job="backup")
FORCE = Shutdown(ShutdownMode.FORCE)

# Something that is due at once, for each act there is.
DUE = [
    (RUNNING, Phase.STOPPED, Shutdown(), Action.START),
    (PAUSED, Phase.STOPPED, Shutdown(), Action.START_PAUSED),
    (RUNNING, Phase.PAUSED, Shutdown(), Action.RESUME),
    (RUNNING, Phase.SUSPENDED, Shutdown(), Action.WAKE),
    (PAUSED, Phase.RUNNING, Shutdown(), Action.SUSPEND),
    (STOPPED, Phase.RUNNING, Shutdown(), Action.SHUTDOWN),
    (STOPPED, Phase.RUNNING, FORCE, Action.DESTROY),
]
POLITE = DUE[:-1]


# --- a call that does not return -------------------------------------------------------------------------


@pytest.mark.parametrize(("desired", "phase", "shutdown", "act"), DUE)
def test_what_was_said_of_an_act_holds_for_the_five_seconds_that_libvirt_has_to_answer(
    desired: DesiredPowerState, phase: Phase, shutdown: Shutdown, act: Action
) -> None:
    vm = Vm(desired, shutdown=shutdown)
    first = vm.look(phase)
    assert (action(first), first.recheck_s) == (act, 5.0)
    for after_s, left_s in ((1, 4.0), (3, 1.0), (0.9, 0.1)):
        waiting = vm.look(phase, after_s=after_s, call=act, call_began_s=0.1)
        assert waiting.action is None
        assert (waiting.reason, waiting.message) == (first.reason, first.message)
        assert waiting.recheck_s == pytest.approx(left_s)
    late = vm.look(phase, after_s=0.1, call=act, call_began_s=0.1)
    if act.starts:
        assert (late.reason, late.action) == (Reason.STARTING, None)
        assert late.message == "The VM has been starting since 00:00:00Z, and libvirt has not reported the result yet."
    else:
        assert (late.reason, late.action, late.recheck_s) == (Reason.HYPERVISOR_BUSY, None, 2.0)
        assert late.message == f"libvirt has not answered the last request (to {REQUESTS[act]}) yet."
    later = {Action.SHUTDOWN: Reason.SHUTTING_DOWN, Action.START: Reason.STARTING, Action.START_PAUSED: Reason.STARTING}
    still = vm.look(phase, after_s=3600, call=act, call_began_s=0.1)
    assert still.reason is later.get(act, Reason.HYPERVISOR_BUSY)


def test_a_new_wish_waits_for_the_call_of_the_old_one() -> None:
    vm = Vm(RUNNING)
    assert action(vm.look(Phase.PAUSED)) is Action.RESUME
    vm.change(desired=STOPPED)
    waiting = vm.look(Phase.PAUSED, after_s=1, call=Action.RESUME, call_began_s=0.1)
    assert (waiting.reason, waiting.action) == (Reason.SHUTTING_DOWN, None)
    assert waiting.message == "libvirt has not answered the last request for this VM yet."


@pytest.mark.parametrize("hanging", [act for act in Action if act is not Action.DESTROY])
def test_force_overtakes_a_call_that_hangs_but_not_one_that_may_still_be_answered(hanging: Action) -> None:
    vm = Vm(STOPPED, shutdown=FORCE)
    assert vm.look(Phase.RUNNING, call=hanging).action is None
    assert vm.look(Phase.RUNNING, after_s=4.8, call=hanging, call_began_s=0.1).action is None
    assert action(vm.look(Phase.RUNNING, after_s=0.2, call=hanging, call_began_s=0.1)) is Action.DESTROY


def test_force_is_not_repeated_before_it_has_returned() -> None:
    vm = Vm(STOPPED, shutdown=FORCE)
    assert action(vm.look(Phase.RUNNING)) is Action.DESTROY
    for after_s in (4, 10, 3600):
        assert vm.look(Phase.RUNNING, after_s=after_s, call=Action.DESTROY, call_began_s=0.1).action is None


# --- a QEMU that hangs, a job, a crowd -------------------------------------------------------------------


@pytest.mark.parametrize(("desired", "phase", "shutdown", "act"), POLITE)
def test_nothing_is_asked_of_a_qemu_that_hangs(
    desired: DesiredPowerState, phase: Phase, shutdown: Shutdown, act: Action
) -> None:
    vm = Vm(desired, shutdown=shutdown)
    step = vm.look(phase, facts=HANGS)
    assert (step.reason, step.action, step.recheck_s) == (Reason.HYPERVISOR_BUSY, None, 2.0)
    assert step.message == "The QEMU process of the VM does not answer libvirt."
    assert action(vm.look(phase)) is act


def test_a_qemu_that_hangs_is_forced_off_where_the_user_wants_force() -> None:
    assert action(Vm(STOPPED, shutdown=FORCE).look(Phase.RUNNING, facts=HANGS)) is Action.DESTROY


@pytest.mark.parametrize(("desired", "phase", "shutdown", "act"), DUE)
def test_a_job_is_left_to_end_even_by_force(
    desired: DesiredPowerState, phase: Phase, shutdown: Shutdown, act: Action
) -> None:
    vm = Vm(desired, shutdown=shutdown)
    step = vm.look(phase, facts=JOB)
    assert (step.reason, step.action, step.recheck_s) == (Reason.HYPERVISOR_BUSY, None, 2.0)
    until = "until 00:03:00Z for the job" if desired is STOPPED else "for the job"
    expected = f"A libvirt job (backup) has been working on the VM since 00:00:00Z. virtsync waits {until} to end."
    assert step.message == expected
    assert action(vm.look(phase)) is act


@pytest.mark.parametrize(("desired", "phase", "shutdown", "act"), DUE)
def test_a_libvirt_that_has_too_many_calls_open_gets_no_more_for_a_while(
    desired: DesiredPowerState, phase: Phase, shutdown: Shutdown, act: Action
) -> None:
    vm = Vm(desired, shutdown=shutdown)
    step = vm.look(phase, crowded=True)
    assert (step.reason, step.action, step.recheck_s) == (Reason.HYPERVISOR_BUSY, None, 1.0)
    assert step.message == (
        "virtsync has reached its limit of concurrent requests, because libvirt has not answered them. This VM waits "
        "until libvirt answers one of them."
    )
    assert action(vm.look(phase)) is act


# --- a pause that a restore left behind ------------------------------------------------------------------

RESTORED = {Evidence.STARTED_RESTORED}
LEFT_OVER = domain(Phase.PAUSED_BUSY, reason="MIGRATION")


def test_a_pause_left_over_from_a_restore_is_ended_when_no_job_was_seen_for_a_whole_settle_time() -> None:
    vm = Vm().in_sync()
    assert vm.look(LEFT_OVER, events=RESTORED).reason is Reason.HYPERVISOR_BUSY
    assert vm.look(LEFT_OVER, after_s=899.8, events=RESTORED).action is None
    assert action(vm.look(LEFT_OVER, after_s=0.3, events=RESTORED)) is Action.RESUME


def test_a_job_begins_the_wait_for_a_left_over_pause_anew() -> None:
    vm = Vm(RUNNING)
    assert action(vm.look(LEFT_OVER, events=RESTORED, facts=None)) is Action.RESUME
    assert vm.look(LEFT_OVER, events=RESTORED).reason is Reason.HYPERVISOR_BUSY
    assert vm.look(LEFT_OVER, events=RESTORED, after_s=800, facts=JOB).reason is Reason.HYPERVISOR_BUSY
    assert vm.look(LEFT_OVER, events=RESTORED, after_s=800).reason is Reason.HYPERVISOR_BUSY
    # A look that did not ask for jobs neither starts nor ends the wait.
    vm.look(LEFT_OVER, events=RESTORED, after_s=500, facts=None)
    assert vm.look(LEFT_OVER, events=RESTORED, after_s=399.9).reason is Reason.HYPERVISOR_BUSY
    assert action(vm.look(LEFT_OVER, events=RESTORED, after_s=0.2)) is Action.RESUME


@pytest.mark.parametrize(
    ("reason", "events"),
    [("MIGRATION", set()), ("MIGRATION", GUEST), ("SAVE", RESTORED), ("SNAPSHOT", RESTORED)],
)
def test_any_other_pause_of_a_job_is_never_ended(reason: str, events: set[Evidence]) -> None:
    vm = Vm(RUNNING)
    for after_s in (1, 1000, 10_000):
        step = vm.look(domain(Phase.PAUSED_BUSY, reason=reason), after_s=after_s, events=events)
        assert (step.reason, step.action) == (Reason.HYPERVISOR_BUSY, None)


@pytest.mark.parametrize("facts", [None, Facts()])
@pytest.mark.parametrize("desired", [RUNNING, STOPPED])
@pytest.mark.parametrize("reason", ["SAVE", "MIGRATION"])
def test_a_pause_that_a_failed_job_left_behind_is_no_job_and_has_a_way_out(
    reason: str, desired: DesiredPowerState, facts: Facts | None
) -> None:
    """virtsync does not end it, because it might be the copy of an incoming migration."""
    vm = Vm(desired, shutdown=FORCE)
    for after_s in (0.0, 60.0, 10_000.0):
        step = vm.look(domain(Phase.PAUSED_BUSY, reason=reason), after_s=after_s, facts=facts)
        assert step.action is None
        assert step.message.startswith(f"libvirt has shown the VM paused ({reason}) since 00:00:00Z, as it does during")
        assert "virsh domjobinfo shows no job, end the pause with virsh resume" in step.message


def test_a_left_over_pause_is_left_alone_where_the_settings_leave_all_pauses_alone() -> None:
    vm = Vm(RUNNING)
    vm.waits = replace(WAITS, settle_pause_s=None)
    for after_s in (1, 1000, 10_000):
        assert vm.look(LEFT_OVER, after_s=after_s, events=RESTORED).reason is Reason.HYPERVISOR_BUSY


# --- who comes first -------------------------------------------------------------------------------------


def test_each_obstacle_is_told_before_those_that_come_after_it() -> None:
    """A hold, observe-only, no right to act, a busy libvirt, the settle time, the brake, the backoff, the turn."""
    vm = Vm().in_sync()
    vm.look(Phase.CRASHED_OFF, events=CRASH)
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    vm.annotate(holds=(Hold("ann", "backup"), Hold("bob", "")))
    everything = Node("node-a", "boot-1", observe_only=True, blocked="Another process acts.", braked_until=moment(15))
    vm.node = everything

    def look(facts: Facts = JOB, *, after_s: float = 0.01) -> tuple[Reason, str]:
        step = vm.look(Phase.STOPPED, after_s=after_s, events=GUEST, facts=facts, turn_in_s=7.0)
        assert step.action is None
        recheck_s.append(step.recheck_s)
        return step.reason, step.message

    recheck_s: list[float | None] = []
    should = "The VM is stopped and should be running."
    assert look() == (
        Reason.HELD,
        f"{should} virtsync takes no action while the VM is held by ann (backup), bob.",
    )
    vm.annotate(holds=())
    assert look() == (Reason.OBSERVE_ONLY, f"{should} The agent of this node only observes (--observe-only).")
    vm.node = replace(everything, observe_only=False)
    assert look() == (Reason.ACTION_BLOCKED, "Another process acts.")
    vm.node = replace(vm.node, blocked="")
    assert look()[0] is Reason.HYPERVISOR_BUSY
    settle = (
        f"{should} virtsync waits until 00:00:10Z before correcting this, in case an administrator is working on it."
    )
    assert look(Facts()) == (Reason.SETTLING, settle)
    together = "Several VMs stopped together on node-a, so the host might be shutting down."
    brake = f"{together} virtsync does not start this VM before 00:00:15Z."
    assert look(Facts(), after_s=10) == (Reason.SETTLING, brake)
    vm.node = replace(vm.node, braked_until=None)
    again = "The VM keeps stopping. virtsync starts it again at 00:00:11Z."
    assert look(Facts()) == (Reason.CRASH_LOOP_BACK_OFF, again)
    turn = "The VM waits for its turn, because virtsync starts only a few VMs of a node at a time."
    assert look(Facts(), after_s=10) == (Reason.STARTING, turn)
    assert recheck_s[:4] == [None, None, None, 2.0]
    assert recheck_s[4:] == pytest.approx([9.97, 4.65, 0.64, 7.0])


def test_forced_stops_take_turns_too() -> None:
    step = Vm(STOPPED, shutdown=FORCE).look(Phase.RUNNING, turn_in_s=0.75)
    assert (step.reason, step.action, step.recheck_s) == (Reason.SHUTTING_DOWN, None, 0.75)
    assert step.message == "The VM waits for its turn, because virtsync forces off only a few VMs of a node at a time."


@pytest.mark.parametrize(("desired", "phase", "shutdown", "act"), DUE)
def test_only_starts_are_braked(desired: DesiredPowerState, phase: Phase, shutdown: Shutdown, act: Action) -> None:
    vm = Vm(desired, shutdown=shutdown)
    if act.starts:  # and no change of the spec asks for it
        vm.vm = replace(vm.vm, status=replace(vm.vm.status, desired=desired))
    vm.node = replace(vm.node, braked_until=moment(60))
    assert (vm.look(phase).reason is Reason.SETTLING) == act.starts
    vm.look(phase, after_s=59.8)
    assert vm.look(phase, after_s=0.05).action is None or not act.starts
    assert action(vm.look(phase, after_s=0.1)) is act


@pytest.mark.parametrize(("desired", "phase", "shutdown", "act"), DUE[2:])
def test_no_other_action_is_braked_though_no_change_of_the_spec_asks_for_it(
    desired: DesiredPowerState, phase: Phase, shutdown: Shutdown, act: Action
) -> None:
    vm = Vm(desired, shutdown=shutdown)
    vm.edit(desired=desired)
    vm.node = replace(vm.node, braked_until=moment(60))
    assert action(vm.look(phase)) is act


@pytest.mark.parametrize(("desired", "act"), [(RUNNING, Action.START), (PAUSED, Action.START_PAUSED)])
def test_a_change_of_the_spec_is_not_braked(desired: DesiredPowerState, act: Action) -> None:
    vm = Vm(STOPPED).in_sync()
    vm.node = replace(vm.node, braked_until=moment(60))
    vm.change(desired=desired)
    assert action(vm.look(Phase.STOPPED)) is act


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.SUSPENDED])
def test_a_pause_can_be_left_to_whoever_made_it(phase: Phase) -> None:
    vm = Vm().in_sync()
    vm.waits = replace(WAITS, settle_pause_s=None)
    for after_s in (1, 1000, 100_000):
        step = vm.look(phase, after_s=after_s)
        assert (step.reason, step.action, step.recheck_s) == (Reason.SETTLING, None, None)
        should = f"The VM is {phase.power_state.lower()} and should be running."
        assert step.message == f"{should} virtsync takes no action, because the agent runs with --settle-pause never."


# --- patience after failures -----------------------------------------------------------------------------


def crashed_twice() -> Vm:
    """It runs, and is not to be started again for the next 10 s."""
    vm = Vm().in_sync()
    assert action(vm.look(Phase.CRASHED_OFF, events=CRASH)) is Action.START
    assert vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START)).reason is Reason.IN_SYNC
    return vm


def test_only_a_start_waits_after_crashes() -> None:
    assert crashed_twice().look(Phase.CRASHED_OFF, events=CRASH).reason is Reason.CRASH_LOOP_BACK_OFF
    paused = crashed_twice()
    paused.waits = replace(WAITS, settle_pause_s=0)
    assert action(paused.look(domain(Phase.PAUSED, 2))) is Action.RESUME


def test_an_io_error_is_met_by_resumes_that_back_off() -> None:
    vm = Vm(RUNNING)
    assert action(vm.look(Phase.PAUSED_IO_ERROR)) is Action.RESUME
    for first_s, last_s in ((9, 2), (19, 2), (39, 2)):
        waiting = vm.look(Phase.PAUSED_IO_ERROR, after_s=first_s, outcome=done(Action.RESUME))
        assert (waiting.reason, waiting.action) == (Reason.PAUSED_BY_IO_ERROR, None)
        why = "An I/O error keeps pausing the VM (is its disk full?)."
        assert waiting.message.startswith(f"{why} virtsync tries again at 00:")
        assert waiting.recheck_s is not None
        assert 1 <= waiting.recheck_s <= 2
        assert action(vm.look(Phase.PAUSED_IO_ERROR, after_s=last_s)) is Action.RESUME


def test_any_act_that_libvirt_refuses_is_tried_again_later_in_its_words() -> None:
    vm = Vm(PAUSED)
    assert action(vm.look(Phase.RUNNING)) is Action.SUSPEND
    refused = vm.look(Phase.RUNNING, outcome=Outcome(Action.SUSPEND, Result.REFUSED, "not now"))
    assert (refused.reason, refused.action) == (Reason.ACTION_FAILED, None)
    assert refused.message == "libvirt refused to pause the VM: not now. virtsync tries again at 00:00:10Z."
    assert refused.recheck_s == pytest.approx(10)
    later = vm.look(Phase.RUNNING, after_s=9)
    assert (later.reason, later.message, later.action) == (Reason.ACTION_FAILED, refused.message, None)
    assert later.recheck_s == pytest.approx(1)
    assert action(vm.look(Phase.RUNNING, after_s=1.1)) is Action.SUSPEND


@pytest.mark.parametrize("said", ["no disk", "no file /vm/X"])
@pytest.mark.parametrize("end", ["", ".", "..."])
def test_the_words_of_libvirt_end_with_one_full_stop(said: str, end: str) -> None:
    vm = Vm(PAUSED)
    vm.look(Phase.RUNNING)
    refused = vm.look(Phase.RUNNING, outcome=Outcome(Action.SUSPEND, Result.REFUSED, said + end))
    assert refused.message == f"libvirt refused to pause the VM: {said}. virtsync tries again at 00:00:10Z."


def test_a_new_refusal_within_the_wait_is_told_and_does_not_lengthen_it() -> None:
    vm = Vm(PAUSED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=Outcome(Action.SUSPEND, Result.REFUSED, "not now"))
    again = vm.look(Phase.RUNNING, after_s=4, outcome=Outcome(Action.SUSPEND, Result.REFUSED, "nor now"))
    assert again.message == "libvirt refused to pause the VM: nor now. virtsync tries again at 00:00:10Z."
    assert again.status.backoff
    assert again.status.backoff.failures == 1
    assert action(vm.look(Phase.RUNNING, after_s=6.1)) is Action.SUSPEND


def test_a_refused_start_is_a_failed_start_whether_paused_or_not() -> None:
    for desired, act in ((RUNNING, Action.START), (PAUSED, Action.START_PAUSED)):
        vm = Vm(desired)
        assert action(vm.look(Phase.STOPPED)) is act
        assert vm.look(Phase.STOPPED, outcome=Outcome(act, Result.REFUSED, "no disk")).reason is Reason.START_FAILED


@pytest.mark.parametrize("policy", RestartPolicy)
def test_a_wish_of_the_user_waits_for_no_backoff(policy: RestartPolicy) -> None:
    vm = Vm(PAUSED, restart_policy=policy)
    vm.look(Phase.STOPPED)
    vm.look(Phase.STOPPED, outcome=Outcome(Action.START_PAUSED, Result.REFUSED, "no disk"))
    vm.change(desired=RUNNING)
    assert action(vm.look(Phase.STOPPED)) is Action.START

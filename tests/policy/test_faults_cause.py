"""Faults of what is told about a stop; named after the fault.

libvirt's reasons prove themselves within one boot, because a libvirtd that is started anew forgets them all.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from controller.agent.memories import PassMemories
from controller.api.hypervisor import MaintenanceMode
from controller.api.virtualmachine import (
    DesiredPowerState,
    Hold,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    StopCause,
    VmKey,
)
from controller.policy.decide import decide
from controller.policy.view import (
    Absent,
    Action,
    Conflict,
    Evidence,
    Facts,
    Node,
    Observation,
    Outcome,
    Phase,
    Replaced,
    Result,
    Step,
    Unreadable,
    View,
)
from tests.policy.views import GUEST, RUNNING, STOPPED, T0, UID, Vm, action, domain, done, moment

FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")


def cause(step: Step) -> StopCause | None:
    return step.status.last_stop.cause if step.status.last_stop else None


@pytest.mark.parametrize(
    ("word", "expected"),
    [("SHUTDOWN", StopCause.GUEST), ("DESTROYED", StopCause.EXTERNAL), ("UNKNOWN", StopCause.UNKNOWN)],
)
@pytest.mark.parametrize("new_process", [False, True])
def test_b10_what_libvirt_remembers_is_believed_though_nobody_watched(
    word: str, expected: StopCause, *, new_process: bool
) -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    if new_process:
        vm.agent_restarts()
    assert cause(vm.look(domain(Phase.STOPPED, reason=word), after_s=60)) is expected
    step = vm.look(domain(Phase.STOPPED, reason=word), after_s=11)
    assert (step.reason is Reason.COMPLETED) == (expected is StopCause.GUEST)


@pytest.mark.parametrize("word", ["SHUTDOWN", "DESTROYED", "CRASHED"])
def test_b10_in_another_boot_it_was_the_reboot(word: str) -> None:
    vm = Vm().in_sync()
    vm.node = Node("node-a", "boot-2")
    vm.agent_restarts()
    assert cause(vm.look(domain(Phase.STOPPED, reason=word), after_s=60)) is StopCause.NODE_REBOOT


@pytest.mark.parametrize(
    ("began_s", "expected"), [(-60.0, StopCause.CRASH), (30.0, StopCause.UNKNOWN), (None, StopCause.UNKNOWN)]
)
def test_rule_19_a_crash_is_believed_of_a_libvirtd_that_was_there(began_s: float | None, expected: StopCause) -> None:
    """One that was away shows SHUTOFF/CRASHED of a clean poweroff too."""
    vm = Vm().in_sync()
    vm.node = replace(vm.node, libvirtd_since=None if began_s is None else T0 + timedelta(seconds=began_s))
    assert cause(vm.look(domain(Phase.CRASHED_OFF), after_s=60)) is expected


def test_rule_19_a_start_on_record_is_since_when_it_was_on() -> None:
    """The report says Stopped since long ago; libvirtd was started after that, and before the start."""
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    assert action(vm.look(FORGOTTEN, after_s=60)) is Action.START
    vm.agent_restarts()
    vm.node = replace(vm.node, libvirtd_since=moment(30).wall)
    assert cause(vm.look(domain(Phase.CRASHED_OFF), after_s=60)) is StopCause.CRASH


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (Evidence.STOPPED_MIGRATED, StopCause.MIGRATED),
        (Evidence.STOPPED_CRASHED, StopCause.CRASH),
        (Evidence.STOPPED_FAILED, StopCause.CRASH),
        (Evidence.STOPPED_SAVED, StopCause.SAVED),
        (Evidence.SHUTDOWN_GUEST, StopCause.GUEST),
        (Evidence.SHUTDOWN_HOST, StopCause.EXTERNAL),
        (None, StopCause.UNKNOWN),
    ],
)
def test_a13_a_domain_that_is_gone_is_told_by_its_last_event(evidence: Evidence | None, expected: StopCause) -> None:
    """Migrated with --undefinesource; a transient domain that crashed."""
    vm = Vm().in_sync()
    step = vm.look(Absent(), after_s=60, events={evidence} if evidence else set())
    assert (step.reason, cause(step)) == (Reason.DOMAIN_NOT_FOUND, expected)


@pytest.mark.parametrize("evidence", [None, *(one for one in Evidence if one is not Evidence.STOPPED_MIGRATED)])
def test_a13_a_domain_that_was_off_before_it_was_undefined_keeps_its_cause(evidence: Evidence | None) -> None:
    vm = Vm().in_sync()
    vm.look(domain(Phase.STOPPED), after_s=60)
    assert cause(vm.look(Absent(), after_s=60, events={evidence} if evidence else set())) is StopCause.GUEST


def test_a_domain_that_was_off_and_was_then_started_and_sent_away_is_migrated() -> None:
    """By somebody else, with --undefinesource, between two reports. The cause is reported once."""
    vm = Vm().in_sync()
    vm.look(domain(Phase.STOPPED), after_s=60)
    first = vm.look(Absent(), after_s=60, events={Evidence.STOPPED_MIGRATED}).status.last_stop
    assert first
    assert first.cause is StopCause.MIGRATED
    assert vm.look(Absent(), after_s=60, events={Evidence.STOPPED_MIGRATED}).status.last_stop == first


# --- a stop that virtsync gave up after it had asked the guest ----------------------------------------------------


def asked_and_given_up(how: str) -> Vm:
    """A VM whose guest was asked to shut down, for a maintenance or a restart that then ended or was forbidden."""
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    if how == "held in a restart":
        vm.change(restart_request=T0)
    else:
        vm.maintain(MaintenanceMode.SHUTDOWN)
    step = vm.look(Phase.RUNNING, after_s=11)
    assert action(step) is Action.SHUTDOWN
    assert step.status.domain
    assert step.status.domain.shutdown_request_time
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.maintain({"corrected to Hold": MaintenanceMode.HOLD, "ended": None}.get(how))
    vm.annotate(holds=(Hold("ann", "its disk"),) if "held" in how else ())
    given_up = vm.look(Phase.RUNNING, after_s=2 if how != "ended" else 200)
    assert given_up.status.operation is None
    return vm


@pytest.mark.parametrize("how", ["corrected to Hold", "held", "held in a restart", "ended"])
def test_a_guest_that_obeys_after_its_stop_was_given_up_was_stopped_by_virtsync(how: str) -> None:
    """Otherwise restartPolicy OnFailure would leave a whole host of VMs off after Shutdown, oops, Hold."""
    vm = asked_and_given_up(how)
    assert cause(vm.look(Phase.STOPPED, after_s=5, events={Evidence.SHUTDOWN_GUEST})) is StopCause.AGENT
    vm.look(Phase.STOPPED, after_s=15)
    vm.maintain(None)
    vm.annotate(holds=())
    vm.look(Phase.STOPPED, after_s=15)
    assert action(vm.look(Phase.STOPPED, after_s=15)) is Action.START


def test_a_guest_that_shuts_down_long_after_a_request_does_it_itself() -> None:
    vm = asked_and_given_up("held")
    assert cause(vm.look(Phase.STOPPED, after_s=4000, events={Evidence.SHUTDOWN_GUEST})) is StopCause.GUEST


@pytest.mark.parametrize(
    ("set_back_s", "expected"),
    [(30, StopCause.AGENT), (3600, StopCause.GUEST), (30 * 86400, StopCause.GUEST)],
)
def test_a_request_from_the_future_is_no_request_of_the_last_hour(set_back_s: float, expected: StopCause) -> None:
    """The wall clock was ahead when virtsync asked the guest, and was set right since."""
    vm = asked_and_given_up("held")
    vm.wall_ahead_s = -set_back_s
    assert cause(vm.look(Phase.STOPPED, after_s=1, events={Evidence.SHUTDOWN_GUEST})) is expected


def test_a_request_is_forgotten_with_the_run_to_which_it_was_sent() -> None:
    vm = asked_and_given_up("held")
    record = vm.look(domain(Phase.RUNNING, 2)).status.domain
    assert record
    assert record.shutdown_request_time is None


@pytest.mark.parametrize("meanwhile", ["libvirt is away", "the agent may not act"])
def test_a_stop_that_the_user_recalls_is_no_maintenance(meanwhile: str) -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    seen: Observation | Phase = Phase.RUNNING
    if meanwhile == "libvirt is away":
        seen = Unreadable("gone")
    else:
        vm.node = replace(vm.node, blocked="no Lease")
    vm.change(desired=RUNNING)
    vm.look(seen)
    vm.node = replace(vm.node, blocked="")
    step = vm.look(Phase.RUNNING)
    assert step.reason is Reason.RESTARTING
    assert "maintenance" not in step.message
    assert "HoldReleased" not in {str(notice.reason) for notice in step.notices}


# --- what happened while the API server was away ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "events"),
    [
        (domain(Phase.CRASHED_OFF), {Evidence.STOPPED_CRASHED}),
        (domain(Phase.SAVED), set()),
        (domain(Phase.STOPPED, reason="MIGRATED"), set()),
        (Absent(), {Evidence.STOPPED_CRASHED}),
    ],
    ids=["crashed", "saved", "migrated", "gone"],
)
def test_a_stop_that_could_not_be_reported_keeps_its_time(seen: Observation, events: set[Evidence]) -> None:
    vm = Vm().in_sync()
    vm.look_unreported(seen, after_s=60, events=events)
    first = moment(vm.at_s).to_api()
    for after_s in (60, 600):
        vm.look_unreported(seen, after_s=after_s, events=events)
    status = vm.look(seen, after_s=60, events=events).status
    assert status.last_stop
    assert status.last_stop.time == first
    if not isinstance(seen, Absent):
        assert status.power_state_transition_time == first


def test_a_run_that_could_not_be_reported_has_its_own_stop() -> None:
    """A finished job is started by hand, and crashes, while the API server is away."""
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    for after_s in (10, 20):
        vm.look(Phase.STOPPED, after_s=after_s, events={Evidence.SHUTDOWN_GUEST})
    assert vm.vm.status.completion_time
    vm.look_unreported(Phase.RUNNING)
    vm.look_unreported(Phase.CRASHED_OFF, after_s=600, events={Evidence.STOPPED_CRASHED})
    crashed = moment(vm.at_s).to_api()
    step = vm.look(Phase.CRASHED_OFF, after_s=60, events={Evidence.STOPPED_CRASHED})
    assert (cause(step), action(step)) == (StopCause.CRASH, Action.START)
    assert step.status.last_stop
    assert step.status.last_stop.time == crashed


# --- what keeps its cause -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("desired", [None, STOPPED])
def test_a_reboot_weeks_later_is_not_why_a_vm_is_off(desired: DesiredPowerState | None) -> None:
    vm = Vm(None).in_sync()
    assert cause(vm.look(domain(Phase.STOPPED, reason="SHUTDOWN"))) is StopCause.GUEST
    vm.change(desired=desired)
    vm.look(domain(Phase.STOPPED, reason="SHUTDOWN"), after_s=14 * 86400)
    vm.agent_restarts()
    vm.node = Node("node-a", "boot-2")
    assert cause(vm.look(FORGOTTEN, after_s=60)) is StopCause.GUEST


@pytest.mark.parametrize("seen", [Conflict(VmKey("default", "older"), UID), Absent()], ids=["conflict", "absent"])
def test_a_job_that_is_done_is_not_run_again_because_its_domain_was_not_there(seen: Observation) -> None:
    """An older object takes the domain by mistake; /etc/libvirt is mounted late."""
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    for after_s in (5, 15):
        vm.look(Phase.STOPPED, after_s=after_s, events={Evidence.SHUTDOWN_GUEST})
    vm.look(seen, after_s=3600)
    step = vm.look(Phase.STOPPED, after_s=5)
    assert (step.reason, action(step)) == (Reason.COMPLETED, None)


def test_a_start_is_never_the_agents_stop() -> None:
    """Rule 1: what was started and went off was stopped by somebody else."""
    vm = Vm()
    assert action(vm.look(FORGOTTEN)) is Action.START
    vm.agent_restarts()
    assert cause(vm.look(domain(Phase.STOPPED, reason="DESTROYED"), after_s=60)) is StopCause.EXTERNAL


# --- a domain that libvirt no longer had, and that is defined again  ---


@pytest.mark.parametrize("agent_restarts", [True, False])
@pytest.mark.parametrize(
    ("events", "expected", "reason"),
    [
        ({Evidence.STOPPED_MIGRATED}, StopCause.MIGRATED, Reason.MIGRATED_AWAY),
        ({Evidence.STOPPED_SAVED}, StopCause.SAVED, Reason.SAVED_ELSEWHERE),
    ],
)
def test_a_vm_that_left_and_is_defined_again_has_not_run_here_since(
    events: set[Evidence], expected: StopCause, reason: Reason, *, agent_restarts: bool
) -> None:
    """`virsh migrate --undefinesource`, then somebody defines it on the source again: it runs on the other host."""
    vm = Vm().in_sync()
    step = vm.look(Absent(), after_s=60, events=events)
    assert (step.reason, cause(step)) == (Reason.DOMAIN_NOT_FOUND, expected)
    if agent_restarts:
        vm.agent_restarts()
    step = vm.look(FORGOTTEN, after_s=600)
    assert (action(step), step.reason, cause(step)) == (None, reason, expected)


def test_a_vm_that_left_is_known_to_have_left_although_that_could_not_be_reported() -> None:
    vm = Vm().in_sync()
    vm.look_unreported(Absent(), after_s=60, events={Evidence.STOPPED_MIGRATED})
    step = vm.look(FORGOTTEN, after_s=600)
    assert (action(step), step.reason, cause(step)) == (None, Reason.MIGRATED_AWAY, StopCause.MIGRATED)


def test_a_vm_that_left_during_an_outage_is_known_to_have_left_although_it_was_defined_and_undefined() -> None:
    """Definitions discard libvirt's events about the domain."""
    vm = Vm().in_sync()
    vm.look_unreported(Absent(), after_s=60, events={Evidence.STOPPED_MIGRATED})
    assert cause(vm.look(Absent(), after_s=60)) is StopCause.MIGRATED
    assert action(vm.look(FORGOTTEN, after_s=600)) is None


def test_a_vm_that_left_is_known_to_have_left_although_another_domain_has_its_name() -> None:
    vm = Vm().in_sync()
    vm.look(Replaced(UUID(int=9), "web"), after_s=60, events={Evidence.STOPPED_MIGRATED})
    step = vm.look(FORGOTTEN, after_s=600)
    assert (action(step), cause(step)) == (None, StopCause.MIGRATED)


@pytest.mark.parametrize("agent_restarts", [True, False])
def test_a_guest_that_powered_off_keeps_its_cause_when_it_is_defined_again(*, agent_restarts: bool) -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    vm.look(Absent(), after_s=60, events=GUEST)
    if agent_restarts:
        vm.agent_restarts()
    assert cause(vm.look(FORGOTTEN, after_s=600)) is StopCause.GUEST


def test_a_run_that_was_never_reported_is_the_last_stop_of_a_domain_that_is_gone() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, after_s=60, events=GUEST)
    vm.look(Phase.STOPPED, after_s=60, events=GUEST)
    vm.look_unreported(domain(Phase.RUNNING, 2), after_s=60)
    vm.look_unreported(Absent(), after_s=60, events={Evidence.STOPPED_FAILED})
    step = vm.look(Absent(), after_s=60)
    assert cause(step) is StopCause.CRASH
    assert step.status.completion_time is None


def test_a_domain_that_was_gone_in_between_runs_since_it_is_back() -> None:
    vm = Vm().in_sync()
    vm.look(Absent(), after_s=60)
    step = vm.look(domain(Phase.RUNNING, 2), after_s=600)
    assert step.status.power_state_transition_time == moment(vm.at_s).to_api()


# --- a shutdown request that was recorded and never sent -------------------------------------------------------------


@pytest.mark.parametrize("result", [None, Result.NOT_CALLED, Result.UNSENT, Result.REFUSED])
def test_a_shutdown_that_was_never_sent_is_not_the_cause_of_a_later_stop(result: Result | None) -> None:
    """The user changes their mind between the report and the call."""
    outcome = Outcome(Action.SHUTDOWN, result) if result else None
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    vm.change(desired=RUNNING)
    assert vm.look(Phase.RUNNING, outcome=outcome).reason is Reason.IN_SYNC
    step = vm.look(Phase.STOPPED, after_s=1200, events=GUEST)
    assert cause(step) is StopCause.GUEST


@pytest.mark.parametrize("result", [Result.REFUSED, Result.UNSENT])
def test_a_shutdown_that_no_guest_received_is_not_the_cause_of_its_own_poweroff(result: Result) -> None:
    """libvirt refuses it, or cannot be asked, again and again. Then the user recalls the stop."""
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE, shutdown=Shutdown(ShutdownMode.GRACEFUL, 60)).in_sync()
    vm.change(desired=STOPPED)
    for after_s in (0.1, 11, 21):
        step = vm.look(Phase.RUNNING, after_s=after_s)
        assert action(step) is Action.SHUTDOWN
        step = vm.look(Phase.RUNNING, outcome=Outcome(Action.SHUTDOWN, result, "access denied"))
        assert step.status.domain
        assert step.status.domain.shutdown_request_time is None
    vm.change(desired=RUNNING)
    assert "cannot be canceled" not in vm.look(Phase.RUNNING).message
    assert vm.look(Phase.RUNNING, after_s=61).reason is Reason.IN_SYNC
    assert cause(vm.look(Phase.STOPPED, after_s=600, events=GUEST)) is StopCause.GUEST


def test_a_refused_press_does_not_undo_the_one_before_it() -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    assert action(vm.look(Phase.RUNNING, after_s=11)) is Action.SHUTDOWN
    vm.look(Phase.RUNNING, outcome=Outcome(Action.SHUTDOWN, Result.REFUSED, "no"))
    vm.annotate(holds=(Hold("ann", ""),))
    assert vm.look(Phase.RUNNING).status.operation is None
    assert cause(vm.look(Phase.STOPPED, after_s=60, events=GUEST)) is StopCause.AGENT


@pytest.mark.parametrize("policy", [RestartPolicy.NEVER, RestartPolicy.ON_FAILURE])
def test_a_shutdown_that_a_forced_stop_has_overtaken_was_sent(policy: RestartPolicy) -> None:
    """It hangs in libvirt. The user recalls the stop, and both calls end before the next look."""
    vm = Vm(shutdown=Shutdown(grace_s=60), restart_policy=policy).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    began_s = vm.at_s
    hangs = Facts(hangs=True)
    step = vm.look(Phase.RUNNING, after_s=61, call=Action.SHUTDOWN, call_began_s=began_s, facts=hangs)
    assert action(step) is Action.DESTROY
    vm.change(desired=RUNNING)
    step = vm.look(domain(Phase.STOPPED, reason="DESTROYED"), outcome=done(Action.DESTROY))
    assert (cause(step), action(step)) == (StopCause.AGENT, Action.START)


@pytest.mark.parametrize("result", [Result.DONE, Result.UNKNOWN])
def test_a_shutdown_that_was_sent_is_the_cause_of_a_later_stop(result: Result) -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Unreadable("not connected"), outcome=Outcome(Action.SHUTDOWN, result))
    vm.change(desired=RUNNING)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, after_s=200)
    step = vm.look(Phase.STOPPED, after_s=1200, events=GUEST)
    assert cause(step) is StopCause.AGENT


def test_a_refused_shutdown_is_no_cause_also_if_the_report_of_the_refusal_conflicts() -> None:
    """The user recalls the stop while the agent reports."""
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE, shutdown=Shutdown(ShutdownMode.GRACEFUL, 60)).in_sync()
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN
    memories, refused = PassMemories(), Outcome(Action.SHUTDOWN, Result.REFUSED, "no")
    view = View(vm.vm, domain(Phase.RUNNING), vm.node, moment(vm.at_s), replace(vm.memory, outcome=refused))
    memories.remember_unreported(view, decide(view, vm.waits))
    vm.memory = memories.of(vm.vm.key)
    vm.change(desired=RUNNING)
    step = vm.look(Phase.RUNNING)
    assert step.reason is Reason.IN_SYNC
    assert step.status.domain
    assert step.status.domain.shutdown_request_time is None
    off = vm.look(Phase.STOPPED, after_s=600, events=GUEST).status.last_stop
    assert off
    assert off.cause is StopCause.GUEST


def test_a_request_that_libvirt_accepts_after_an_hour_is_the_cause_of_the_stop() -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE, shutdown=Shutdown(ShutdownMode.GRACEFUL, 60)).in_sync()
    vm.change(desired=STOPPED)
    step, outcome = vm.look(Phase.RUNNING), None
    while vm.at_s < 4000 or not step.action:
        outcome = Outcome(Action.SHUTDOWN, Result.REFUSED, "no") if step.action else None
        step = vm.look(Phase.RUNNING, after_s=1, outcome=outcome)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.annotate(holds=(Hold("ann", ""),))
    assert vm.look(Phase.RUNNING).status.operation is None
    off = vm.look(Phase.STOPPED, after_s=20, events=GUEST).status.last_stop
    assert off
    assert off.cause is StopCause.AGENT

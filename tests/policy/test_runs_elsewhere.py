"""The manager has observed the VM's domain on another host: it is not started here. What runs here is left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import DesiredPowerState, Reason, RestartPolicy, Shutdown, ShutdownMode
from controller.policy.view import Absent, Action, Observation, Phase, Replaced, Step, Unreadable
from tests.policy.views import GUEST, PAUSED, RUNNING, STOPPED, T0, UID, Vm, action, domain, done

FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
SINCE = T0 + timedelta(hours=8, minutes=20, seconds=13)
THERE = RunsElsewhere(UID, "node-b", SINCE)
CONFIRMED = "node-b 2026-01-01T08:20:13Z"


def notices(step: Step) -> list[str]:
    return [notice.reason for notice in step.notices]


def elsewhere(vm: Vm, there: RunsElsewhere | None = THERE, *more: RunsElsewhere) -> Vm:
    vm.elsewhere = (there, *more) if there else ()
    return vm


@pytest.mark.parametrize("desired", DesiredPowerState)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.off])
@pytest.mark.parametrize("policy", RestartPolicy)
def test_a_vm_that_is_off_here_is_not_started(desired: DesiredPowerState, phase: Phase, policy: RestartPolicy) -> None:
    vm = elsewhere(Vm(desired, restart_policy=policy))
    for after_s in (0.1, 60, 3600):
        step = vm.look(phase, after_s=after_s, events=GUEST)
        assert (step.reason, step.action, step.status.completion_time) == (Reason.RUNS_ELSEWHERE, None, None)
    assert READINESS[step.reason] is Readiness.STALLED
    assert {c.type: c.status for c in step.status.conditions} == {"Ready": "False", "Stalled": "True"}


def test_the_message_says_where_it_runs_and_what_to_do() -> None:
    assert elsewhere(Vm()).look(Phase.STOPPED).message == (
        "The VM runs on node-b (observed since 2026-01-01T08:20:13Z), so virtsync does not start it on node-a. Set "
        "spec.nodeName to node-b, or stop the VM there. If node-b is lost and you are sure that the VM is off, confirm "
        "it: kubectl annotate kvm -n default web --overwrite virtsync.dev/confirmed-off='node-b 2026-01-01T08:20:13Z'"
    )


def test_it_is_one_event_when_it_begins() -> None:
    vm = elsewhere(Vm().in_sync())
    assert notices(vm.look(Phase.STOPPED, events=GUEST)) == ["StoppedUnexpectedly", "RunsElsewhere"]
    vm.is_marked()
    vm.agent_restarts()
    assert not vm.look(Phase.STOPPED, events=GUEST).notices


def test_a_vm_that_is_only_observed_is_only_observed() -> None:
    assert elsewhere(Vm(None)).look(Phase.STOPPED).reason is Reason.OBSERVED


def test_a_completed_vm_that_runs_elsewhere_says_so() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=11, events=GUEST).reason is Reason.COMPLETED
    assert elsewhere(vm).look(Phase.STOPPED, events=GUEST).reason is Reason.RUNS_ELSEWHERE
    assert elsewhere(vm, None).look(Phase.STOPPED, after_s=60, events=GUEST).reason is Reason.COMPLETED


def test_the_second_half_of_a_restart_is_not_begun() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(restart_request=T0)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    step = elsewhere(vm).look(Phase.STOPPED, events=GUEST)
    assert (step.reason, step.action) == (Reason.RUNS_ELSEWHERE, None)


def test_a_start_that_a_dead_agent_left_over_is_not_made_again() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    vm.agent_restarts()
    elsewhere(vm)
    assert vm.look(Phase.STOPPED, after_s=1).reason is Reason.STARTING
    step = vm.look(Phase.STOPPED, after_s=10)
    assert (step.reason, step.action, step.status.operation) == (Reason.RUNS_ELSEWHERE, None, None)


def test_a_start_that_was_recorded_and_not_called_is_withdrawn() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    step = elsewhere(vm).look(Phase.STOPPED)
    assert (step.reason, step.action, step.status.operation) == (Reason.RUNS_ELSEWHERE, None, None)


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("how", ["gone", "confirmed"])
def test_it_is_started_after_the_settle_time_when_it_is_gone_there(how: str, *, restarted: bool) -> None:
    vm = elsewhere(Vm(STOPPED).in_sync())
    vm.change(desired=RUNNING)
    step = vm.look(FORGOTTEN, after_s=60)
    assert (step.reason, step.status.desired) == (Reason.RUNS_ELSEWHERE, STOPPED)
    if how == "gone":
        elsewhere(vm, None)
    else:
        vm.annotate(confirmed_off=CONFIRMED)
    if restarted:
        vm.agent_restarts()
    ended = vm.look(FORGOTTEN, after_s=3600)
    assert (ended.reason, ended.action, notices(ended)) == (Reason.SETTLING, None, ["HoldReleased"])
    assert ended.recheck_s == pytest.approx(10)
    assert action(vm.look(FORGOTTEN, after_s=10)) is Action.START


@pytest.mark.parametrize(
    "confirmed", ["node-b", "node-a 2026-01-01T08:20:13Z", "node-b 2026-01-01T08:20:14Z", "", f"{CONFIRMED} "]
)
def test_only_this_very_entry_can_be_confirmed(confirmed: str) -> None:
    vm = elsewhere(Vm(confirmed_off=confirmed))
    assert vm.look(FORGOTTEN).reason is Reason.RUNS_ELSEWHERE


def test_a_later_entry_is_not_confirmed_by_an_old_annotation() -> None:
    vm = elsewhere(Vm(confirmed_off=CONFIRMED))
    assert action(vm.look(FORGOTTEN)) is Action.START
    vm = elsewhere(Vm(confirmed_off=CONFIRMED), replace(THERE, since=SINCE + timedelta(seconds=1)))
    assert vm.look(FORGOTTEN).reason is Reason.RUNS_ELSEWHERE


def test_an_annotation_confirms_only_one_of_two_hosts() -> None:
    third = replace(THERE, node_name="node-c")
    for entries in [(THERE, third), (third, THERE)]:
        vm = elsewhere(Vm(confirmed_off=CONFIRMED), *entries)
        step = vm.look(FORGOTTEN)
        assert (step.reason, step.action) == (Reason.RUNS_ELSEWHERE, None)
        assert step.message.startswith("The VM runs on node-c ")


def test_the_spec_off_is_in_sync_again_when_it_is_gone_there() -> None:
    vm = elsewhere(Vm(STOPPED))
    assert vm.look(FORGOTTEN).reason is Reason.RUNS_ELSEWHERE
    assert elsewhere(vm, None).look(FORGOTTEN).reason is Reason.IN_SYNC


# --- what runs here ------------------------------------------------------------------------------------------------

STANDING_STILL = [Phase.PAUSED, Phase.PAUSED_IO_ERROR, Phase.SUSPENDED]
CANNOT_BE_ASKED = Phase.PAUSED_IO_ERROR
"""A stop does not resume such a VM: it is forced off after its grace period."""
ON = [phase for phase in Phase if phase.on]


@pytest.mark.parametrize(
    ("desired", "phase"),
    [(desired, phase) for desired in (RUNNING, STOPPED) for phase in STANDING_STILL if phase is not CANNOT_BE_ASKED]
    + [(RUNNING, CANNOT_BE_ASKED)],
)
def test_what_stands_still_here_is_not_made_to_run(desired: DesiredPowerState, phase: Phase) -> None:
    vm = elsewhere(Vm(desired, restart_policy=RestartPolicy.ALWAYS).in_sync())
    for after_s in (0.1, 60, 3600, 3600):
        step = vm.look(phase, after_s=after_s)
        assert step.action is None
        assert "HoldReleased" not in notices(step)
    assert step.reason is Reason.RUNS_ELSEWHERE
    how = "wake it up" if phase is Phase.SUSPENDED else "resume it"
    assert step.message.startswith("The VM runs on node-b (observed since 2026-01-01T08:20:13Z), so virtsync does not ")
    assert f" not {how} on node-a. Set spec.nodeName to node-b" in step.message
    vm.annotate(confirmed_off=CONFIRMED)
    actions = [action(vm.look(phase, after_s=after_s)) for after_s in (0.1, 1000)]
    assert actions[-1] is (Action.WAKE if phase is Phase.SUSPENDED else Action.RESUME)


@pytest.mark.parametrize("phase", STANDING_STILL)
def test_what_stands_still_here_can_be_forced_off(phase: Phase) -> None:
    vm = elsewhere(Vm(shutdown=Shutdown(mode=ShutdownMode.FORCE)).in_sync())
    vm.change(desired=STOPPED)
    assert action(vm.look(phase, after_s=60)) is Action.DESTROY


@pytest.mark.parametrize("desired", [None, *DesiredPowerState])
@pytest.mark.parametrize("phase", [phase for phase in ON if phase not in STANDING_STILL])
def test_what_is_on_here_is_decided_as_without_it(desired: DesiredPowerState | None, phase: Phase) -> None:
    steps = []
    for there in (None, THERE):
        vm = elsewhere(Vm(desired), there)
        for after_s in (0.1, 60, 3600):
            step = vm.look(phase, after_s=after_s)
        steps.append(replace(step, memory=replace(step.memory, doubled=None), notices=()))
    assert steps[0] == steps[1]


def test_it_is_one_event_when_it_runs_on_both() -> None:
    vm = elsewhere(Vm().in_sync())
    step = vm.look(Phase.RUNNING)
    assert [(notice.reason, notice.warning) for notice in step.notices] == [("DomainConflict", True)]
    assert step.notices[0].note == (
        "The VM runs on node-a and, since 2026-01-01T08:20:13Z, also on node-b, so two QEMU processes might write to "
        "its disks. Stop one of the two."
    )
    assert not vm.look(Phase.RUNNING, after_s=60).notices
    vm.look(Unreadable("away"))
    assert not vm.look(Phase.RUNNING, after_s=60).notices
    elsewhere(vm, None)
    assert not vm.look(Phase.RUNNING).notices
    assert notices(elsewhere(vm).look(Phase.RUNNING)) == ["DomainConflict"]
    later = replace(THERE, since=SINCE + timedelta(seconds=1))
    assert notices(elsewhere(vm, later).look(Phase.RUNNING)) == ["DomainConflict"]


def test_what_was_confirmed_is_no_conflict() -> None:
    assert not elsewhere(Vm(confirmed_off=CONFIRMED)).look(Phase.RUNNING).notices


@pytest.mark.parametrize(
    "incoming",
    [domain(Phase.STARTING), replace(domain(Phase.PAUSED_BUSY), reason="MIGRATION")],
    ids=["starts", "waits"],
)
def test_a_migration_that_arrives_is_no_conflict(incoming: Observation) -> None:
    vm = elsewhere(Vm())
    assert "DomainConflict" not in notices(vm.look(incoming))
    assert notices(vm.look(domain(Phase.RUNNING))) == ["DomainConflict"]


def test_a_maintenance_stops_what_runs_here_all_the_same() -> None:
    vm = elsewhere(Vm().in_sync())
    vm.maintain(MaintenanceMode.SHUTDOWN)
    assert action(vm.look(Phase.RUNNING, after_s=60)) is Action.SHUTDOWN
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.RUNS_ELSEWHERE


# --- other rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "reason"),
    [(Absent(), Reason.DOMAIN_NOT_FOUND), (Unreadable("away"), Reason.LIBVIRT_UNREACHABLE)],
    ids=["absent", "unreadable"],
)
def test_what_is_not_here_is_told_as_ever(seen: Observation, reason: Reason) -> None:
    step = elsewhere(Vm().in_sync()).look(seen)
    assert (step.reason, step.action) == (reason, None)


def test_a_domain_that_is_not_here_is_told_with_where_it_runs() -> None:
    vm = elsewhere(Vm().in_sync())
    assert vm.look(Absent()).message == (
        "libvirt on node-a has no domain 'web'. It runs on node-b: set spec.nodeName to node-b."
    )
    assert "node-b" not in vm.look(Replaced(UID, "web")).message


def test_a_report_that_it_runs_elsewhere_permits_no_start_on_a_third_host() -> None:
    vm = elsewhere(Vm(STOPPED))
    assert vm.look(FORGOTTEN).reason is Reason.RUNS_ELSEWHERE
    elsewhere(vm, None).moves_to("node-c", desired=RUNNING)
    step = vm.look(FORGOTTEN)
    assert (step.reason, step.action) == (Reason.HANDOVER_UNCONFIRMED, None)
    assert "as Stopped. But the VM ran on another host then." in step.message


def test_nor_does_it_hinder_the_host_on_which_it_runs() -> None:
    vm = elsewhere(Vm())
    assert vm.look(FORGOTTEN).reason is Reason.RUNS_ELSEWHERE
    elsewhere(vm, None).moves_to("node-b")
    assert vm.look(domain(Phase.RUNNING, 5)).reason is Reason.IN_SYNC


def test_paused_as_wanted_is_not_started_paused() -> None:
    step = elsewhere(Vm(PAUSED)).look(FORGOTTEN)
    assert (step.reason, step.action) == (Reason.RUNS_ELSEWHERE, None)

"""How far a requested change is, from the report of the agent."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.api.changes import left_alone
from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import Hypervisor, HypervisorStatus, Maintenance, MaintenanceMode, MaintenanceProgress
from controller.api.progress import Stage, of_begun_maintenance, of_ended_maintenance, of_power, of_restart
from controller.api.virtualmachine import Condition, DesiredPowerState, Hold, Reason, Status, VirtualMachine, VmKey

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
RUNNING = DesiredPowerState.RUNNING
LEFT_ALONE = [Reason.COMPLETED, Reason.FAILED, Reason.SUSPENDED_BY_GUEST]
MAINTENANCE = Maintenance(MaintenanceMode.SHUTDOWN, "new RAM")


def condition(reason: str, status: str, kind: str = "Ready", generation: int = 2) -> Condition:
    return Condition(kind, status, reason, "So it is.", NOW, generation)


def vm(reason: Reason = Reason.IN_SYNC, *, observed: int = 2, last: datetime | None = None) -> VirtualMachine:
    conditions = (condition(reason, READINESS[reason].value[0]),)
    status = Status(observed_generation=observed, conditions=conditions, last_restart_time=last)
    return VirtualMachine(VmKey("shop", "web-1"), "u", 2, "7", NOW, "node-a", desired=RUNNING, status=status)


def host(*conditions: Condition, observed: int = 2, declared: bool = True, obeyed: bool = True) -> Hypervisor:
    progress = MaintenanceProgress(NOW, 0) if obeyed else None
    status = HypervisorStatus(observed_generation=observed, conditions=conditions, maintenance=progress)
    return Hypervisor("node-a", "u", 2, "7", NOW, maintenance=MAINTENANCE if declared else None, status=status)


@pytest.mark.parametrize("reason", list(Reason))
def test_ready_is_done_and_what_lasts_has_failed(reason: Reason) -> None:
    expected = {Readiness.READY: Stage.DONE, Readiness.STALLED: Stage.FAILED, Readiness.HELD: Stage.FAILED}
    held = replace(vm(reason), holds=(Hold("ann", "backup"),), restart_request=NOW)
    progress = of_restart(replace(held, status=replace(held.status, last_restart_time=NOW)), 2, NOW)
    assert progress.stage is expected.get(READINESS[reason], Stage.WAITING)
    assert progress.said == f"{reason}: So it is"
    if reason not in LEFT_ALONE:
        assert of_power(held, 2, RUNNING) == progress


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_a_vm_that_the_restart_policy_leaves_in_another_state_is_not_as_requested(reason: Reason) -> None:
    progress = of_power(vm(reason), 2, RUNNING)
    assert (progress.stage, progress.said) == (Stage.FAILED, left_alone(vm(reason)))
    assert of_power(vm(reason, observed=1), 2, RUNNING).stage is Stage.WAITING, "the agent may act on the newer spec"


def test_a_report_of_a_hold_that_is_released_is_not_an_answer() -> None:
    assert of_power(vm(Reason.HELD), 2, RUNNING).stage is Stage.WAITING


def test_a_report_on_an_older_spec_is_not_an_answer() -> None:
    progress = of_power(vm(observed=1), 2, RUNNING)
    assert (progress.stage, progress.said) == (Stage.WAITING, "the agent of node-a has not answered it")


def test_a_reason_of_a_newer_version_is_waited_for() -> None:
    newer = replace(vm(), status=Status(observed_generation=2, conditions=(condition("Dreaming", "False"),)))
    assert of_power(newer, 2, RUNNING).stage is Stage.WAITING


def test_a_change_that_was_undone_has_failed() -> None:
    progress = of_power(vm(), 2, DesiredPowerState.STOPPED)
    assert (progress.stage, progress.said) == (Stage.FAILED, "somebody has changed powerState to Running")


def test_a_vm_without_a_node_is_not_waited_for() -> None:
    assert of_power(replace(vm(), node_name=""), 2, RUNNING).stage is Stage.FAILED


def test_a_restart_is_done_when_the_vm_is_ready_after_it() -> None:
    waiting = replace(vm(), restart_request=NOW)
    assert of_restart(waiting, 2, NOW).stage is Stage.WAITING
    assert of_restart(replace(vm(Reason.RESTARTING, last=NOW), restart_request=NOW), 2, NOW).stage is Stage.WAITING
    assert of_restart(replace(vm(last=NOW), restart_request=NOW), 2, NOW).stage is Stage.DONE


@pytest.mark.parametrize("request_now", [None, NOW - timedelta(seconds=1)])
def test_a_request_that_was_removed_in_time_has_failed(request_now: datetime | None) -> None:
    assert of_restart(replace(vm(), restart_request=request_now), 2, NOW).stage is Stage.FAILED
    assert of_restart(replace(vm(last=NOW), restart_request=request_now), 2, NOW).stage is Stage.DONE


def test_a_maintenance_has_begun_when_the_host_is_quiet() -> None:
    quiet = condition("Quiet", "True", "Quiesced")
    assert of_begun_maintenance(host(quiet), 2).stage is Stage.DONE
    assert of_begun_maintenance(host(condition("DomainsRunning", "False", "Quiesced")), 2).stage is Stage.WAITING
    assert of_begun_maintenance(host(), 2).stage is Stage.WAITING
    assert of_begun_maintenance(host(declared=False), 2).stage is Stage.FAILED


def test_a_host_that_was_quiet_under_an_older_declaration_is_not_quiet() -> None:
    older = condition("Quiet", "True", "Quiesced", generation=1)
    assert of_begun_maintenance(host(older, observed=1), 2).stage is Stage.WAITING
    assert of_begun_maintenance(host(older), 2).stage is Stage.WAITING


def test_a_host_whose_agent_is_silent_says_so() -> None:
    silent = host(condition("AgentUnreachable", "Unknown"), observed=1)
    assert "AgentUnreachable: So it is" in of_begun_maintenance(silent, 2).said


def test_a_host_whose_agent_is_silent_is_not_quiet_because_it_was() -> None:
    """Somebody can have started a domain since the last report."""
    silent = of_begun_maintenance(
        host(condition("AgentUnreachable", "Unknown"), condition("Quiet", "True", "Quiesced")), 2
    )
    assert silent.stage is Stage.WAITING
    assert "AgentUnreachable: So it is" in silent.said


def test_a_maintenance_has_ended_when_the_agent_has_acknowledged_it() -> None:
    assert of_ended_maintenance(host(declared=False, obeyed=False), 2).stage is Stage.DONE
    assert of_ended_maintenance(host(declared=False, obeyed=True), 2).stage is Stage.WAITING
    assert of_ended_maintenance(host(declared=False, obeyed=False, observed=1), 2).stage is Stage.WAITING
    assert of_ended_maintenance(host(), 2).stage is Stage.FAILED

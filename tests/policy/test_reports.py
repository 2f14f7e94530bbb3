"""What a decision takes over from the last report, and the texts that depend on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from controller.api.virtualmachine import BEYOND, Hold, Reason, RestartPolicy, StopCause
from controller.policy.assess import assess
from controller.policy.gates import DueAction, libvirt_busy
from controller.policy.view import (
    Absent,
    Action,
    Domain,
    Evidence,
    Facts,
    Node,
    Outcome,
    Phase,
    Result,
    Unreadable,
    View,
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
    moment,
)

OTHER = UUID(int=8)


def completed() -> Vm:
    """A VM that its guest has powered off, and that its restartPolicy leaves off. The report shows the completion."""
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    step = vm.look(Phase.STOPPED, events=GUEST, after_s=10)
    assert (step.reason, step.status.completion_time) == (Reason.COMPLETED, moment(vm.at_s).to_api())
    return vm


@pytest.mark.parametrize("spec", [{"domain_uuid": UID}, {"domain_name": "web"}, {}])
def test_a_report_stays_valid_if_the_spec_names_the_same_domain_in_another_way(spec: dict[str, object]) -> None:
    vm = completed()
    vm.change(**spec)
    step = vm.look(Phase.STOPPED)
    assert (step.reason, step.action) == (Reason.COMPLETED, None)
    assert step.status.completion_time is not None


def test_a_report_stays_valid_if_the_spec_names_a_domain_by_its_name_and_no_longer_by_its_uuid() -> None:
    vm = completed()
    vm.change(domain_uuid=UID)
    vm.look(Phase.STOPPED)
    vm.change(domain_uuid=None)
    assert vm.look(Phase.STOPPED).reason is Reason.COMPLETED


def test_a_report_stays_valid_if_somebody_renames_the_domain() -> None:
    vm = completed()
    for _ in range(2):  # the second look finds the new name in the report
        step = vm.look(replace(domain(Phase.STOPPED), name="web-renamed"))
        assert (step.reason, step.action) == (Reason.COMPLETED, None)


@pytest.mark.parametrize("spec", [{"domain_uuid": OTHER}, {"domain_name": "web-2"}])
def test_a_report_is_not_used_if_the_spec_names_another_domain(spec: dict[str, object]) -> None:
    vm = completed()
    vm.change(**spec)
    step = vm.look(Domain(OTHER, "web-2", Phase.STOPPED, None, "SHUTOFF", "UNKNOWN"))
    assert (step.status.completion_time, step.status.last_stop) == (None, None)
    assert action(step) is Action.START


def test_a_damaged_restart_time_is_replaced_by_the_request_and_nothing_is_restarted() -> None:
    request = T0 - timedelta(hours=1)
    vm = Vm().in_sync()
    vm.change(restart_request=request)
    vm.edit(last_restart_time=BEYOND)
    step = vm.look(Phase.RUNNING)
    assert (step.reason, step.action) == (Reason.IN_SYNC, None)
    assert step.status.last_restart_time == request


def test_a_withdrawn_start_takes_back_exactly_one_restart() -> None:
    vm = Vm().in_sync()
    vm.edit(restart_count=5)
    vm.look(Phase.STOPPED, events={Evidence.STOPPED_FAILED})
    started = vm.look(Phase.STOPPED, events={Evidence.STOPPED_FAILED})
    assert (action(started), started.status.restart_count) == (Action.START, 6)
    vm.annotate(holds=(Hold("ann", "disks"),))
    withdrawn = vm.look(Phase.STOPPED, events={Evidence.STOPPED_FAILED})
    assert (withdrawn.reason, withdrawn.status.restart_count) == (Reason.HELD, 5)


def test_a_domain_that_disappeared_with_a_reboot_of_its_host_was_stopped_by_the_reboot() -> None:
    """The boot in which the VM ran is that of the report, and not the present one."""
    vm = Vm().in_sync()
    vm.node = Node("node-a", "boot-2")
    step = vm.look(Absent())
    assert step.status.last_stop is not None
    assert step.status.last_stop.cause is StopCause.NODE_REBOOT


@pytest.mark.parametrize("refusal", ["no space left.", "no space left", "no network 'DMX'", "is it X?"])
def test_a_refusal_of_libvirt_ends_with_one_full_stop(refusal: str) -> None:
    vm = Vm().in_sync()
    vm.look(Phase.STOPPED, events={Evidence.STOPPED_FAILED})
    step = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, refusal))
    assert f"{refusal.rstrip('.')}. virtsync tries again at" in step.message


def test_a_job_delays_an_action_until_the_grace_period_has_ended_and_not_a_second_less() -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING, facts=Facts(job="backup"))
    attempt = vm.memory.stop_attempt
    assert attempt
    left_s = {0.5: True, 0.0: False}
    for seconds, waits in left_s.items():
        now = moment(attempt.deadline.monotonic_s - seconds)
        view = View(vm.vm, vm.look(Phase.RUNNING).action.domain, vm.node, now, vm.memory, facts=Facts(job="backup"))  # type: ignore[union-attr]
        situation = replace(assess(view, WAITS), memory=replace(vm.memory, stop_attempt=attempt))
        assert (libvirt_busy(situation, DueAction(Reason.SHUTTING_DOWN, Action.SHUTDOWN)) is not None) is waits


def test_who_cannot_set_the_node_back_is_not_told_to() -> None:
    """The former machine had the same node name, so spec.nodeName cannot lead back to it."""
    vm = Vm().in_sync()
    vm.edit(host_uuid=UUID(int=1))
    vm.node = Node("node-a", "boot-1", host_uuid=UUID(int=1))
    vm.look(Phase.SAVED)
    vm.change(desired=RUNNING)
    vm.node = Node("node-a", "boot-2", host_uuid=UUID(int=2))
    vm.agent_restarts()
    step = vm.look(Domain(UID, "web", Phase.STOPPED, None, "SHUTOFF", "UNKNOWN"))
    assert step.reason is Reason.SAVED_ELSEWHERE
    saved = "The memory of the VM was saved on node-a (the former machine). If node-a (the former machine) is lost, "
    assert step.message.startswith(f"{saved}this command discards that memory")


def test_who_can_set_the_node_back_is_told_to() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.SAVED)
    vm.moves_to("node-b")
    step = vm.look(Domain(UID, "web", Phase.STOPPED, None, "SHUTOFF", "UNKNOWN"))
    assert " Set spec.nodeName back to node-a, start the VM or remove the saved memory there" in step.message


def test_a_report_of_another_host_that_is_kept_is_not_served_for_the_present_spec() -> None:
    """When the handover is resolved, the change of spec.powerState still counts as new."""
    vm = Vm().in_sync()
    vm.look(Phase.SAVED)
    vm.moves_to("node-b", desired=PAUSED)
    step = vm.look(Domain(UID, "web", Phase.STOPPED, None, "SHUTOFF", "UNKNOWN"))
    assert (step.reason, step.status.desired) == (Reason.SAVED_ELSEWHERE, RUNNING)


def test_a_second_start_is_not_taken_for_called_because_the_first_was() -> None:
    vm = Vm().in_sync()
    assert action(vm.look(Phase.STOPPED, events=CRASH)) is Action.START
    vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    assert vm.memory.start_called
    again = vm.look(domain(Phase.STOPPED, reason="CRASHED"), events=CRASH, after_s=60)
    assert (action(again), vm.memory.start_called) == (Action.START, False)


def test_what_was_known_of_a_stop_ends_with_an_outage_of_libvirt() -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    assert vm.memory.stop_attempt
    vm.look(Unreadable("away"))
    assert vm.memory.stop_attempt is None


def test_a_condition_of_a_vm_that_was_never_observed_refers_to_no_generation() -> None:
    step = Vm(misunderstood='spec.powerState "Hibernated"').look(Phase.RUNNING)
    assert step.reason is Reason.SPEC_NOT_UNDERSTOOD
    assert [condition.observed_generation for condition in step.status.conditions] == [0]

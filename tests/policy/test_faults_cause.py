"""Faults of what is told about a stop; named after the fault.

libvirt's reasons prove themselves within one boot, because a libvirtd that is started anew forgets them all.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.api.virtualmachine import Reason, RestartPolicy, StopCause
from controller.policy.view import Absent, Action, Evidence, Node, Phase, Step
from tests.policy.views import RUNNING, STOPPED, T0, Vm, action, domain, moment

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


def test_a_start_is_never_the_agents_stop() -> None:
    """Rule 1: what was started and went off was stopped by somebody else."""
    vm = Vm()
    assert action(vm.look(FORGOTTEN)) is Action.START
    vm.agent_restarts()
    assert cause(vm.look(domain(Phase.STOPPED, reason="DESTROYED"), after_s=60)) is StopCause.EXTERNAL

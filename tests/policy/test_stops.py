"""Why a VM stopped: the first sign that fits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.api.virtualmachine import DomainRecord, Operation, OperationType, Reason, Status, StopCause
from controller.policy.stops import MESSAGES, cause_of_end, cause_of_stop
from controller.policy.view import Absent, Domain, Evidence, Node, Observation, Phase, View
from tests.policy.views import STOPPED, T0, UID, Vm, moment

BOOT = "boot-1"
E = Evidence


def off(reason: str = "UNKNOWN", phase: Phase = Phase.STOPPED) -> Domain:
    return Domain(UID, "web", phase, None, "SHUTOFF", reason)


def history(*, boot: str = BOOT, run: int | None = 1, stopped_run: int | None = None) -> Status:
    operation = Operation(OperationType.STOP, T0, T0, stopped_run)
    record = DomainRecord("web", UID, "web", run)
    return Status(node_boot_id=boot, domain=record, operation=operation if stopped_run else None)


@pytest.mark.parametrize(
    ("domain", "before", "evidence", "cause"),
    [
        (off("MIGRATED"), history(stopped_run=1), set(), StopCause.MIGRATED),
        (off(), history(stopped_run=1), {E.STOPPED_MIGRATED}, StopCause.MIGRATED),
        (off("SAVED"), history(stopped_run=1), set(), StopCause.SAVED),
        (off("SAVED"), history(), {E.SHUTDOWN_HOST}, StopCause.SAVED),
        (off(phase=Phase.SAVED), history(boot="boot-0"), set(), StopCause.SAVED),
        (off(), history(stopped_run=1), {E.STOPPED_CRASHED}, StopCause.AGENT),
        (off(), history(stopped_run=2), {E.SHUTDOWN_GUEST}, StopCause.GUEST),
        (off(), history(boot="boot-0", stopped_run=1), {E.SHUTDOWN_GUEST}, StopCause.NODE_REBOOT),
        (off(), history(boot="boot-0", stopped_run=2), {E.SHUTDOWN_GUEST}, StopCause.NODE_REBOOT),
        (off(), history(boot="boot-0"), {E.STOPPED_CRASHED}, StopCause.NODE_REBOOT),
        (off("DESTROYED"), history(), {E.STOPPED_CRASHED}, StopCause.CRASH),
        (off("CRASHED", Phase.CRASHED_OFF), history(), {E.SHUTDOWN_HOST, E.STOPPED_CRASHED}, StopCause.CRASH),
        (off("DESTROYED"), history(), {E.STOPPED_FAILED}, StopCause.CRASH),
        (off("DESTROYED"), history(), {E.SHUTDOWN_GUEST}, StopCause.EXTERNAL),
        (off("FROM_SNAPSHOT"), history(), set(), StopCause.EXTERNAL),
        (off(), history(), {E.SHUTDOWN_HOST, E.SHUTDOWN_GUEST}, StopCause.EXTERNAL),
        (off(), history(), {E.SHUTDOWN_GUEST}, StopCause.GUEST),
        (off("CRASHED", Phase.CRASHED_OFF), history(), set(), StopCause.UNKNOWN),
        (off(), history(), {E.STARTED_RESTORED}, StopCause.UNKNOWN),
        (off("SHUTDOWN"), history(), set(), StopCause.GUEST),
        (off("SHUTDOWN"), history(), {E.SHUTDOWN_HOST}, StopCause.EXTERNAL),
        (off("DESTROYED"), history(), set(), StopCause.EXTERNAL),
    ],
)
def test_the_first_sign_that_fits(domain: Domain, before: Status, evidence: set[Evidence], cause: StopCause) -> None:
    assert cause_of_stop(domain, before, view(domain, evidence)) is cause


@pytest.mark.parametrize("for_maintenance", [True, None])
def test_a_boot_ends_every_stop_but_that_of_a_maintenance(*, for_maintenance: bool | None) -> None:
    """The host might have been powered off for the maintenance."""
    before = history(boot="boot-0", stopped_run=1)
    assert before.operation
    before = replace(before, operation=replace(before.operation, for_maintenance=for_maintenance))
    cause = cause_of_stop(off(), before, view(off(), set()))
    assert cause is (StopCause.AGENT if for_maintenance else StopCause.NODE_REBOOT)


def test_a_domain_that_was_migrated_and_undefined_was_migrated() -> None:
    vm = Vm().in_sync()
    step = vm.look(Absent(), events={E.STOPPED_MIGRATED})
    assert step.reason is Reason.DOMAIN_NOT_FOUND
    assert step.status.last_stop
    assert step.status.last_stop.cause is StopCause.MIGRATED


def test_a_domain_that_was_migrated_and_undefined_during_a_stop_was_migrated() -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    assert vm.look(Phase.RUNNING).status.operation
    step = vm.look(Absent(), events={E.STOPPED_MIGRATED, E.SHUTDOWN_GUEST})
    assert step.status.last_stop
    assert step.status.last_stop.cause is StopCause.MIGRATED


def view(seen: Observation, evidence: set[Evidence], node: Node | None = None) -> View:
    return View(Vm().vm, seen, node or Node("node-a", BOOT), moment(60), evidence=frozenset(evidence))


@pytest.mark.parametrize(
    ("libvirtd_s", "cause"),
    [(None, StopCause.UNKNOWN), (-1, StopCause.CRASH), (0, StopCause.UNKNOWN), (1, StopCause.UNKNOWN)],
)
def test_a_crash_is_believed_of_a_libvirtd_that_was_there(libvirtd_s: int | None, cause: StopCause) -> None:
    """SHUTOFF/CRASHED is also what a libvirtd shows of a clean poweroff that it did not see."""
    began = None if libvirtd_s is None else T0 + timedelta(seconds=libvirtd_s)
    seen, node = off("CRASHED", Phase.CRASHED_OFF), Node("node-a", BOOT, libvirtd_since=began)
    ran_since = replace(history(), power_state_transition_time=T0)
    assert cause_of_stop(seen, ran_since, view(seen, set(), node)) is cause
    started = replace(history(), operation=Operation(OperationType.START, T0, attempt=1))
    assert cause_of_stop(seen, started, view(seen, set(), node)) is cause


@pytest.mark.parametrize(
    ("before", "evidence", "cause"),
    [
        (history(), {E.STOPPED_MIGRATED}, StopCause.MIGRATED),
        (history(), {E.STOPPED_FAILED}, StopCause.CRASH),
        (history(), {E.SHUTDOWN_GUEST}, StopCause.GUEST),
        (history(stopped_run=1), {E.SHUTDOWN_GUEST}, StopCause.AGENT),
        (history(), set(), StopCause.UNKNOWN),
    ],
)
def test_events_tell_why_a_domain_is_no_longer_there(before: Status, evidence: set[Evidence], cause: StopCause) -> None:
    assert cause_of_end(before, view(Absent(), evidence)) is cause


def test_an_operation_of_no_known_run_explains_nothing() -> None:
    before = Status(
        node_boot_id=BOOT,
        domain=DomainRecord("web", UID, "web", None),
        operation=Operation(OperationType.STOP, T0, T0, None),
    )
    assert cause_of_stop(off(), before, view(off(), set())) is StopCause.UNKNOWN


def test_every_cause_has_a_sentence() -> None:
    assert set(MESSAGES) == set(StopCause)

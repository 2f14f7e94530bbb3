"""Why a VM stopped: the first sign that fits."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from controller.causes import MESSAGES, cause_of_stop
from controller.model import Domain, DomainRecord, Evidence, Operation, OperationType, Phase, Status, StopCause

UID = UUID(int=7)
T0 = datetime(2026, 1, 1, tzinfo=UTC)
BOOT = "boot-1"
E = Evidence


def off(reason: str = "SHUTDOWN", phase: Phase = Phase.STOPPED) -> Domain:
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
        (off(phase=Phase.SAVED), history(boot="boot-0"), set(), StopCause.SAVED),
        (off(), history(stopped_run=1), {E.STOPPED_CRASHED}, StopCause.AGENT),
        (off(), history(stopped_run=2), {E.SHUTDOWN_GUEST}, StopCause.GUEST),
        (off(), history(boot="boot-0", stopped_run=1), {E.SHUTDOWN_GUEST}, StopCause.NODE_REBOOT),
        (off(), history(boot="boot-0"), {E.STOPPED_CRASHED}, StopCause.NODE_REBOOT),
        (off("DESTROYED"), history(), {E.STOPPED_CRASHED}, StopCause.CRASH),
        (off("DESTROYED"), history(), {E.STOPPED_FAILED}, StopCause.CRASH),
        (off("DESTROYED"), history(), {E.SHUTDOWN_GUEST}, StopCause.EXTERNAL),
        (off("FROM_SNAPSHOT"), history(), set(), StopCause.EXTERNAL),
        (off(), history(), {E.SHUTDOWN_HOST, E.SHUTDOWN_GUEST}, StopCause.EXTERNAL),
        (off(), history(), {E.SHUTDOWN_GUEST}, StopCause.GUEST),
        (off("CRASHED", Phase.CRASHED_OFF), history(), set(), StopCause.UNKNOWN),
        (off(), history(), {E.STARTED_RESTORED}, StopCause.UNKNOWN),
    ],
)
def test_the_first_sign_that_fits(domain: Domain, before: Status, evidence: set[Evidence], cause: StopCause) -> None:
    assert cause_of_stop(domain, before, frozenset(evidence), BOOT) is cause


def test_an_operation_of_no_known_run_explains_nothing() -> None:
    before = Status(
        node_boot_id=BOOT,
        domain=DomainRecord("web", UID, "web", None),
        operation=Operation(OperationType.STOP, T0, T0, None),
    )
    assert cause_of_stop(off(), before, frozenset(), BOOT) is StopCause.UNKNOWN


def test_every_cause_has_a_sentence() -> None:
    assert set(MESSAGES) == set(StopCause)

"""What a relist of libvirt has looked at: what is not as it was reported, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any
from uuid import UUID

import pytest

from controller.api.virtualmachine import Domain, DomainRecord, Phase, PowerState, Status, VirtualMachine, VmKey
from controller.runtime import periodic as resync
from controller.runtime.periodic import JITTER, Comparison, Periodic

WEB_UUID, OTHER_UUID = UUID(int=7), UUID(int=8)
WEB = Domain(WEB_UUID, "web", Phase.RUNNING, 1, "RUNNING", "BOOTED", persistent=True, autostart=False)
RECORD = DomainRecord("web", WEB_UUID, "web", 1, persistent=True, autostart=False)
REPORT = Status(power_state=PowerState.RUNNING, libvirt_state="RUNNING", libvirt_reason="BOOTED", domain=RECORD)
VM = VirtualMachine(VmKey("default", "web"), "uid-1", 1, "1", datetime(2026, 1, 1, tzinfo=UTC), "node-a", status=REPORT)
ABSENT = replace(VM, status=Status(power_state=PowerState.ABSENT))


def test_what_is_as_it_was_reported_is_left_alone() -> None:
    assert Comparison().out_of_step([VM], [WEB]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": OTHER_UUID},
        {"name": "renamed"},
        {"id": 2},
        {"phase": Phase.PAUSED},
        {"state": "BLOCKED"},
        {"reason": "UNPAUSED"},
        {"persistent": False},
        {"autostart": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("compared_before", [False, True])
def test_whatever_is_otherwise_is_looked_at(change: dict[str, Any], *, compared_before: bool) -> None:
    comparison = Comparison()
    if compared_before:
        assert comparison.out_of_step([VM], [WEB]) == []
    assert comparison.out_of_step([VM], [replace(WEB, **change)]) == [VM]


def test_it_is_looked_at_until_the_report_says_so() -> None:
    comparison, paused = Comparison(), replace(WEB, phase=Phase.PAUSED, state="PAUSED", reason="USER")
    assert [comparison.out_of_step([VM], [seen]) for seen in (WEB, paused, paused)] == [[], [VM], [VM]]
    status = replace(REPORT, power_state=PowerState.PAUSED, libvirt_state="PAUSED", libvirt_reason="USER")
    assert comparison.out_of_step([replace(VM, status=status)], [paused]) == []


@pytest.mark.parametrize("compared_before", [False, True])
def test_a_report_that_says_otherwise_is_looked_at(*, compared_before: bool) -> None:
    comparison = Comparison()
    if compared_before:
        assert comparison.out_of_step([VM], [WEB]) == []
    wrong = replace(VM, status=replace(REPORT, power_state=PowerState.STOPPED))
    assert comparison.out_of_step([wrong], [WEB]) == [wrong]
    assert comparison.out_of_step([ABSENT], [WEB]) == [ABSENT]


@pytest.mark.parametrize("compared_before", [False, True])
def test_what_is_not_listed_must_be_reported_as_absent(*, compared_before: bool) -> None:
    comparison = Comparison()
    if compared_before:
        assert comparison.out_of_step([VM], [WEB]) == []
    assert comparison.out_of_step([VM], []) == [VM]
    assert comparison.out_of_step([ABSENT], []) == []
    assert comparison.out_of_step([ABSENT], [WEB]) == [ABSENT]


def test_a_restarted_libvirtd_that_has_forgotten_the_reason_says_nothing_new() -> None:
    assert Comparison().out_of_step([VM], [replace(WEB, reason="UNKNOWN")]) == []


def test_each_is_compared_with_its_own_domain() -> None:
    comparison = Comparison()
    other = Domain(OTHER_UUID, "db", Phase.STOPPED, None, "SHUTOFF", "SHUTDOWN")
    unreported = replace(VM, key=VmKey("default", "db"), uid="uid-2", status=Status())
    assert comparison.out_of_step([VM, unreported], [other, WEB]) == [unreported]
    assert comparison.out_of_step([VM, unreported], [other, WEB]) == [unreported]
    by_uuid = replace(VM, key=VmKey("default", "a"), domain_uuid=WEB_UUID)
    assert comparison.out_of_step([by_uuid], [other, WEB]) == []


HANG_S = 30


@contextmanager
def running(periodic: Periodic) -> Iterator[Periodic]:
    periodic.start()
    yield periodic
    periodic.close()
    periodic.join(HANG_S)
    assert not periodic.alive()


@pytest.mark.parametrize("line", range(1, 11))
def test_whoever_closes_it_is_heard_wherever_its_thread_is(line: int) -> None:
    """The thread is closed as it comes to each line of its code; twice round, for then it would wait an hour."""
    lines = calls = 0
    closed = threading.Event()

    def do() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            periodic.nudge()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != resync.__file__:
            return None
        lines += event == "line"
        if lines == line and not closed.is_set():
            closed.set()
            periodic.close()
        return trace

    periodic = Periodic("periodic", 3600, do)
    threading.settrace(trace)
    try:
        periodic.start()
    finally:
        threading.settrace(None)
    periodic.join(HANG_S)
    assert closed.is_set()
    assert not periodic.alive()


def test_whoever_nudges_it_while_it_works_has_it_done_once_more() -> None:
    began, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def do() -> None:
        if began.is_set():
            again.set()
        began.set()
        assert go_on.wait(HANG_S)

    with running(Periodic("periodic", 3600, do)) as periodic:
        assert began.wait(HANG_S)
        periodic.nudge()
        go_on.set()
        assert again.wait(HANG_S)


def test_the_period_is_a_little_longer_or_shorter_each_time() -> None:
    asked: list[tuple[float, float]] = []
    done = threading.Semaphore(0)

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0 if len(asked) < 3 else 1.0

    with running(Periodic("periodic", 3600, done.release, uniform=uniform)):
        for _ in range(3):
            assert done.acquire(timeout=HANG_S)
    assert asked[:2] == 2 * [(1 - JITTER, 1 + JITTER)]


def test_when_it_asks_to_be_called_again_it_is_then() -> None:
    done = threading.Semaphore(0)

    def do() -> float | None:
        done.release()
        return 0.0

    def uniform(_low: float, _high: float) -> float:
        raise AssertionError("no jitter")

    with running(Periodic("periodic", 3600, do, uniform=uniform)):
        for _ in range(3):
            assert done.acquire(timeout=HANG_S)


def test_what_fails_is_done_again_after_the_period() -> None:
    done = threading.Semaphore(0)

    def do() -> None:
        done.release()
        raise ValueError("a bug")

    with running(Periodic("periodic", 3600, do)) as periodic:
        assert done.acquire(timeout=HANG_S)
        periodic.nudge()
        assert done.acquire(timeout=HANG_S)

"""A thread that does one thing now and then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from controller.runtime import periodic as module
from controller.runtime.periodic import JITTER, PeriodicTask

HANG_S = 30


@contextmanager
def running(periodic: PeriodicTask) -> Iterator[PeriodicTask]:
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
            periodic.wake_up()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != module.__file__:
            return None
        lines += event == "line"
        if lines == line and not closed.is_set():
            closed.set()
            periodic.close()
        return trace

    periodic = PeriodicTask("periodic", 3600, do)
    threading.settrace(trace)
    try:
        periodic.start()
    finally:
        threading.settrace(None)
    periodic.join(HANG_S)
    assert closed.is_set()
    assert not periodic.alive()


def test_a_wake_up_during_a_run_leads_to_one_more_run() -> None:
    began, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def do() -> None:
        if began.is_set():
            again.set()
        began.set()
        assert go_on.wait(HANG_S)

    with running(PeriodicTask("periodic", 3600, do)) as periodic:
        assert began.wait(HANG_S)
        periodic.wake_up()
        go_on.set()
        assert again.wait(HANG_S)


def test_the_period_is_a_little_longer_or_shorter_each_time() -> None:
    asked: list[tuple[float, float]] = []
    done = threading.Semaphore(0)

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0 if len(asked) < 3 else 1.0

    with running(PeriodicTask("periodic", 3600, done.release, uniform=uniform)):
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

    with running(PeriodicTask("periodic", 3600, do, uniform=uniform)):
        for _ in range(3):
            assert done.acquire(timeout=HANG_S)


def test_what_fails_is_done_again_after_the_period() -> None:
    done = threading.Semaphore(0)

    def do() -> None:
        done.release()
        raise ValueError("a bug")

    with running(PeriodicTask("periodic", 3600, do)) as periodic:
        assert done.acquire(timeout=HANG_S)
        periodic.wake_up()
        assert done.acquire(timeout=HANG_S)

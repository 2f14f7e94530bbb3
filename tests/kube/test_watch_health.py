"""Readiness covers the watch: it has been opened, and has not been failing for a minute, whatever the reason."""

import pytest

from controller.kube.watch_health import WatchHealth


class Clock:
    """A clock that the test advances."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def goes(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> WatchHealth:
    return WatchHealth("VirtualMachines", clock=clock)


def begin(health: WatchHealth) -> None:
    health.request_sent()
    health.listed()
    health.request_sent()
    health.opened()


def test_the_watch_is_unready_until_it_has_been_opened(health: WatchHealth, clock: Clock) -> None:
    assert health.unready() == "changes of VirtualMachines are not watched yet: no watch has been opened yet"
    health.request_sent()
    health.failed("the API server answers 403")
    clock.goes(1)
    assert health.unready() == "changes of VirtualMachines are not watched yet: the API server answers 403"
    begin(health)
    assert health.unready() is None


def test_a_watch_that_continues_is_ready(health: WatchHealth, clock: Clock) -> None:
    begin(health)
    for _ in range(10):
        clock.goes(50)
        assert health.unready() is None
        health.request_sent()
        health.opened()
        assert health.unready() is None
    assert health.listings == 1


def test_a_watch_that_fails_for_a_minute_is_unready_for_the_last_reason(health: WatchHealth, clock: Clock) -> None:
    begin(health)
    clock.goes(500)
    for second in range(120):
        health.request_sent()
        health.failed("the API server answers 403")
        why = health.unready()
        assert (why is None) == (second <= 60)
        clock.goes(1)
    assert why == "changes of VirtualMachines have not been watched for 119 s: the API server answers 403"
    health.request_sent()
    health.opened()
    clock.goes(5)
    assert health.unready() is None


def test_a_watch_that_ends_as_soon_as_it_is_opened_is_unready(health: WatchHealth, clock: Clock) -> None:
    begin(health)
    clock.goes(500)
    for _ in range(70):
        health.request_sent()
        health.opened()
        clock.goes(1)
    why = "changes of VirtualMachines have not been watched for 70 s: each watch ends as soon as it is opened"
    assert health.unready() == why


def test_a_watch_that_kopf_has_ended_is_unready(health: WatchHealth, clock: Clock) -> None:
    begin(health)
    clock.goes(500)
    health.ended("kopf has ended")
    clock.goes(61)
    assert health.unready() == "changes of VirtualMachines have not been watched for 61 s: the last watch has ended"

"""Readiness covers the watch: it has begun, and has not been failing for a minute, whatever the reason."""

import pytest

from controller.kube.watch_health import WatchHealth


class Clock:
    """A clock that goes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def goes(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sight(clock: Clock) -> WatchHealth:
    return WatchHealth(clock=clock)


def begin(sight: WatchHealth) -> None:
    sight.asks()
    sight.listed()
    sight.asks()
    sight.opened()


def test_it_is_blind_until_it_has_begun(sight: WatchHealth, clock: Clock) -> None:
    assert sight.blind() == "changes of VirtualMachines are not watched yet: it has not begun yet"
    sight.asks()
    sight.failed("the API server answers 403")
    clock.goes(1)
    assert sight.blind() == "changes of VirtualMachines are not watched yet: the API server answers 403"
    begin(sight)
    assert sight.blind() is None


def test_a_watch_that_goes_on_and_on_sees(sight: WatchHealth, clock: Clock) -> None:
    begin(sight)
    for _ in range(10):
        clock.goes(50)
        assert sight.blind() is None
        sight.asks()
        sight.opened()
        assert sight.blind() is None
    assert sight.listings == 1


def test_one_that_fails_for_a_minute_is_told_with_the_last_reason(sight: WatchHealth, clock: Clock) -> None:
    begin(sight)
    clock.goes(500)
    for second in range(120):
        sight.asks()
        sight.failed("the API server answers 403")
        why = sight.blind()
        assert (why is None) == (second <= 60)
        clock.goes(1)
    assert why == "changes of VirtualMachines are not seen for 119 s: the API server answers 403"
    sight.asks()
    sight.opened()
    clock.goes(5)
    assert sight.blind() is None


def test_one_that_ends_as_soon_as_it_has_begun_is_as_good_as_none(sight: WatchHealth, clock: Clock) -> None:
    begin(sight)
    clock.goes(500)
    for _ in range(70):
        sight.asks()
        sight.opened()
        clock.goes(1)
    assert sight.blind() == "changes of VirtualMachines are not seen for 70 s: it ends as soon as it has begun"


def test_one_whose_program_has_ended_is_none(sight: WatchHealth, clock: Clock) -> None:
    begin(sight)
    clock.goes(500)
    sight.ended("kopf has ended")
    clock.goes(61)
    assert sight.blind() == "changes of VirtualMachines are not seen for 61 s: the last one has ended"

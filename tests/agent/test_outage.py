"""What N agents do at once when the API server goes and comes has a bound."""

from itertools import pairwise

import pytest

from controller.agent.outage import Outage
from controller.runtime.retry import Backoff

SPREAD_S = 10.0


class Clock:
    """A clock that goes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def longest(_least: float, most: float) -> float:
    return most


def test_knocking_backs_off_from_1_to_8_seconds_and_begins_anew_after_an_answer(clock: Clock) -> None:
    outage = Outage(SPREAD_S, clock=clock, uniform=longest)

    knocked_s = []
    for _ in range(60):
        if outage.probes():
            knocked_s.append(clock.now_s)
        clock.now_s += 0.5
    waits_s = [after - before for before, after in pairwise(knocked_s)]
    assert waits_s == [1.0, 2.0, 4.0, 8.0, 8.0]
    outage.answered()
    assert outage.probes()
    clock.now_s += 0.9
    assert not outage.probes()
    clock.now_s += 0.1
    assert outage.probes()


def test_agents_do_not_knock_in_step() -> None:
    waits = {Backoff(1.0, 8.0).wait_s() for _ in range(100)}
    assert len(waits) == 100
    assert all(0.5 <= wait_s <= 1.0 for wait_s in waits)


def test_what_failed_is_hastened_at_once_and_then_once_in_10_seconds(clock: Clock) -> None:
    outage = Outage(SPREAD_S, clock=clock)
    assert not outage.retries_failed()
    hastened = []
    for _ in range(35):
        outage.over()
        if outage.retries_failed():
            hastened.append(clock.now_s)
        clock.now_s += 1
    assert hastened == [1000.0, 1010.0, 1020.0, 1030.0]


def test_a_comeback_in_the_pause_is_not_forgotten(clock: Clock) -> None:
    outage = Outage(SPREAD_S, clock=clock)
    outage.over()
    assert outage.retries_failed()
    clock.now_s += 1
    outage.over()
    assert not outage.retries_failed()
    clock.now_s += 9
    assert outage.retries_failed()
    clock.now_s += 100
    assert not outage.retries_failed()


def test_the_list_comes_once_within_the_spread_and_at_most_once_a_minute(clock: Clock) -> None:
    outage = Outage(SPREAD_S, clock=clock)
    listed = []
    for _ in range(400):
        outage.missed()
        if outage.relists():
            listed.append(clock.now_s)
        clock.now_s += 0.5
    assert 1000.0 <= listed[0] <= 1000.0 + SPREAD_S + 0.5
    assert all(after - before >= 60 for before, after in pairwise(listed))
    assert len(listed) >= 3


def test_recoveries_that_follow_one_another_bring_fewer_and_fewer_lists(clock: Clock) -> None:
    outage = Outage(SPREAD_S, clock=clock)

    def listed_within(seconds: int) -> list[float]:
        at_s = []
        for _ in range(seconds):
            outage.missed()
            if outage.relists():
                at_s.append(clock.now_s)
            clock.now_s += 1
        return at_s

    waits_s = [after - before for before, after in pairwise(listed_within(5000))]
    assert waits_s == [60, 120, 240, 480, 900, 900, 900, 900]
    clock.now_s += 3 * 900  # the API server is well
    first, second, *_ = listed_within(300)
    assert second - first == 60


def test_lists_of_many_agents_are_spread(clock: Clock) -> None:
    agents = [Outage(SPREAD_S, clock=clock) for _ in range(100)]
    for one in agents:
        one.missed()
    counts = []
    for _ in range(10):
        clock.now_s += 1
        counts.append(sum(one.relists() for one in agents))
    assert sum(counts) == 100
    assert max(counts) < 40

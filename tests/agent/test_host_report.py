"""How often the report on a host is written."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.agent.host_report import COALESCE_S, OTHERS_EVERY_S, SPREAD, URGENT_EVERY_S, Pace, Urgency


def pace() -> Pace:
    return Pace(COALESCE_S, uniform=lambda low, _high: low)


def test_nothing_is_due_while_nothing_differs() -> None:
    assert pace().wait_s(Urgency.NONE, 100.0) is None


@pytest.mark.parametrize("urgency", [Urgency.SOON, Urgency.SOME_TIME])
def test_the_first_difference_waits_a_moment_for_others(urgency: Urgency) -> None:
    first = pace()
    assert first.wait_s(urgency, 100.0) == COALESCE_S
    assert first.wait_s(urgency, 100.4) == pytest.approx(COALESCE_S - 0.4)
    assert first.wait_s(urgency, 101.0) == 0


def test_a_difference_that_goes_away_is_forgotten() -> None:
    first = pace()
    first.wait_s(Urgency.SOON, 100.0)
    first.wait_s(Urgency.NONE, 100.9)
    assert first.wait_s(Urgency.SOON, 101.0) == COALESCE_S


def test_an_urgent_difference_waits_less_than_others() -> None:
    one = pace()
    one.done(100.0)
    assert one.wait_s(Urgency.SOON, 100.0) == URGENT_EVERY_S
    assert one.wait_s(Urgency.SOME_TIME, 100.0) == OTHERS_EVERY_S * (1 - SPREAD)
    assert one.wait_s(Urgency.SOON, 105.0) == COALESCE_S, "it is new"
    assert one.wait_s(Urgency.SOON, 106.0) == 0


@given(st.lists(st.tuples(st.floats(0.01, 20), st.sampled_from(list(Urgency))), max_size=300))
def test_a_minute_has_twelve_writes_at_most(steps: list[tuple[float, Urgency]]) -> None:
    one, now_s = pace(), 0.0
    written_s: list[float] = []
    for after_s, urgency in steps:
        now_s += after_s
        wait_s = one.wait_s(urgency, now_s)
        assert wait_s is None or wait_s <= OTHERS_EVERY_S
        if wait_s == 0:
            one.done(now_s)
            written_s.append(now_s)
    assert all(later - sooner >= URGENT_EVERY_S - 1e-6 for sooner, later in pairwise(written_s))

"""When a token is renewed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.policy.renewal import (
    LEAST_LIFETIME_S,
    MOST_LIFETIME_S,
    RETRY_LEAST_S,
    RETRY_MOST_S,
    Lifetime,
    next_lifetime_s,
    renews_at,
    retry_s,
)

ISSUED = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 24 * 3600
LIFETIMES_S = st.integers(LEAST_LIFETIME_S, MOST_LIFETIME_S)


def lasting(seconds: float) -> Lifetime:
    return Lifetime(ISSUED, ISSUED + timedelta(seconds=seconds))


@pytest.mark.parametrize(("chance", "days"), [(0.0, 15), (0.5, 16.5), (1.0, 18)])
def test_it_is_renewed_after_half_of_its_lifetime_or_a_little_later(chance: float, days: float) -> None:
    assert renews_at(lasting(30 * DAY_S), chance) == ISSUED + timedelta(days=days)


@given(seconds=LIFETIMES_S, chance=st.floats(0, 1))
def test_whenever_it_is_renewed_two_fifths_of_its_lifetime_are_left(seconds: int, chance: float) -> None:
    lifetime = lasting(seconds)
    left = lifetime.remaining_s(renews_at(lifetime, chance)) / seconds
    assert 0.4 - 1e-6 <= left <= 0.5 + 1e-6


def test_the_rest_of_the_lifetime_is_what_the_docs_say() -> None:
    """12 days of 30."""
    lifetime = lasting(30 * DAY_S)
    assert lifetime.remaining_s(renews_at(lifetime, 1.0)) == 12 * DAY_S


@pytest.mark.parametrize(("seconds", "remaining_s"), [(600, 540), (60, 0), (59, -1)])
def test_the_remaining_time_is_negative_when_it_has_expired(seconds: float, remaining_s: float) -> None:
    assert lasting(seconds).remaining_s(ISSUED + timedelta(seconds=60)) == remaining_s


@pytest.mark.parametrize(
    ("remaining_s", "wait_s"), [(-5, 10), (0, 10), (100, 10), (110, 11), (6000, 600), (6010, 600), (12 * DAY_S, 600)]
)
def test_a_failure_is_retried_after_a_tenth_of_the_remaining_time(remaining_s: float, wait_s: float) -> None:
    assert retry_s(remaining_s) == wait_s


@given(seconds=LIFETIMES_S)
def test_attempts_go_on_until_it_expires_and_come_closer_together(seconds: int) -> None:
    """So an outage that ends shortly before the token expires does not cost the host its identity."""
    remaining_s, waits_s = 0.4 * seconds, [RETRY_MOST_S]
    while remaining_s > RETRY_LEAST_S:
        waits_s.append(retry_s(remaining_s))
        remaining_s -= waits_s[-1]
        assert remaining_s >= 0
    assert waits_s == sorted(waits_s, reverse=True)
    assert len(waits_s) > 10


@pytest.mark.parametrize(
    ("seconds", "asked_s"),
    [(3600, 3600), (3600.7, 3600), (599, 600), (600, 600), (30 * DAY_S, 2592000), (31 * DAY_S, 2592000), (-1, 600)],
)
def test_the_next_token_lasts_as_long_as_this_one_within_the_limits(seconds: float, asked_s: int) -> None:
    assert repr(next_lifetime_s(lasting(seconds))) == repr(asked_s), "the API takes whole numbers"


def test_a_token_that_ends_before_it_begins_has_no_lifetime() -> None:
    assert lasting(-60).seconds == 0
    assert renews_at(lasting(-60), 1.0) == ISSUED

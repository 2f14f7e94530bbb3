"""When a token is renewed."""

from datetime import UTC, datetime, timedelta

import pytest

from controller.policy.renewal import Lifetime, next_lifetime_s, renews_at, retry_s

ISSUED = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 24 * 3600


def lasting(seconds: float) -> Lifetime:
    return Lifetime(ISSUED, ISSUED + timedelta(seconds=seconds))


@pytest.mark.parametrize(("chance", "days"), [(0.0, 15), (0.5, 16.5), (1.0, 18)])
def test_it_is_renewed_after_half_of_its_lifetime_or_a_little_later(chance: float, days: float) -> None:
    assert renews_at(lasting(30 * DAY_S), chance) == ISSUED + timedelta(days=days)


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


@pytest.mark.parametrize(
    ("seconds", "asked_s"),
    [(3600, 3600), (599, 600), (600, 600), (30 * DAY_S, 2592000), (31 * DAY_S, 2592000), (-1, 600)],
)
def test_the_next_token_lasts_as_long_as_this_one_within_the_limits(seconds: float, asked_s: int) -> None:
    assert next_lifetime_s(lasting(seconds)) == asked_s


def test_a_token_that_ends_before_it_begins_has_no_lifetime() -> None:
    assert lasting(-60).seconds == 0
    assert renews_at(lasting(-60), 1.0) == ISSUED

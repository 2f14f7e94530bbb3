"""Token buckets: a burst at once, then a rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.runtime.buckets import TokenBucket


def test_a_full_bucket_gives_its_burst_at_once() -> None:
    bucket = TokenBucket(0.2, 30)
    assert [bucket.take(100.0) for _ in range(30)] == 30 * [0.0]
    assert bucket.take(100.0) == pytest.approx(5.0)


def test_an_empty_bucket_tells_when_to_come_back() -> None:
    bucket = TokenBucket(2.0, 1)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.1) == pytest.approx(0.4)
    assert bucket.take(0.1) == pytest.approx(0.4), "a refused take costs nothing"
    assert bucket.take(0.5) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(1.0, 3)
    assert bucket.take(0.0) == 0.0
    assert [bucket.take(1e6) for _ in range(3)] == 3 * [0.0]
    assert bucket.take(1e6) > 0


@given(
    rate_per_s=st.floats(0.01, 100),
    burst=st.integers(1, 50),
    waits_s=st.lists(st.floats(0, 100), max_size=200),
)
def test_no_span_of_time_gets_more_than_a_burst_and_its_rate(
    rate_per_s: float, burst: int, waits_s: list[float]
) -> None:
    bucket, now_s = TokenBucket(rate_per_s, burst), 0.0
    taken_s: list[float] = []
    for wait_s in waits_s:
        now_s += wait_s
        asked_s = bucket.take(now_s)
        assert asked_s <= 1 / rate_per_s + 1e-6
        if asked_s == 0.0:
            taken_s.append(now_s)
    for first in range(len(taken_s)):
        for last in range(first, len(taken_s)):
            assert last - first + 1 <= burst + (taken_s[last] - taken_s[first]) * rate_per_s + 1e-3

"""Whose the Lease of a node is: each row of the table, and what comes between two looks."""

from dataclasses import replace

import pytest

from controller.policy.leases import Claim, Lease, Seen, claim, held_until_s, observe

MINE, THEIRS = "pod-1", "pod-2"
LOCK, OTHER_LOCK = "boot-1 00:19:5", "boot-2 00:19:5"
LEASE = Lease(holder=THEIRS, duration_s=40, renewed="2026-01-01T00:00:00.000000Z", lock=OTHER_LOCK)
SEEN_S = 1000.0


def claimed(lease: Lease | None, *, lock: str = LOCK, after_s: float = 0) -> Claim:
    return claim(Seen(lease, SEEN_S) if lease else None, MINE, lock, SEEN_S + after_s)


@pytest.mark.parametrize("lock", [LOCK, ""])
@pytest.mark.parametrize(
    ("lease", "after_s", "expected"),
    [
        pytest.param(None, 0, Claim.CREATE, id="there is none"),
        pytest.param(replace(LEASE, holder=""), 0, Claim.TAKE, id="it was released"),
        pytest.param(replace(LEASE, holder=MINE), 0, Claim.RENEW, id="it is ours"),
        pytest.param(replace(LEASE, holder=MINE), 1000, Claim.RENEW, id="it is ours and has run out"),
        pytest.param(LEASE, 0, Claim.WAIT, id="it is somebody else's"),
        pytest.param(LEASE, 39.9, Claim.WAIT, id="who still has time"),
        pytest.param(LEASE, 40, Claim.TAKE, id="who has let it run out"),
        pytest.param(replace(LEASE, duration_s=10), 10, Claim.TAKE, id="by their own measure"),
        pytest.param(replace(LEASE, duration_s=100), 99.9, Claim.WAIT, id="not by ours"),
        pytest.param(replace(LEASE, lock=""), 39.9, Claim.WAIT, id="who had no lock that is known"),
    ],
)
def test_what_the_lease_allows(lease: Lease | None, after_s: float, expected: Claim, lock: str) -> None:
    assert claimed(lease, lock=lock, after_s=after_s) is expected


def test_who_has_the_lock_of_the_holder_need_not_wait() -> None:
    assert claimed(replace(LEASE, lock=LOCK)) is Claim.TAKE


def test_a_lock_that_is_none_proves_nothing() -> None:
    assert claimed(replace(LEASE, lock=""), lock="") is Claim.WAIT
    assert claimed(replace(LEASE, lock=LOCK), lock="") is Claim.WAIT


def test_the_time_runs_from_when_it_was_first_seen_like_this() -> None:
    first = observe(None, LEASE, 100)
    assert first == Seen(LEASE, 100)
    assert observe(first, LEASE, 139) == first


@pytest.mark.parametrize(
    "renewed",
    [
        replace(LEASE, renewed="2026-01-01T00:00:10.000000Z"),
        replace(LEASE, renewed="2025-01-01T00:00:00.000000Z"),
        replace(LEASE, holder="pod-3"),
        replace(LEASE, duration_s=50),
        replace(LEASE, lock=LOCK),
    ],
)
def test_any_change_is_a_sign_of_life_whatever_the_clock_of_its_holder_says(renewed: Lease) -> None:
    assert observe(Seen(LEASE, 100), renewed, 139) == Seen(renewed, 139)


def test_one_that_is_gone_and_comes_again_is_seen_anew() -> None:
    assert observe(Seen(LEASE, 100), None, 120) is None
    assert observe(None, LEASE, 130) == Seen(LEASE, 130)


@pytest.mark.parametrize("duration_s", [2, 40])
def test_a_holder_stops_before_anybody_can_believe_it_free(duration_s: int) -> None:
    """The others see the renewal after it was sent, and wait for all of the time that it grants."""
    until_s = held_until_s(SEEN_S, duration_s)
    lease = replace(LEASE, duration_s=duration_s)
    assert claimed(lease, after_s=until_s - SEEN_S) is Claim.WAIT
    assert until_s == SEEN_S + duration_s * 7 / 8

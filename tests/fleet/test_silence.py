"""Who is silent: each rule with its limits, and 200 agents that renew their Leases through outages and slow lists."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.clock import Now, micro_time
from controller.fleet.silence import (
    AFTER_BLINDNESS_MOST_S,
    AFTER_BLINDNESS_S,
    BLIND_AFTER_S,
    GRACE_LEAST_S,
    GRACE_MOST_S,
    GRACE_S,
    AgentLease,
    Kind,
    Sight,
)

T0 = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
LEASE = AgentLease(holder="pod-1", renewed="2026-11-27T08:00:00.000000Z", duration_s=40)
STEP_S = 2.0


def at(second: float) -> Now:
    return Now(T0 + timedelta(seconds=second), second)


def seen(sight: Sight, leases: Mapping[str, AgentLease], second: float, *, took_s: float = 0) -> Sight:
    """The sight after a list that was received at this second."""
    return sight.listed(leases, requested_s=second - took_s, received=at(second))


def watched(leases: Mapping[str, AgentLease], until_s: float, sight: Sight | None = None, from_s: float = 0) -> Sight:
    """The sight after lists every 2 s that show the same."""
    sight = sight or Sight()
    for step in range(int((until_s - from_s) / STEP_S) + 1):
        sight = seen(sight, leases, from_s + step * STEP_S)
    return sight


def silent(sight: Sight) -> list[str]:
    return [silence.node for silence in sight.silences()]


# --- the grace


@pytest.mark.parametrize(
    ("lease", "grace_s"),
    [
        pytest.param(LEASE, 40, id="its own duration"),
        pytest.param(replace(LEASE, duration_s=80), 80, id="a longer one"),
        pytest.param(replace(LEASE, duration_s=2), GRACE_LEAST_S, id="not less than the least"),
        pytest.param(replace(LEASE, duration_s=86400), GRACE_MOST_S, id="not more than the most"),
        pytest.param(replace(LEASE, duration_s=None), GRACE_S, id="none given"),
        pytest.param(replace(LEASE, holder="", duration_s=1), GRACE_S, id="released"),
    ],
)
def test_the_grace_is_the_duration_of_the_lease_within_limits(lease: AgentLease, grace_s: float) -> None:
    assert lease.grace_s == grace_s
    before = watched({"a": replace(lease, renewed="")}, AFTER_BLINDNESS_S + STEP_S)
    before = watched({"a": lease}, 30 + grace_s - STEP_S, before, from_s=30)
    assert silent(before) == []
    assert silent(seen(before, {"a": lease}, 30 + grace_s)) == ["a"]


def test_a_missing_lease_has_the_default_grace() -> None:
    sight = watched({"a": LEASE}, 10)
    sight = watched({}, 12 + GRACE_S - STEP_S, sight, from_s=12)
    assert silent(sight) == []
    assert silent(seen(sight, {}, 12 + GRACE_S)) == ["a"]


@pytest.mark.parametrize(
    "renewed",
    [
        replace(LEASE, renewed="2026-11-27T08:00:10.000000Z"),
        replace(LEASE, renewed="1970-01-01T00:00:00.000000Z"),
        replace(LEASE, holder="pod-2"),
        replace(LEASE, duration_s=50),
    ],
)
def test_any_change_of_the_lease_begins_the_grace_again(renewed: AgentLease) -> None:
    sight = watched({"a": LEASE}, 38)
    sight = watched({"a": renewed}, 40 + renewed.grace_s - STEP_S, sight, from_s=40)
    assert silent(sight) == []
    assert silent(seen(sight, {"a": renewed}, 40 + renewed.grace_s)) == ["a"]


def test_the_time_counts_from_the_first_answer_to_the_last_question() -> None:
    """What a list shows might have changed while it was on its way, so a slow list proves less."""
    sight = seen(Sight(), {"a": LEASE}, 8, took_s=8)
    for received_s in (18, 28, 38, 48):
        sight = seen(sight, {"a": LEASE}, received_s, took_s=8)
    assert sight.age_s("a") == 32
    assert silent(sight) == []
    assert silent(seen(sight, {"a": LEASE}, 58, took_s=8)) == ["a"]


def test_a_node_that_is_not_known_has_no_age_and_is_not_silent() -> None:
    sight = watched({"a": LEASE}, 60)
    assert (sight.age_s("b"), sight.silence("b")) == (0, None)


# --- what a silence tells


def test_a_holder_that_does_not_renew_is_lost_since_its_last_renewal() -> None:
    (found,) = watched({"a": LEASE}, 60, from_s=10).silences()
    assert (found.kind, found.heard, found.since_s) == (Kind.LOST, T0, 10)


@pytest.mark.parametrize("renewed", ["2026-11-27T09:00:00.000000Z", "soon", ""])
def test_a_renewal_in_the_future_or_one_that_cannot_be_read_was_heard_when_it_was_first_listed(renewed: str) -> None:
    (found,) = watched({"a": replace(LEASE, renewed=renewed)}, 60, from_s=10).silences()
    assert found.heard == at(10).wall


def test_an_agent_that_has_released_its_lease_has_left() -> None:
    (found,) = watched({"a": replace(LEASE, holder="", duration_s=1)}, 60).silences()
    assert (found.kind, found.heard) == (Kind.LEFT, T0)


def test_without_a_lease_it_is_missing_since_a_list_lacked_it() -> None:
    sight = watched({"a": LEASE}, 10)
    (found,) = watched({}, 80, sight, from_s=12).silences()
    assert (found.kind, found.heard, found.since_s) == (Kind.MISSING, at(12).wall, 12)


def test_the_longest_silence_comes_first() -> None:
    sight = watched({"b": LEASE}, 10)
    sight = watched({"a": LEASE, "b": LEASE, "c": LEASE}, 80, sight, from_s=12)
    assert silent(sight) == ["b", "a", "c"]


def test_a_silence_ends_with_a_renewal_and_the_next_one_is_another() -> None:
    first = watched({"a": LEASE}, 60)
    renewed = replace(LEASE, renewed="2026-11-27T08:01:02.000000Z")
    back = seen(first, {"a": renewed}, 62)
    assert back.silence("a") is None
    assert back.age_s("a") == 0
    again = watched({"a": renewed}, 130, back, from_s=64)
    assert again.silence("a") is not None
    assert again.silence("a") != first.silence("a")
    assert watched({"a": LEASE}, 70, first, from_s=62).silence("a") == first.silence("a"), "it is one silence"


# --- blindness


def test_nothing_is_in_sight_before_the_first_list() -> None:
    assert Sight().blind(0)
    assert not seen(Sight(), {}, 5).blind(5 + BLIND_AFTER_S)
    assert seen(Sight(), {}, 5).blind(5 + BLIND_AFTER_S + 0.1)


@pytest.mark.parametrize("hole_s", [BLIND_AFTER_S + 0.5, 300, 86400])
def test_after_blindness_everybody_has_time_to_renew(hole_s: float) -> None:
    sight = watched({"a": LEASE}, 60)
    assert silent(sight) == ["a"]
    back_s = 60 + hole_s
    sight = seen(sight, {"a": LEASE}, back_s)
    assert silent(sight) == []
    sight = watched({"a": LEASE}, back_s + AFTER_BLINDNESS_S - STEP_S, sight, from_s=back_s)
    assert silent(sight) == []
    assert silent(seen(sight, {"a": LEASE}, back_s + AFTER_BLINDNESS_S)) == ["a"]


def test_after_blindness_each_agent_that_returns_gives_the_others_more_time() -> None:
    """An API server that has just started is slow, and all agents ask it at once."""
    away = {"a": LEASE, "b": LEASE}
    sight = seen(watched(away, 60), away, 360)
    back = away | {"b": replace(LEASE, renewed="later")}
    sight = seen(watched(away, 382, sight, from_s=362), back, 384)
    assert silent(watched(back, 384 + AFTER_BLINDNESS_S - STEP_S, sight, from_s=386)) == []
    assert silent(watched(back, 386 + AFTER_BLINDNESS_S, sight, from_s=386)) == ["a"]


def test_agents_that_return_one_by_one_cannot_hide_a_dead_one_for_long() -> None:
    leases = {f"node-{number}": LEASE for number in range(100)} | {"dead": LEASE}
    sight = seen(watched(leases, 60), leases, 360)
    for number in range(100):
        second = 362 + number * STEP_S
        leases = leases | {f"node-{number}": replace(LEASE, renewed=f"{second}")}
        sight = seen(sight, leases, second)
        assert ("dead" in silent(sight)) == (second >= 360 + AFTER_BLINDNESS_MOST_S)


def test_only_the_first_renewal_of_an_agent_gives_the_others_more_time() -> None:
    leases = {"a": LEASE, "b": LEASE}
    sight = seen(watched(leases, 60), leases, 360)
    returned_s = 362.0
    for step in range(14):
        second = returned_s + step * STEP_S
        leases = leases | {"b": replace(LEASE, renewed=f"{second}")}
        sight = seen(sight, leases, second)
        assert ("a" in silent(sight)) == (second >= returned_s + AFTER_BLINDNESS_S)


def test_a_silence_lasts_through_blindness_and_ends_with_a_renewal() -> None:
    before = watched({"a": LEASE}, 60)
    (silence,) = before.silences()
    after = seen(before, {"a": LEASE}, 360)
    assert after.patient
    assert after.lasts(silence)
    assert not seen(after, {"a": replace(LEASE, renewed="later")}, 362).lasts(silence)
    assert not seen(after, {}, 362).lasts(silence)


def test_a_shorter_hole_costs_nothing() -> None:
    sight = watched({"a": LEASE}, 30)
    assert silent(seen(sight, {"a": LEASE}, 30 + BLIND_AFTER_S)) == ["a"]


# --- nodes that should be there


def test_a_node_that_is_expected_and_has_no_lease_is_missing_from_then_on() -> None:
    sight = watched({}, 100).expecting({"a"}, at(100))
    sight = watched({}, 138, sight, from_s=102)
    assert silent(sight) == []
    (found,) = seen(sight, {}, 140).silences()
    assert (found.node, found.kind, found.heard) == ("a", Kind.MISSING, at(100).wall)


def test_a_node_that_is_expected_again_is_missing_since_it_was_missed_first() -> None:
    sight = watched({}, 0).expecting({"a"}, at(0))
    sight = watched({}, 30, sight, from_s=2).expecting({"a"}, at(30))
    assert silent(watched({}, 40, sight, from_s=32)) == ["a"]


def test_a_node_without_lease_that_nobody_expects_is_forgotten_and_others_are_not() -> None:
    sight = watched({"a": LEASE, "b": LEASE}, 10)
    sight = watched({"b": LEASE}, 80, sight, from_s=12)
    assert silent(sight) == ["b", "a"]
    assert silent(sight.expecting({"c"}, at(80))) == ["b"]


# --- 200 agents

AGENTS, LASTS_S, QUIET_S, STOPPED_S = 200, 600, 150, 400


class Agents:
    """When the agents renew their Leases, as they do through outages of the API server, until some of them die."""

    def __init__(self, dice: Random, outages: list[tuple[float, float]]) -> None:
        self._dice, self._outages = dice, outages
        self.dies_s = {
            f"node-{number}": dice.uniform(0, LASTS_S - QUIET_S) if dice.random() < 0.2 else float("inf")
            for number in range(AGENTS)
        }
        self._renewals = {node: self._renew(dies_s) for node, dies_s in self.dies_s.items()}
        self._next = dict.fromkeys(self.dies_s, 0)

    def _renew(self, dies_s: float) -> list[float]:
        renewed_s, second = [-self._dice.uniform(0, 10)], self._dice.uniform(0, 10)
        while second < min(dies_s, LASTS_S):
            if ends_s := self.away_until_s(second):
                second = ends_s + self._dice.uniform(0, 12)
                continue
            renewed_s.append(second)
            second += self._dice.uniform(9, 10)
        return renewed_s

    def away_until_s(self, second: float) -> float:
        """When the outage of this second ends; 0: the API server answers."""
        return next((ends_s for begins_s, ends_s in self._outages if begins_s <= second < ends_s), 0.0)

    def renewed_s(self, node: str, second: float) -> float:
        """The last renewal until this second. Must be asked in order of time."""
        renewals, number = self._renewals[node], self._next[node]
        while number + 1 < len(renewals) and renewals[number + 1] <= second:
            number += 1
        self._next[node] = number
        return renewals[number]

    def leases(self, second: float) -> dict[str, AgentLease]:
        return {
            node: AgentLease("pod", micro_time(at(self.renewed_s(node, second)).wall), 40.0) for node in self.dies_s
        }


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    slowest_s=st.sampled_from([0.05, 2.0, 8.0]),
    down_s=st.sampled_from([0.0, 5.0, 14.0, 30.0, 120.0]),
    stopped_s=st.sampled_from([0.0, 10.0, 60.0]),
)
def test_only_the_dead_are_silent_and_they_are_within_the_bound(
    seed: int, slowest_s: float, down_s: float, stopped_s: float
) -> None:
    """The API server comes and goes, lists are slow, and the manager is stopped once."""
    dice = Random(seed)  # noqa: S311 - it decides what happens, and in which order
    outages = flapping(dice, down_s) if down_s else []
    agents = Agents(dice, outages)
    sight, second, good_s, back_s = Sight(), 0.0, float("-inf"), 0.0
    stop_s = dice.uniform(0, STOPPED_S)
    cycle_s = 2.2 + slowest_s
    hole_s = min(down_s, BLIND_AFTER_S) + 3 if down_s else 0.0
    while second < LASTS_S:
        if stopped_s and stop_s <= second < stop_s + stopped_s:
            second = stop_s + stopped_s
        took_s = dice.uniform(0, slowest_s)
        if agents.away_until_s(second):
            second += 3.0
        else:
            leases = agents.leases(second + dice.uniform(0, took_s))
            received_s = second + took_s
            sight = seen(sight, leases, received_s, took_s=took_s)
            if received_s - good_s > BLIND_AFTER_S:
                back_s = received_s
            good_s = received_s
            found = set(silent(sight))
            assert all(agents.dies_s[node] < second for node in found), "somebody who lives is declared silent"
            due = {
                node
                for node, dies_s in agents.dies_s.items()
                if dies_s < float("inf")
                and second >= agents.renewed_s(node, second) + GRACE_S + 2 * cycle_s + hole_s
                and second >= back_s + GRACE_S + cycle_s
                and (second < stop_s or second >= stop_s + stopped_s + GRACE_S + 2 * cycle_s)
            }
            assert due <= found, "somebody who is dead is still missing"
            second = received_s
        second += dice.uniform(1.8, 2.2)
    assert {node for node, dies_s in agents.dies_s.items() if dies_s < float("inf")} == set(silent(sight))


def flapping(dice: Random, down_s: float) -> list[tuple[float, float]]:
    """Outages of up to `down_s`. In between, the API server answers long enough for every agent to renew."""
    outages, second = [], dice.uniform(13, 60)
    while second + down_s < LASTS_S - QUIET_S:
        ends_s = second + dice.uniform(down_s / 2, down_s)
        outages.append((second, ends_s))
        second = ends_s + dice.uniform(13, 60)
    return outages

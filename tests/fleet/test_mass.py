"""What counts as a mass: how many nodes, how close together, and with how many VMs."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from controller.api.clock import Now
from controller.fleet.mass import TOGETHER_S, VM_BURST, mass
from controller.fleet.silence import AgentLease, Observed, Sight

T0 = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
NOW_S = 1000.0
MANY = VM_BURST + 1


def sight(ages_s: Mapping[str, float]) -> Sight:
    """Nodes whose Leases have been unchanged for this long."""
    nodes = {
        node: Observed(AgentLease("pod", "", 40.0), Now(T0 + timedelta(seconds=NOW_S - age_s), NOW_S - age_s))
        for node, age_s in ages_s.items()
    }
    return Sight(nodes, requested_s=NOW_S, received_s=NOW_S)


def fleet(late: int, heard: int, *, age_s: float = 45) -> Sight:
    return sight({f"late-{n}": age_s for n in range(late)} | {f"heard-{n}": 5 for n in range(heard)})


def found(seen: Sight, vms: int) -> int:
    """The number of nodes in the mass, when each of the late nodes has this many VMs."""
    return len(mass(seen, dict.fromkeys(seen.nodes, vms)))


@pytest.mark.parametrize(
    ("late", "heard", "in_mass"),
    [(2, 0, 0), (3, 0, 3), (3, 6, 3), (3, 7, 0), (700, 1300, 700), (666, 1334, 0), (667, 1333, 667), (2000, 0, 2000)],
)
def test_it_takes_a_third_of_the_nodes_and_at_least_three(late: int, heard: int, in_mass: int) -> None:
    assert found(fleet(late, heard), MANY) == in_mass


def test_what_one_burst_can_mark_is_no_mass() -> None:
    assert found(fleet(5, 5), VM_BURST // 5) == 0
    assert found(fleet(5, 5), VM_BURST // 5 + 1) == 5


def test_a_node_whose_vms_are_not_known_has_none() -> None:
    assert mass(fleet(5, 5), {"late-0": MANY}) == {f"late-{n}" for n in range(5)}
    assert mass(fleet(5, 5), {"heard-0": MANY}) == frozenset()
    assert mass(fleet(5, 5), {"late-0": VM_BURST}) == frozenset()


def test_nodes_that_fell_silent_one_after_the_other_are_none() -> None:
    apart_s = TOGETHER_S / 2 + 0.1
    assert found(sight({f"n{number}": 45 + number * apart_s for number in range(10)}), MANY) == 0
    assert found(sight({f"n{number}": 45 + number * TOGETHER_S / 2 for number in range(3)}), MANY) == 3


def test_those_that_were_silent_long_before_are_not_in_it() -> None:
    seen = sight({"old": 5000, "a": 60, "b": 50, "c": 45})
    assert mass(seen, dict.fromkeys(seen.nodes, MANY)) == {"a", "b", "c"}
    assert mass(seen, {"a": MANY}) == {"a", "b", "c"}


def test_nodes_that_are_late_count_before_their_grace_is_over() -> None:
    """Agents do not renew together: the first ones are silent up to 10 s before the last ones."""
    assert found(sight({"a": 40, "b": 31, "c": 30, "d": 5}), MANY) == 3
    assert found(sight({"a": 40, "b": 31, "c": 20, "d": 5}), MANY) == 3
    assert found(sight({"a": 40, "b": 31, "c": 19, "d": 5}), MANY) == 0


def test_the_window_moves_over_all_of_them() -> None:
    """Two waves an hour apart are both found, and the VMs of one wave do not count for the other."""
    waves = {f"first-{n}": 3700.0 + n for n in range(4)} | {f"second-{n}": 50.0 + n for n in range(4)}
    seen = sight(waves)
    assert found(seen, MANY) == 8
    assert mass(seen, {node: MANY for node in waves if node.startswith("first")}) == {f"first-{n}" for n in range(4)}

"""Queues that have turns."""

import pytest

from controller.runtime.turns import in_turns

QUEUES = {"c": [5], "a": [1, 2, 3], "b": [4]}


@pytest.mark.parametrize(
    ("after", "order"),
    [
        ("", [("a", 1), ("b", 4), ("c", 5), ("a", 2), ("a", 3)]),
        ("a", [("b", 4), ("c", 5), ("a", 1), ("a", 2), ("a", 3)]),
        ("bb", [("c", 5), ("a", 1), ("b", 4), ("a", 2), ("a", 3)]),
        ("c", [("a", 1), ("b", 4), ("c", 5), ("a", 2), ("a", 3)]),
    ],
)
def test_each_queue_has_its_turn(after: str, order: list[tuple[str, int]]) -> None:
    assert list(in_turns(QUEUES, after=after)) == order


def test_queues_that_are_empty_have_no_turn() -> None:
    assert list(in_turns({"a": [], "b": [1]}, after="")) == [("b", 1)]
    assert list(in_turns({}, after="a")) == []

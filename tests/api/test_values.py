from dataclasses import dataclass

from controller.api.values import replace


@dataclass(frozen=True)
class Pair:
    left: int
    right: str


def test_a_copy_that_changes_nothing_is_the_value_itself() -> None:
    pair = Pair(1, "a")

    assert replace(pair) is pair
    assert replace(pair, left=1, right="a") is pair


def test_a_copy_has_the_new_fields_and_keeps_the_others() -> None:
    assert replace(Pair(1, "a"), right="b") == Pair(1, "b")

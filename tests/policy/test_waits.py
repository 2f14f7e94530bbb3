"""Waits that contradict each other."""

import re

import pytest

from controller.policy.waits import Waits


@pytest.mark.parametrize("first_s", [0, 20, 30])
def test_the_first_backoff_may_be_as_long_as_the_longest(first_s: float) -> None:
    assert Waits(backoff_first_s=first_s, backoff_max_s=30).backoff_first_s == first_s


def test_a_first_backoff_that_is_longer_than_the_longest_is_refused_by_the_names_of_the_flags() -> None:
    sentence = "--backoff-first must not be longer than --backoff-max."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Waits(backoff_first_s=31, backoff_max_s=30)

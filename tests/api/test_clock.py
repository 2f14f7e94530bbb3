"""How times and durations are written."""

import pytest

from controller.api.clock import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (90, "1m30s"),
        (600, "10m"),
        (630, "10m"),
        (3600, "1h"),
        (11_100, "3h5m"),
        (86_400, "1d"),
        (187_200, "2d4h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text

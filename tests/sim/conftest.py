"""What the worlds of `make test` are not, which is printed when all is over."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _the_worlds_are_the_same_each_time(at_the_end: dict[str, list[str]]) -> None:
    at_the_end["simulated"] = ["The same few worlds each time; `SIM_WORLDS=5000 pytest tests/sim` is chance."]

"""The matrix of rights, which is printed when all is over."""

import pytest


@pytest.fixture(scope="session")
def matrix(at_the_end: dict[str, list[str]]) -> list[str]:
    """Lines about the cases, to be printed when all is over."""
    return at_the_end.setdefault("who may do what", [])

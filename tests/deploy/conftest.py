"""The matrix of rights, which is printed when all is over."""

import pytest

MATRIX = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> list[str]:
    """Lines to be printed when all is over."""
    return pytestconfig.stash.setdefault(MATRIX, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the matrix of rights, case by case."""
    if lines := config.stash.get(MATRIX, []):
        terminalreporter.section("who may do what")
        for line in lines:
            terminalreporter.write_line(line)

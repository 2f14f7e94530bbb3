"""Says how to simulate more."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The worlds that `make test` plays are the same each time."""
    terminalreporter.write_line(
        "simulated: the same few worlds each time; `SIM_WORLDS=5000 pytest tests/sim` is chance"
    )

"""An API server of its own with virtsync installed, for policies hold for everybody; and the matrix of rights."""

from collections.abc import Iterator

import pytest

from lab.controlplane import ControlPlane
from tests.deploy.callers import REPOSITORY

MATRIX = pytest.StashKey[list[str]]()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Installed as the README says, in one go on an empty cluster; nothing runs, for there is no node.

    For a module, so that it does not run on beside the tests that come after.
    """
    with ControlPlane(tmp_path_factory.mktemp("installed")) as running:
        running.kubectl(
            "apply", "-f", str(REPOSITORY / "deploy" / "crds"), "-f", str(REPOSITORY / "deploy" / "install.yaml")
        )
        running.install_crds()
        yield running


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

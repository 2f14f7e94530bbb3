"""The real parts that tests share; what a fixture here starts ends with the test run."""

from collections.abc import Iterator

import pytest

from lab.controlplane import ControlPlane


@pytest.fixture(scope="session")
def controlplane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One real API server for the whole run: a test names its objects, or its namespace, after itself."""
    with ControlPlane(tmp_path_factory.mktemp("controlplane")) as running:
        yield running

"""Real parts that may be killed and paused: the other tests share theirs with nobody here."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd


@pytest.fixture(scope="session")
def controlplane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that may be killed and paused, if it is back when the test ends."""
    with ControlPlane(tmp_path_factory.mktemp("controlplane")) as running:
        yield running


@pytest.fixture(scope="session")
def crd(controlplane: ControlPlane) -> ControlPlane:
    """The same, once it serves and explains VirtualMachines."""
    controlplane.install_crds()
    return controlplane


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    """A libvirtd that may be killed and paused, if it is back when the test ends; it records what it is asked."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder), logged=True) as running:
        yield running

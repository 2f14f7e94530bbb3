"""The real parts that tests share; what a fixture here starts ends with the test run."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd


@pytest.fixture(scope="session")
def controlplane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One real API server for the whole run: a test names its objects, or its namespace, after itself."""
    with ControlPlane(tmp_path_factory.mktemp("controlplane")) as running:
        yield running


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    """One real libvirtd for the whole run: a test names its domains after itself, and may not kill or pause it."""
    # The folders of pytest are too long for the sockets of a session libvirtd.
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def crd(controlplane: ControlPlane) -> ControlPlane:
    """The API server of the run, once it serves and explains VirtualMachines."""
    controlplane.kubectl("apply", "-f", str(Path(__file__).parents[1] / "deploy" / "crds"))
    controlplane.kubectl("wait", "crd/virtualmachines.virtsync.dev", "--for=condition=Established", "--timeout=60s")
    # Serving and explaining begin a moment after Established, and nothing tells when.
    deadline = time.monotonic() + 60
    for command in (("get", "kvm"), ("explain", "kvm")):
        while controlplane.kubectl(*command, check=False).returncode:
            assert time.monotonic() < deadline, f"kubectl {' '.join(command)} still fails"
            time.sleep(0.05)
    return controlplane

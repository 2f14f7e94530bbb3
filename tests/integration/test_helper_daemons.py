"""libvirtd needs a daemon that does not run, such as virtlogd: that is an answer, and not a lost call."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World, ready_of

pytestmark = pytest.mark.root


@pytest.fixture
def libvirtd() -> Iterator[Libvirtd]:
    """QEMU's output is to go to virtlogd, as is libvirt's default, and there is none."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as name:
        Path(name).chmod(0o755)
        with Libvirtd(Path(name)) as running:
            conf = running.folder / "etc" / "qemu.conf"
            conf.write_text(conf.read_text().replace('stdio_handler = "file"\n', ""))
            running.restart()
            yield running


def test_a_start_without_virtlogd_fails_and_backs_off(crd: ControlPlane, libvirtd: Libvirtd, tmp_path: Path) -> None:
    with World(crd, libvirtd, "no-virtlogd", tmp_path) as world:
        vm = world.define()
        world.start_agent(start_interval="1s", backoff_first="10s")
        world.apply(vm, powerState="Running")
        world.until_event(vm, "StartFailed")
        failed = world.until_ready(vm, "StartFailed")
        assert "virtlogd-sock" in ready_of(failed)["message"]
        assert "operation" not in failed["status"]
        assert failed["status"]["backoff"]["failures"] == 1
        assert world.acts(vm) == ["START refused"]

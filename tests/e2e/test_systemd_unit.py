"""The agent as a systemd service, on a host that is not a node: installed as docs/install.md says, under a systemd.

The systemd is the first process of namespaces of its own. It has the unit unchanged; a drop-in says what this machine
lacks.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World, is_off, runs, until
from tests.deploy.callers import AGENTS, REPOSITORY
from tests.e2e.own_systemd import OwnSystemd

UNIT = REPOSITORY / "deploy/systemd/virtsync-agent.service"
SERVICE = "virtsync-agent"
HOST = "kvm-7"
KUBECONFIG = "/var/lib/virtsync/kubeconfig"
LOG = "/run/agent.log"
DROP_IN = f"""\
[Service]
# There is no journal.
StandardOutput=append:{LOG}
StandardError=append:{LOG}
# This may not be lowered in a container.
OOMScoreAdjust=0
# The program runs from a checkout, which can be in a home folder.
ProtectHome=read-only
"""

pytestmark = pytest.mark.e2e


@pytest.fixture
def world(installed: ControlPlane, libvirtd: Libvirtd, tmp_path: Path) -> Iterator[World]:
    with World(installed, libvirtd, HOST, tmp_path) as entered:
        yield entered


@pytest.fixture
def host(libvirtd: Libvirtd, tmp_path: Path) -> Iterator[OwnSystemd]:
    folder = tmp_path / "host"
    drop_ins = folder / "units" / f"{SERVICE}.service.d"
    drop_ins.mkdir(parents=True)
    (drop_ins / "lab.conf").write_text(DROP_IN)
    shutil.copy(UNIT, folder / "units")
    (folder / "opt/virtsync").mkdir(parents=True)
    (folder / "opt/virtsync/bin").symlink_to(Path(sys.prefix) / "bin")
    (folder / "default").mkdir()
    with OwnSystemd(HOST, folder, libvirtd.socket.parent) as running:
        yield running


def settings(host: OwnSystemd, **variables: str) -> None:
    lines = {"VIRTSYNC_HTTP_PORT": "0", "VIRTSYNC_SETTLE_POWER": "1s", "VIRTSYNC_START_INTERVAL": "0.1s"} | variables
    (host.folder / f"default/{SERVICE}").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


def enroll(controlplane: ControlPlane, host: OwnSystemd) -> None:
    """What an administrator types."""
    file = host.folder / f"{HOST}.kubeconfig"
    words = ("--out", str(file), "--kubeconfig", str(controlplane.kubeconfig))
    command = [sys.executable, "-m", "controller", "enroll", HOST, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"cat > {KUBECONFIG}" in done.stderr
    copy = f"umask 077; mkdir -p /var/lib/virtsync; cat > {KUBECONFIG}"
    host.run("sh", "-c", copy, text=file.read_text())


def main_pid(host: OwnSystemd) -> str:
    return host.run("systemctl", "show", SERVICE, "--property=MainPID", "--value").strip()


def holder(controlplane: ControlPlane) -> str:
    words = ("get", "lease", HOST, f"--namespace={AGENTS}", "--output=jsonpath={.spec.holderIdentity}")
    return controlplane.kubectl(*words, check=False).stdout


def test_the_service_does_all_that_an_agent_does(world: World, host: OwnSystemd) -> None:
    """It starts and stops a VM, renews its token, survives a crash, and gives its Lease back at the end."""
    enroll(world.controlplane, host)
    settings(host, VIRTSYNC_RENEW_AFTER="15s")
    token = host.path(KUBECONFIG).read_text()
    guest = world.define()
    world.apply(guest, powerState="Running")
    host.run("systemctl", "enable", "--now", SERVICE)
    world.until(guest, runs, "started")
    until(lambda: host.path(KUBECONFIG).read_text() != token, "the token is not renewed")
    assert host.run("stat", "--format=%a %U", KUBECONFIG) == "600 root\n"
    assert holder(world.controlplane)

    before = main_pid(host)
    host.run("kill", f"-{signal.SIGKILL.value}", before)
    until(lambda: main_pid(host) not in {"0", before}, "it was not started again")
    world.patch(guest, powerState="Stopped", shutdown={"mode": "Force"})
    world.until(guest, is_off, "stopped by the next agent")

    host.run("systemctl", "stop", SERVICE)
    result = host.run("systemctl", "show", SERVICE, "--property=Result,ExecMainStatus")
    assert sorted(result.split()) == ["ExecMainStatus=0", "Result=success"], host.path(LOG).read_text()
    assert holder(world.controlplane) == ""


def test_an_agent_that_hangs_is_started_again_and_one_that_works_is_not(
    installed: ControlPlane, host: OwnSystemd
) -> None:
    enroll(installed, host)
    settings(host)
    folder = f"/etc/systemd/system/{SERVICE}.service.d"
    drop_in = "[Service]\nWatchdogSec=10s\n"
    host.run("sh", "-c", f"cat > {folder}/watchdog.conf && systemctl daemon-reload", text=drop_in)
    host.run("systemctl", "start", SERVICE)
    until(lambda: bool(holder(installed)), "it does not begin")
    before, heard = main_pid(host), set()

    def heard_often() -> bool:
        heard.add(host.run("systemctl", "show", SERVICE, "--property=WatchdogTimestampMonotonic", "--value"))
        return len(heard) > 4  # a third of the time each

    until(heard_often, "systemd does not hear it")
    assert main_pid(host) == before

    host.run("kill", f"-{signal.SIGSTOP.value}", before)
    until(lambda: main_pid(host) not in {"0", before}, "it was not started again")


def test_the_check_of_the_docs_finds_nothing_missing(installed: ControlPlane, host: OwnSystemd) -> None:
    enroll(installed, host)
    words = ("check", "--node-name", HOST, "--kubeconfig", KUBECONFIG, "--lease-namespace", AGENTS, "--output", "json")
    findings = json.loads(host.run("/opt/virtsync/bin/virtsync", *words))
    assert [one for one in findings if one["state"] == "missing"] == []


def test_without_a_kubeconfig_it_says_what_is_missing(host: OwnSystemd) -> None:
    settings(host)
    host.run("systemctl", "start", "--no-block", SERVICE)
    until(lambda: host.path(LOG).exists() and KUBECONFIG in host.path(LOG).read_text(), "the log does not say it")
    assert "does not exist" in host.path(LOG).read_text()

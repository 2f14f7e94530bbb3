"""The overlay observe-only: what its agent is given is enough to tell, and libvirt itself lets it do nothing else."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World
from tests.deploy.callers import REPOSITORY

HOST_FOLDER = "/run/libvirt/"


@pytest.fixture(scope="module")
def pod(installed: ControlPlane) -> Any:
    """The Pod of the overlay."""
    rendered = installed.kubectl("kustomize", str(REPOSITORY / "deploy" / "overlays" / "observe-only")).stdout
    agents = next(it for it in yaml.safe_load_all(rendered) if it["kind"] == "DaemonSet")
    return agents["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def host() -> Iterator[Libvirtd]:
    """A libvirtd whose sockets others can reach, as those of a host."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder:
        Path(folder).chmod(0o755)
        with Libvirtd(Path(folder)) as running:
            yield running


def test_it_tells_what_vms_do_and_switches_none(
    pod: Any, host: Libvirtd, installed: ControlPlane, tmp_path: Path
) -> None:
    with World(installed, host, "observed", tmp_path) as world:
        guest = world.define()
        env = {it["name"]: it["value"] for it in pod["containers"][0]["env"] if "value" in it}
        agent = world.new_agent(uri=_uri(env.pop("LIBVIRT_URI"), host), env=env)
        agent.start()
        world.apply(guest, powerState="Running")
        world.until_ready(guest, "ObserveOnly")
        world.virsh("start", guest.name)
        world.until_ready(guest, "InSync")
        world.virsh("destroy", guest.name)
        world.until_off(guest, "External")
        world.until_ready(guest, "ObserveOnly")
        assert world.nothing_done(guest)


@pytest.mark.parametrize("command", ["start", "destroy", "suspend", "undefine"])
def test_libvirt_refuses_everything_else_to_its_user(pod: Any, host: Libvirtd, command: str) -> None:
    guest = host.define(f"refused-{command}")
    assert _virsh(pod, host, "domstate", guest.name).stdout.strip() == "shut off"
    refused = _virsh(pod, host, command, guest.name)
    assert refused.returncode != 0
    assert "read only access prevents" in refused.stderr


def _uri(uri: str, host: Libvirtd) -> str:
    """The same socket of the lab's libvirtd; one that does not run as root has only one."""
    assert HOST_FOLDER in uri
    return host.uri if host.user else uri.replace(HOST_FOLDER, f"{host.socket.parent}/")


def _virsh(pod: Any, host: Libvirtd, *words: str) -> subprocess.CompletedProcess[str]:
    """Run virsh as the Pod's user, who has no home; where that cannot be, as one who wants no more than to read."""
    uri = next(it["value"] for it in pod["containers"][0]["env"] if it["name"] == "LIBVIRT_URI")
    command = ["virsh", "-q", "-c", _uri(uri, host), *(["--readonly"] if host.user else []), *words]
    user = pod["securityContext"]["runAsUser"]
    ids: Any = {} if host.user else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.defpath}, **ids)

"""The chart on real nodes, with the commands of docs/install.md."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from lab import helm
from lab.world import power_of, runs, until
from tests.e2e.agents import NAMESPACE, REPOSITORY, Agents
from tests.e2e.vms import OnEachNode

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SECTION = (REPOSITORY / "docs/install.md").read_text().partition("\n### With Helm\n")[2].partition("\n## ")[0]
INSTALL, UPGRADE, UNINSTALL = re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL)
(VALUES,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
HANG_LIMIT = "--timeout=120s"


class Shell:
    """Where somebody types the commands: a folder with what a checkout has, helm and kubectl."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        (folder / "deploy").symlink_to(REPOSITORY / "deploy")
        path = f"{helm.MODULE.program('helm').parent}:{cluster.controlplane.assets}:{os.environ['PATH']}"
        self.env = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(folder), "PATH": path}

    def type(self, block: str) -> str:
        """Run the commands of a block, one after the other; what they printed."""
        commands = "\n".join(line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(agents: Agents, cluster: Cluster, tmp_path: Path) -> Iterator[Shell]:
    """The chart is installed on a cluster that had no virtsync; afterwards virtsync is there again as it was."""
    cluster.kubectl("delete", "--ignore-not-found", "-f", str(REPOSITORY / "deploy/install.yaml"), HANG_LIMIT)
    cluster.kubectl("delete", "--ignore-not-found", "-f", str(REPOSITORY / "deploy/crds"), HANG_LIMIT)
    shell = Shell(tmp_path, cluster)
    try:
        shell.type(INSTALL)
        agents.until_ready()
        agents.until_managers_ready()
        yield shell
    finally:
        shell.type(f"$ helm uninstall virtsync --namespace {NAMESPACE} --ignore-not-found")
        agents.apply()
        agents.until_ready()
        agents.until_managers_ready()


@pytest.mark.timeout(600)
def test_installed_upgraded_and_uninstalled_as_the_documentation_says(
    shell: Shell, agents: Agents, vms: OnEachNode
) -> None:
    world = vms.world
    vms.switch_on()
    runs_before = vms.runs()

    (shell.folder / "values.yaml").write_text(VALUES)
    shell.type(UPGRADE)
    agents.until_ready()
    agents.until_managers_ready()
    for node in vms.guests:
        env = {it["name"]: it.get("value") for it in agents.pod(node)["spec"]["containers"][0]["env"]}
        assert env["VIRTSYNC_SETTLE_POWER"] == "30s"
    assert vms.runs() == runs_before

    shell.type(UNINSTALL)
    until(
        lambda: not json.loads(agents.kubectl("get", "pods", "--output=json"))["items"], "Pods are left.", limit_s=120
    )
    assert vms.runs() == runs_before
    for guest in vms.guests.values():
        assert power_of(world.get(guest)) == "Running"
    left = json.loads(agents.kubectl("get", "daemonsets,deployments,serviceaccounts", "--output=json"))["items"]
    assert {it["metadata"]["name"] for it in left} == {"default"}

    # Again, with the definitions and the objects that are there.
    shell.type(INSTALL)
    agents.until_ready()
    for guest in vms.guests.values():
        guest.wait_until_booted()
        guest.poweroff()
        world.until_off(guest, "Guest")
        world.until(guest, runs, "running again")

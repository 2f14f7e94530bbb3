"""etcd is restored from a backup while an agent runs: resource versions go back, and the agent goes on at once."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World, is_off, power_of, reason_of, runs, until

CONFLICTS = re.compile(
    r'^apiserver_request_total\{code="409".*resource="virtualmachines".*verb="PATCH".*\} (\S+)$', re.MULTILINE
)
OTHERS = 50
"""Objects made after the backup: so many versions must be given out anew before the numbers have caught up."""


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of its own, for it is stopped and goes back in time."""
    with ControlPlane(tmp_path_factory.mktemp("backed-up")) as running:
        running.install_crds()
        yield running


@pytest.fixture
def world(backed_up: ControlPlane, libvirtd: Libvirtd, tmp_path: Path) -> Iterator[World]:
    with World(backed_up, libvirtd, "restored-etcd", tmp_path) as entered:
        yield entered


def conflicts(controlplane: ControlPlane) -> float:
    """Status patches that the API server has refused since it was started."""
    return sum(map(float, CONFLICTS.findall(controlplane.kubectl("get", "--raw", "/metrics").stdout)))


def test_an_agent_outlives_a_restore_of_etcd(world: World, tmp_path: Path) -> None:
    """The list that follows an outage is believed; from then on the watch tells of changes, as before."""
    controlplane = world.controlplane
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent()
    world.until(guest, runs, "running")
    with controlplane.down():
        controlplane.back_up(tmp_path / "backup")
    others = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}"}} for n in range(OTHERS)]
    world.kubectl("apply", "-f", "-", manifest={"apiVersion": "v1", "kind": "List", "items": others})
    world.patch(guest, powerState="Paused")
    world.until(guest, lambda vm: power_of(vm) == "Paused" and reason_of(vm) == "InSync", "paused")
    with controlplane.down():
        controlplane.restore(tmp_path / "backup")
        world.virsh("resume", guest.name)  # so that the agent has something to tell, and notices the outage
        until(lambda: logged(agent, "the API server does not answer") > 0, "the outage is not noticed")
    assert world.get(guest)["spec"]["powerState"] == "Running"
    world.virsh("suspend", guest.name)
    until(lambda: world.virsh("domstate", guest.name) == "running", "not resumed, as the restored object wants")
    until(lambda: runs(world.get(guest)), "the status does not follow")
    assert conflicts(controlplane) <= 2, "a refused status patch was repeated"
    assert logged(agent, "older resource versions than before") == 1
    patch = json.dumps({"spec": {"powerState": "Stopped", "shutdown": {"mode": "Force"}}})
    world.kubectl("patch", "kvm", guest.name, "--type=merge", "-p", patch)
    until(lambda: is_off(world.get(guest)), "a change after the restore is not followed")


def logged(agent: Agent, words: str) -> int:
    """How many lines of its log have these words."""
    return sum(words in sentence for sentence in agent.log_sentences())

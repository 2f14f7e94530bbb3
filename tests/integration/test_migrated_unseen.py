"""A VM is migrated while no agent observes its node: it is not started a second time.

Two nodes with a libvirtd and an agent each, and a manager. What a libvirtd was asked for is read from its own record.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.judge import asked
from controller.manager.sweep import LOOK_EVERY_S
from lab.libvirtd import Libvirtd
from lab.processes import paused
from lab.world import Json, World, power_of, ready_of, runs, until

RELEASE_LIMIT_S = 150
"""The agent of b reports every 30 s that a domain went off, and 15 s later the manager removes the entry."""
BY_TEST = ["START"]
"""What the test itself asks for to have the VM run."""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """The one of node a, which keeps a record of what it is asked."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder), logged=True) as running:
        yield running


@pytest.fixture(scope="module")
def libvirtd_b() -> Iterator[Libvirtd]:
    """The one of node b."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder), logged=True) as running:
        yield running


class Nodes:
    """Nodes a and b with an agent each, a manager, and a VM that is bound to node a and runs there."""

    def __init__(self, world: World, libvirtd_b: Libvirtd) -> None:
        self.world, self.libvirtd_b = world, libvirtd_b
        self.a, self.b = world.node, f"{world.node}-b"
        self.vm = world.start()
        world.apply(self.vm, powerState="Running", restartPolicy="Always")
        self.agent_a = world.start_agent(resync_libvirt="2s")
        self.agent_b = world.start_agent(node=self.b, uri=libvirtd_b.uri, resync_libvirt="2s")
        world.until(self.vm, runs, "running on a")
        self.manager = world.new_manager()

    def migrate_unseen(self) -> None:
        """Migrate the VM to b while the agent of a does not run, so that nothing on a shows where it went."""
        self.agent_a.stop()
        to = self.libvirtd_b.uri
        # Its disks need not be shared: it writes to none.
        self.world.virsh(
            "migrate", "--live", "--persistent", "--unsafe", self.vm.name, to, "--migrateuri", "tcp://127.0.0.1"
        )
        self.world.libvirtd.restart()
        assert self.world.virsh("domstate", "--reason", self.vm.name) == "shut off (unknown)"
        self.run_on_b = self.virsh_b("domid", self.vm.name)

    def virsh_b(self, *words: str) -> str:
        return self.libvirtd_b.virsh(*words).stdout.strip()

    def listed(self) -> list[Json]:
        """`status.runsElsewhere` of node a."""
        found = self.world.controlplane.kubectl("get", "hypervisor", self.a, "-o", "json").stdout
        entries: list[Json] = json.loads(found)["status"].get("runsElsewhere", [])
        return entries

    def until_listed(self) -> None:
        until(lambda: bool(self.listed()), "the manager does not list the VM")
        ((uuid, node),) = [(entry["uuid"], entry["nodeName"]) for entry in self.listed()]
        assert (uuid, node) == (str(self.vm.uuid), self.b)

    def until_not_listed(self) -> None:
        until(lambda: not self.listed(), "the manager still lists the VM", limit_s=RELEASE_LIMIT_S)

    def until_vetoed(self) -> Json:
        vm = self.world.until_ready(self.vm, "RunsElsewhere")
        assert ready_of(vm)["status"] == "False"
        assert self.b in ready_of(vm)["message"]
        return vm

    def assert_not_started(self) -> None:
        """Node a was not asked to start the VM, although every settle time has passed."""
        self.world.outlast_settling()
        assert asked(self.world.libvirtd.calls_log, self.vm.uuid) == BY_TEST
        assert self.world.run_id(self.vm) == "-"


@pytest.fixture
def nodes(world: World, libvirtd_b: Libvirtd) -> Iterator[Nodes]:
    running = Nodes(world, libvirtd_b)
    running.manager.start()
    yield running
    if running.vm.name in running.virsh_b("list", "--all", "--name").split():
        libvirtd_b.virsh("destroy", running.vm.name, check=False)
        libvirtd_b.virsh("undefine", running.vm.name)


def test_migrated_unseen_is_not_started_and_follows_its_node_name(nodes: Nodes) -> None:
    nodes.migrate_unseen()
    nodes.until_listed()
    nodes.agent_a.start()
    nodes.until_vetoed()
    nodes.assert_not_started()
    nodes.world.until_event(nodes.vm, "RunsElsewhere")
    nodes.world.patch(nodes.vm, nodeName=nodes.b)
    on_b = nodes.world.until(nodes.vm, lambda vm: runs(vm) and vm["status"]["nodeName"] == nodes.b, "running on b")
    assert on_b["status"]["domain"]["id"] == int(nodes.run_on_b)
    nodes.until_not_listed()
    nodes.assert_not_started()
    assert asked(nodes.libvirtd_b.calls_log, nodes.vm.uuid) == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_migrated_unseen_is_started_after_it_is_gone_on_the_other_node(nodes: Nodes) -> None:
    nodes.migrate_unseen()
    nodes.until_listed()
    nodes.agent_a.start()
    nodes.until_vetoed()
    nodes.virsh_b("destroy", nodes.vm.name)
    nodes.until_not_listed()
    nodes.world.until(nodes.vm, runs, "started on a")
    assert asked(nodes.world.libvirtd.calls_log, nodes.vm.uuid) == [*BY_TEST, "START"]


def test_runs_elsewhere_cleared(nodes: Nodes) -> None:
    """Node b is lost while the VM runs there: only a person can say that it is off.

    It does not help to bind the VM to b, which cannot take it over, and back.
    """
    nodes.migrate_unseen()
    nodes.until_listed()
    nodes.agent_a.start()
    message = ready_of(nodes.until_vetoed())["message"]
    nodes.libvirtd_b.kill()
    try:
        nodes.assert_not_started()
        entry = nodes.listed()[0]
        nodes.world.patch(nodes.vm, nodeName=nodes.b)
        time.sleep(3 * LOOK_EVERY_S)
        nodes.world.patch(nodes.vm, nodeName=nodes.a)
        nodes.until_vetoed()
        nodes.assert_not_started()
        assert nodes.listed() == [entry]
        void = f"{nodes.b} 2026-01-01T00:00:00Z"
        nodes.world.kubectl("annotate", "kvm", nodes.vm.name, f"virtsync.dev/confirmed-off={void}")
        nodes.assert_not_started()
        told = re.search(r"virtsync.dev/confirmed-off[:=] ?'?([^'\"]+Z)", message)
        assert told, message
        assert told[1] == f"{entry['nodeName']} {entry['since']}"
        nodes.world.kubectl("annotate", "--overwrite", "kvm", nodes.vm.name, f"virtsync.dev/confirmed-off={told[1]}")
        nodes.world.until(nodes.vm, runs, "started on a")
        assert nodes.listed() == [entry], "the manager cannot know that node b is off"
    finally:
        nodes.libvirtd_b.start()


@pytest.mark.long
@pytest.mark.timeout(400)
def test_runs_elsewhere_manager_away(nodes: Nodes) -> None:
    """Without a manager the list stays as it was, also when the VM is gone on the other node."""
    nodes.migrate_unseen()
    nodes.until_listed()
    before = nodes.listed()
    nodes.manager.stop()
    nodes.agent_a.start()
    nodes.until_vetoed()
    nodes.virsh_b("destroy", nodes.vm.name)
    nodes.assert_not_started()
    assert nodes.listed() == before
    nodes.manager.start()
    nodes.until_not_listed()
    nodes.world.until(nodes.vm, runs, "started on a")


def test_unset_node_name(nodes: Nodes) -> None:
    nodes.manager.stop()
    nodes.world.patch(nodes.vm, nodeName=None)
    left = nodes.world.get(nodes.vm)
    assert (power_of(left), ready_of(left)["reason"]) == ("Running", "InSync"), "the last report of node a"
    nodes.manager.start()
    nobody = nodes.world.until(nodes.vm, lambda vm: ready_of(vm)["reason"] == "Pending", "of no node")
    assert ready_of(nobody)["status"] == "Unknown"
    assert ready_of(nobody)["message"].startswith("No node is responsible for it")
    assert power_of(nobody) == "Running"
    nodes.world.patch(nodes.vm, nodeName=nodes.a)
    nodes.world.until(nodes.vm, runs, "taken back by a")
    assert asked(nodes.world.libvirtd.calls_log, nodes.vm.uuid) == BY_TEST


def test_migrated_with_its_definition_and_defined_again_is_not_started(nodes: Nodes, tmp_path: Path) -> None:
    """As docs/operations.md says, and then somebody defines it on the source again, such as Ansible or Terraform.

    The agent does not observe the pause at the end of the migration: its host was busy.
    """
    nodes.manager.stop()
    definition = tmp_path / "domain.xml"
    definition.write_text(nodes.world.virsh("dumpxml", "--inactive", nodes.vm.name))
    words = ["migrate", "--live", "--persistent", "--undefinesource", "--unsafe", nodes.vm.name, nodes.libvirtd_b.uri]
    with paused(nodes.agent_a.pid):
        nodes.world.virsh(*words, "--migrateuri", "tcp://127.0.0.1")
    gone = nodes.world.until_ready(nodes.vm, "DomainNotFound")
    assert gone["status"]["lastStop"]["cause"] == "Migrated"
    nodes.world.virsh("define", str(definition))
    nodes.world.until_ready(nodes.vm, "MigratedAway")
    nodes.assert_not_started()
    assert nodes.virsh_b("domstate", nodes.vm.name) == "running"

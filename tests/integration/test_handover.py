"""A VM gets another node: the former agent lets go, and the new one starts nothing that may still run over there.

Two nodes with a libvirtd and an agent each; what either was asked for is read from libvirtd's own record.
"""

import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chaos.judge import asked
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import Json, World, is_off, power_of, ready_of, reason_of, runs, until


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
    """Nodes a and b with an agent each, and one VM that is defined on both; its object is bound to a."""

    def __init__(self, world: World, libvirtd_b: Libvirtd, *, on: bool, **spec: object) -> None:
        self.world = world
        self.a, self.b = world.node, f"{world.node}-b"
        self.on_a = world.start() if on else world.define()
        self.on_b = world.define(libvirtd=libvirtd_b, uuid=self.on_a.uuid)
        world.apply(self.on_a, powerState="Running" if on else "Stopped", **spec)
        world.start_agent(acpi_resend="1s", force_wait="1s")
        world.until(self.on_a, runs if on else is_off, "in sync on a")
        world.start_agent(node=self.b, uri=libvirtd_b.uri)

    def hand_over(self, **spec: object) -> None:
        """Bind the object to b."""
        self.world.patch(self.on_a, nodeName=self.b, **spec)

    def until_unconfirmed(self) -> Json:
        """Wait until b's agent says that it does not know; what a's has told of the VM is still there."""
        vm = self.world.until_ready(self.on_a, "HandoverUnconfirmed")
        assert ready_of(vm)["status"] == "False"
        assert self.a in ready_of(vm)["message"]
        assert (vm["status"]["nodeName"], power_of(vm)) == (self.a, "Running")
        return vm

    def until_it_runs_on_b(self) -> Json:
        """Wait until b's agent tells that it runs there, as wanted."""
        vm = self.world.until(self.on_a, lambda vm: runs(vm) and vm["status"]["nodeName"] == self.b, "running on b")
        assert vm["status"]["domain"]["id"] == int(self.world.run_id(self.on_b))
        return vm

    def migrate(self) -> None:
        """Move it from a to b while it runs, as somebody does behind the agents' backs."""
        to = self.on_b.libvirtd.uri
        # Its disks need not be shared: it writes to none.
        self.world.virsh("migrate", "--live", "--unsafe", self.on_a.name, to, "--migrateuri", "tcp://127.0.0.1")

    def asked(self) -> tuple[list[str], list[str]]:
        """The acts on the VM that the libvirtds of a and b were asked for, by anybody."""
        return asked_of(self.on_a), asked_of(self.on_b)


def asked_of(guest: Guest) -> list[str]:
    """The acts that its libvirtd was asked for."""
    return asked(guest.libvirtd.calls_log, guest.uuid)


BY_TEST = ["START"]
"""What the test itself asks for to have the VM run."""


def test_node_handover_running_on_a(world: World, libvirtd_b: Libvirtd) -> None:
    nodes = Nodes(world, libvirtd_b, on=True, restartPolicy="Always")
    run = world.run_id(nodes.on_a)
    nodes.hand_over()
    nodes.until_unconfirmed()
    assert "HandoverUnconfirmed" in world.kubectl("get", "kvm", nodes.on_a.name)
    assert (world.run_id(nodes.on_a), world.run_id(nodes.on_b)) == (run, "-")
    # What happens on a from now on is nobody's affair: neither told nor put right.
    version = world.get(nodes.on_a)["metadata"]["resourceVersion"]
    nodes.on_a.poweroff()
    until(lambda: world.run_id(nodes.on_a) == "-", "it is not off on a")
    world.outlast_settling()
    assert world.get(nodes.on_a)["metadata"]["resourceVersion"] == version
    assert nodes.asked() == (BY_TEST, [])
    # Back on a, whose agent knows what it may do there.
    world.patch(nodes.on_a, nodeName=nodes.a)
    back = world.until(nodes.on_a, runs, "started on a")
    assert back["status"]["nodeName"] == nodes.a
    assert nodes.asked() == ([*BY_TEST, "START"], [])


def test_node_handover_during_a_stop(world: World, libvirtd_b: Libvirtd) -> None:
    nodes = Nodes(world, libvirtd_b, on=True, shutdown={"gracePeriodSeconds": 8})
    nodes.on_a.ignore_power_button()
    run = world.run_id(nodes.on_a)
    world.patch(nodes.on_a, powerState="Stopped")
    world.until_act(nodes.on_a, "SHUTDOWN done")
    deadline = datetime.fromisoformat(world.get(nodes.on_a)["status"]["operation"]["deadline"])
    nodes.hand_over()
    nodes.until_unconfirmed()
    world.outlast_settling()  # and what a's agent had begun
    before = nodes.asked()
    until(lambda: datetime.now(UTC) > deadline, "the deadline has not come")
    world.outlast_settling()
    assert nodes.asked() == before
    assert set(before[0]) == {"START", "SHUTDOWN"}
    assert before[1] == []
    assert world.run_id(nodes.on_a) == run


@pytest.mark.parametrize("in_one", [True, False], ids=["moved-and-switched-on", "moved-first"])
def test_node_handover_off_on_a(world: World, libvirtd_b: Libvirtd, *, in_one: bool) -> None:
    nodes = Nodes(world, libvirtd_b, on=False)
    if in_one:
        nodes.hand_over(powerState="Running")
    else:
        nodes.hand_over()
        moved = world.until(nodes.on_a, lambda vm: is_off(vm) and vm["status"]["nodeName"] == nodes.b, "off on b")
        assert "lastStop" not in moved["status"]
        world.patch(nodes.on_a, powerState="Running")
    nodes.until_it_runs_on_b()
    assert nodes.asked() == ([], ["START"])
    assert world.run_id(nodes.on_a) == "-"
    assert "HandoverUnconfirmed" not in [reason for _, reason, _ in world.told(nodes.on_a)]


def test_node_handover_running_on_b(world: World, libvirtd_b: Libvirtd) -> None:
    nodes = Nodes(world, libvirtd_b, on=True)
    nodes.on_b.start()
    ids = world.run_id(nodes.on_a), world.run_id(nodes.on_b)
    nodes.hand_over()
    nodes.until_it_runs_on_b()
    world.outlast_settling()
    assert (world.run_id(nodes.on_a), world.run_id(nodes.on_b)) == ids
    assert nodes.asked() == (BY_TEST, BY_TEST)
    assert {(power, reason) for power, reason, _ in world.told(nodes.on_a) if reason != "Pending"} == {
        ("Running", "InSync")
    }


def test_node_handover_follows_a_live_migration(world: World, libvirtd_b: Libvirtd) -> None:
    nodes = Nodes(world, libvirtd_b, on=True, restartPolicy="Always")
    nodes.migrate()
    gone = world.until_ready(nodes.on_a, "MigratedAway")
    assert (gone["status"]["nodeName"], gone["status"]["lastStop"]["cause"]) == (nodes.a, "Migrated")
    nodes.hand_over()
    nodes.until_it_runs_on_b()
    assert nodes.asked() == (BY_TEST, [])


def test_node_handover_before_a_live_migration(world: World, libvirtd_b: Libvirtd) -> None:
    nodes = Nodes(world, libvirtd_b, on=True, restartPolicy="Always")
    nodes.hand_over()
    nodes.until_unconfirmed()
    nodes.migrate()
    nodes.until_it_runs_on_b()
    assert nodes.asked() == (BY_TEST, [])


def test_node_handover_vouched_for(world: World, libvirtd_b: Libvirtd) -> None:
    nodes = Nodes(world, libvirtd_b, on=True)
    nodes.hand_over()
    report = nodes.until_unconfirmed()["status"]
    # Node a is lost, and nobody there can say so.
    world.agents[0].kill()
    nodes.on_a.kill()
    moved = report["runTransitionTime"]
    voids = [nodes.a, f"{nodes.b} {moved}", f"{nodes.a} 2026-01-01T00:00:00Z"]
    for policy, void in zip(["Never", "Always", "Never"], voids, strict=True):
        world.kubectl("annotate", "--overwrite", "kvm", nodes.on_a.name, f"virtsync.dev/confirmed-off={void}")
        world.patch(nodes.on_a, restartPolicy=policy)
        nodes.until_unconfirmed()
        assert nodes.asked() == (BY_TEST, []), f"somebody vouched with {void!r}"
    message = ready_of(world.get(nodes.on_a))["message"]
    told = re.search(r"virtsync.dev/confirmed-off='([^']+)'", message)
    assert told, message
    world.kubectl("annotate", "--overwrite", "kvm", nodes.on_a.name, f"virtsync.dev/confirmed-off={told[1]}")
    nodes.until_it_runs_on_b()
    assert nodes.asked() == (BY_TEST, ["START"])
    assert reason_of(world.get(nodes.on_a)) == "InSync"

"""The definition is newer than the agent, as in each upgrade: what it does not know costs nobody else anything."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World, is_off, ready_of, runs, until

SCHEMA = "/spec/versions/0/schema/openAPIV3Schema/properties"
NEWER = [
    {"op": "add", "path": f"{SCHEMA}/spec/properties/powerState/enum/-", "value": "Hibernated"},
    {"op": "add", "path": f"{SCHEMA}/status/properties/note", "value": {"type": "string"}},
    {"op": "add", "path": f"{SCHEMA}/status/properties/domain/properties/note", "value": {"type": "string"}},
]


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of its own, whose definition has a word and fields that this version does not know."""
    with ControlPlane(tmp_path_factory.mktemp("newer")) as running:
        running.install_crds()
        running.kubectl("patch", "crd", "virtualmachines.virtsync.dev", "--type=json", "-p", json.dumps(NEWER))
        until(lambda: serves_newer(running), "the newer definition is not served")
        yield running


@pytest.fixture
def world(newer: ControlPlane, libvirtd: Libvirtd, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with World(newer, libvirtd, name, tmp_path) as entered:
        yield entered


def serves_newer(controlplane: ControlPlane) -> bool:
    """Whether the change of the definition has come through, in what is accepted and in what is listed."""
    vm = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "newer"}}
    body = json.dumps(vm | {"spec": {"powerState": "Hibernated"}})
    commands = (("create", "--dry-run=server", "-f", "-"), ("get", "kvm"))
    return not any(controlplane.kubectl(*words, input=body, check=False).returncode for words in commands)


def test_one_word_that_is_not_known_does_not_stop_the_node(world: World) -> None:
    strange, plain = world.start("strange"), world.define("plain")
    world.apply(strange, powerState="Hibernated")
    world.apply(plain, powerState="Running")
    world.start_agent()
    world.until(plain, runs, "started")
    world.patch(plain, powerState="Stopped", shutdown={"mode": "Force"})
    world.until(plain, is_off, "off")
    assert world.nothing_done(strange)


def test_a_domain_whose_object_is_not_understood_any_more_is_named_among_the_unmanaged_ones(world: World) -> None:
    """Its status is not kept up to date, and the manager must learn that the domain runs here."""
    strange = world.start("strange")
    world.apply(strange, powerState="Running")
    world.start_agent()
    world.until_ready(strange, "InSync")

    def named() -> bool:
        host = json.loads(world.controlplane.kubectl("get", "kvmhost", world.node, "-o=json").stdout)
        domains = host.get("status", {}).get("unmanaged", {}).get("domains", [])
        return str(strange.uuid) in {one["uuid"] for one in domains if one["powerState"] == "Running"}

    until(lambda: not named(), "managed", limit_s=60)
    world.patch(strange, powerState="Hibernated")
    world.until(strange, lambda vm: ready_of(vm).get("reason") == "SpecNotUnderstood", "not understood")
    until(named, "the domain is not named", limit_s=60)


def test_what_a_newer_agent_has_written_is_left_alone(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    patch = json.dumps({"status": {"note": "newer", "domain": {"note": "newer"}}})
    world.kubectl("patch", "kvm", guest.name, "--subresource=status", "--type=merge", "-p", patch)
    world.patch(guest, powerState="Paused")
    told = world.until_ready(guest, "InSync")
    assert (told["status"]["note"], told["status"]["domain"]["note"]) == ("newer", "newer")

"""A world leaves nothing behind, whoever else looks after its VMs."""

from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import World, runs, until


def test_an_agent_of_somebody_else_starts_no_guest_of_a_world_that_ends(
    crd: ControlPlane, libvirtd: Libvirtd, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects: list[str] = []
    remove = Guest.remove

    def noting(guest: Guest) -> None:
        objects.append(ending.kubectl("get", "kvm", "--output=name"))
        remove(guest)

    world.start_agent()
    with World(crd, libvirtd, "left-behind", tmp_path) as ending:
        guests = [ending.define(name) for name in ("one", "two")]
        ending.apply(*guests, powerState="Running", nodeName=world.node)
        for guest in guests:
            ending.until(guest, runs, "running")
        monkeypatch.setattr(Guest, "remove", noting)

    assert objects == ["", ""]
    assert "left-behind" not in world.virsh("list", "--all", "--name")


def test_a_guest_that_somebody_starts_again_is_removed_too(libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = libvirtd.define("removed-twice")
    guest.start()
    kill = Guest.kill

    def in_vain(killed: Guest) -> None:
        monkeypatch.undo()
        kill(killed)
        until(lambda: libvirtd.virsh("domstate", killed.name).stdout.strip() == "shut off", "It stays on.")
        libvirtd.virsh("start", killed.name)

    monkeypatch.setattr(Guest, "kill", in_vain)
    guest.remove()

    assert libvirtd.qemu_pid(guest.name) is None

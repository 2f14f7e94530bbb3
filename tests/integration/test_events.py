"""Kubernetes Events about failures that repeat, in the words of libvirt and QEMU."""

from pathlib import Path

from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import World


def cut_save(libvirtd: Libvirtd, guest: Guest) -> None:
    """Take the end of its saved memory away, as a full disk does."""
    (image,) = Path(libvirtd.folder).rglob(f"{guest.name}.save")
    with image.open("rb+") as file:
        file.truncate(image.stat().st_size - 100_000)


def test_a_start_that_fails_again_and_again_is_one_event(world: World) -> None:
    """libvirt 9 passes on QEMU's words, each time with another time in front; libvirt 11 does not."""
    guest = world.start()
    world.virsh("managedsave", guest.name)
    cut_save(world.libvirtd, guest)
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until_act(guest, "START refused", times=3)
    event = world.until_event(guest, "StartFailed", lambda event: event.get("series", {}).get("count", 1) >= 3)
    assert "load of migration failed: Input/output error" in event["note"]
    assert "Z qemu-system" not in event["note"]
    assert world.events(guest).count("StartFailed") == 1

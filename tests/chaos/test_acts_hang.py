"""Acts hang: starts and forced stops that libvirt does not answer, and those of other VMs do not wait for them.

What hangs is libvirt's own hook, which libvirtd waits for in the middle of the call, as it would for dead storage.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import World, is_off, power_of, runs, until

HOOK = """\
#!/bin/sh
cd /var/lib/libvirt/guests
while [ -e "hang-$2-$1" ]; do
    touch "hangs-$2-$1"
    sleep 0.1
done
"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """One whose calls hang while a test wants it."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder:
        hook = Path(folder) / "etc/hooks/qemu"
        hook.parent.mkdir(parents=True)
        hook.write_text(HOOK)
        hook.chmod(0o755)
        with Libvirtd(Path(folder)) as running:
            yield running


@contextmanager
def hanging(libvirtd: Libvirtd, step: str, *guests: Guest) -> Iterator[None]:
    """While this lasts, libvirtd waits in this step of what it does to them."""
    with ExitStack() as undo:
        for guest in guests:
            hang = libvirtd.guests / f"hang-{step}-{guest.name}"
            hang.touch()
            undo.callback(hang.unlink)
        yield


def until_hanging(libvirtd: Libvirtd, step: str, *guests: Guest) -> None:
    """Wait until libvirtd waits there."""
    for guest in guests:
        until((libvirtd.guests / f"hangs-{step}-{guest.name}").exists, f"{guest.name} does not hang in {step}")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_hanging_starts(world: World, libvirtd: Libvirtd) -> None:
    stuck, other = [world.define(f"stuck-{number}") for number in range(2)], world.define("other")
    world.apply(*stuck, other, powerState="Stopped")
    world.start_agent(start_parallel="2")
    with hanging(libvirtd, "prepare", *stuck):
        for guest in stuck:
            world.patch(guest, powerState="Running")
        until_hanging(libvirtd, "prepare", *stuck)
        world.patch(other, powerState="Running")
        world.until(other, runs, "running, though two other starts hang")
        assert all(power_of(world.get(guest)) != "Running" for guest in stuck)
    for guest in stuck:
        world.until(guest, runs, "running")
        world.until_act(guest, "START done")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_hanging_forced_stops(world: World, libvirtd: Libvirtd) -> None:
    stuck, other = [world.start(f"stuck-{number}") for number in range(2)], world.start("other")
    world.apply(*stuck, other, powerState="Running", shutdown={"mode": "Force"})
    world.start_agent()
    for guest in (*stuck, other):
        world.until(guest, runs, "running")
    with hanging(libvirtd, "stopped", *stuck):
        for guest in stuck:
            world.patch(guest, powerState="Stopped")
        until_hanging(libvirtd, "stopped", *stuck)
        world.patch(other, powerState="Stopped")
        world.until(other, is_off, "forced off, though two others hang")
        assert not any(world.acts(guest) for guest in stuck)
    for guest in stuck:
        world.until(guest, is_off, "off")
        world.until_act(guest, "DESTROY done")

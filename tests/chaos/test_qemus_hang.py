"""QEMUs hang: calls about them never return, and every other VM is looked after as ever."""

import subprocess
from contextlib import AbstractContextManager

import pytest

from lab.guest import Guest
from lab.processes import paused
from lab.world import World, is_off, moment_after, power_of, ready_of, reason_of, runs, until

LONG = {"gracePeriodSeconds": 600}
OVER = {"gracePeriodSeconds": 1}
"""Ends the grace period of a stop that has been reported. A test that waits for a short grace period to end is a race
between that end and the report, because an agent reports a call only after 5 s without an answer.
"""


def hanging(*guests: Guest) -> AbstractContextManager[None]:
    """Their QEMUs are there and answer nobody."""
    return paused(*(guest.qemu_pid for guest in guests))


def running(world: World, *names: str) -> list[Guest]:
    """VMs that run, as their objects say, and an agent that looks after them."""
    guests = [world.start(name) for name in names]
    world.apply(*guests, powerState="Running", shutdown=LONG)
    world.start_agent(force_wait="1s")
    for guest in guests:
        world.until(guest, runs, "running")
    return guests


def is_served(world: World, guest: Guest) -> None:
    """Its changes are told and corrected: somebody pauses it and it is resumed."""
    world.virsh("suspend", guest.name)
    world.until(guest, lambda vm: power_of(vm) == "Paused", "told to be paused")
    world.until(guest, runs, "resumed")


def test_qemu_stuck(world: World) -> None:
    stuck, *others = running(world, "stuck", "other-1", "other-2")
    with hanging(stuck):
        world.patch(stuck, powerState="Stopped")
        for other in others:
            is_served(world, other)
        busy = world.until_ready(stuck, "HypervisorBusy")
        assert "to shut down the VM" in ready_of(busy)["message"]
        assert power_of(busy) == "Running"
        world.patch(stuck, shutdown=OVER)
        # Force does not wait for the call that never returns.
        off = world.until(stuck, is_off, "forced off")
        assert off["status"]["libvirt"]["reason"] == "DESTROYED"
    world.until_act(stuck, "DESTROY done")
    assert [reason for _, reason, _ in world.told(stuck) if reason == "ActionFailed"] == []
    for other in others:
        assert set(world.acts(other)) == {"RESUME done"}


def test_qemu_stuck_wakes(world: World) -> None:
    """A QEMU that wakes before its grace is over is not forced; the call that waited has asked it."""
    stuck, other = running(world, "stuck", "other")
    with hanging(stuck):
        world.patch(stuck, powerState="Stopped")
        world.until_ready(stuck, "HypervisorBusy")
        is_served(world, other)
    off = world.until(stuck, is_off, "off")
    assert off["status"]["libvirt"]["reason"] == "SHUTDOWN"
    assert "DESTROY done" not in world.acts(stuck)


def test_stuck_and_not_asked(world: World) -> None:
    """A QEMU that hangs and is to run is left alone, whatever it is: nothing about it is due."""
    stuck, other = running(world, "stuck", "other")
    run = world.run_id(stuck)
    with hanging(stuck):
        is_served(world, other)
        assert reason_of(world.get(stuck)) == "InSync"
    world.virsh("suspend", stuck.name)
    world.until(stuck, runs, "resumed")
    assert world.run_id(stuck) == run


@pytest.mark.long
@pytest.mark.timeout(400)
def test_six_stuck(world: World) -> None:
    names = [f"stuck-{number}" for number in range(6)]
    *stuck, first, second = running(world, *names, "other-1", "other-2")
    with hanging(*stuck):
        for guest in stuck:
            world.patch(guest, powerState="Stopped")
        for guest in stuck:
            world.until_ready(guest, "HypervisorBusy")
        is_served(world, first)
        world.patch(second, powerState="Stopped")
        world.until(second, is_off, "off")
        assert world.virsh("list", "--name").count(world.name) == len(stuck) + 1
        for guest in stuck:
            world.patch(guest, shutdown=OVER)
        # Each is forced off in its turn; a list of domains stands still meanwhile, and a look at another VM does not.
        for guest in stuck:
            world.until(guest, is_off, "forced off")
            is_served(world, first)
    for guest in stuck:
        world.until_act(guest, "DESTROY done")
        assert world.acts(guest).count("DESTROY done") == 1


@pytest.mark.long
@pytest.mark.timeout(400)
def test_not_even_killed(world: World) -> None:
    """libvirt takes a QEMU for gone that SIGKILL does not end, as with dead storage: none is started beside it."""
    stuck, other = running(world, "stuck", "other")
    first = stuck.qemu_pid
    world.patch(stuck, shutdown={"mode": "Force"})
    with stuck.frozen():
        world.patch(stuck, restartRequestTime=moment_after(world.get(stuck)))
        until(lambda: "DESTROY done" in world.acts(stuck), "libvirt does not believe it", limit_s=180)
        assert world.virsh("domstate", stuck.name) == "shut off"
        is_served(world, other)
        world.outlast_settling()
        assert qemus(stuck) == [first]
    until(lambda: "START done" in world.acts(stuck), "it is not started when its QEMU has ended")
    world.until(stuck, runs, "running")
    assert len(qemus(stuck)) == 1
    assert first not in qemus(stuck)


def qemus(guest: Guest) -> list[int]:
    """All QEMUs of a guest, whatever libvirt knows of them."""
    found = subprocess.run(["pgrep", "-f", f"guest={guest.name},"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]

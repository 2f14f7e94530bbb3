"""The host goes down: what stops with it is not fought, and comes back after the boot, at a pace it bears.

Who was started when is read from libvirtd's own record, and from what it tells its hook at every step of a start.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from chaos.judge import BY_AGENT, asked, calls
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import World, cause_of, power_of, ready_of, reason_of, runs

HOOK = """\
#!/bin/sh
echo "$2 $1" >> /var/lib/libvirt/guests/steps
"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """One that keeps a record of what it is asked, and has a hook."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder:
        hook = Path(folder) / "etc/hooks/qemu"
        hook.parent.mkdir(parents=True)
        hook.write_text(HOOK)
        hook.chmod(0o755)
        with Libvirtd(Path(folder), logged=True) as running:
            yield running


def steps_told(libvirtd: Libvirtd) -> list[str]:
    """What libvirtd has told its hook so far: `prepare NAME` as a start begins, `started NAME` before it returns."""
    return (libvirtd.guests / "steps").read_text().splitlines()


def most_at_a_time(steps: Iterable[str]) -> int:
    """How many starts were under way at a time, at most."""
    under_way, most = set(), 0
    for step, name in (line.split() for line in steps):
        if step == "prepare":
            under_way.add(name)
        elif step == "started":
            under_way.remove(name)
        most = max(most, len(under_way))
    return most


def running(world: World, count: int, **settings: str) -> list[Guest]:
    """So many VMs that run as their objects say, looked after by an agent."""
    guests = [world.define(f"vm-{number}") for number in range(count)]
    for guest in guests:
        world.virsh("start", guest.name)
    for guest in guests:
        guest.wait_until_booted()
    world.apply(*guests, powerState="Running", restartPolicy="Always")
    world.start_agent(**settings)
    for guest in guests:
        world.until(guest, runs, "running")
    return guests


def until_braked(world: World, guest: Guest) -> None:
    """Wait until its settle time is over and it is not started all the same: the brake holds."""
    because = "Several VMs stopped together"
    world.until(
        guest, lambda vm: reason_of(vm) == "Settling" and because in ready_of(vm)["message"], "held by the brake"
    )


def cut_power(world: World, guests: list[Guest]) -> None:
    """The agent and all guests end at once."""
    world.agents[0].kill()
    for guest in guests:
        guest.kill()


def test_host_shutdown(world: World, libvirtd: Libvirtd) -> None:
    guests = running(world, 5, settle_power="5s", brake_hold="1h")
    agent = world.agents[0]
    for guest in guests:
        world.virsh("shutdown", guest.name, "--mode=acpi")
    for guest in guests:
        world.until_off(guest, "Guest")
    until_braked(world, guests[0])
    assert all(world.nothing_done(guest) for guest in guests)
    by_host = ["START", "SHUTDOWN"]
    assert all(asked(libvirtd.calls_log, guest.uuid) == by_host for guest in guests)
    agent.restart(boot_id="second-boot", settle_power="1s")
    for guest in guests:
        assert world.until_off(guest, "NodeReboot")["status"]["nodeBootID"] == "second-boot"
    for guest in guests:
        world.until(guest, runs, "running after the boot")
        world.until_acts(guest, "START done")
        assert asked(libvirtd.calls_log, guest.uuid) == [*by_host, "START"]


def test_host_shutdown_save(world: World, libvirtd: Libvirtd) -> None:
    guests = running(world, 5, settle_power="1s", settle_pause="10s", brake_hold="1h")
    agent = world.agents[0]
    for guest in guests:
        world.virsh("managedsave", guest.name)
    for guest in guests:
        world.until(guest, lambda vm: power_of(vm) == "Saved" and cause_of(vm) == "Saved", "saved")
    for guest in guests:
        until_braked(world, guest)
    # Another agent in the same boot knows it from what the first has reported.
    agent.restart(settle_pause="1s")
    world.apply(*guests, powerState="Running", restartPolicy="OnFailure")
    for guest in guests:
        until_braked(world, guest)
    assert all(world.nothing_done(guest) for guest in guests)
    assert all(asked(libvirtd.calls_log, guest.uuid) == ["START"] for guest in guests), "the test's own, and no other"
    agent.restart(boot_id="second-boot")
    for guest in guests:
        running_again = world.until(guest, runs, "running after the boot")
        assert cause_of(running_again) == "NodeReboot"
        assert running_again["status"]["libvirt"] == {"state": "RUNNING", "reason": "RESTORED"}
        world.until_acts(guest, "START done")
        assert asked(libvirtd.calls_log, guest.uuid) == ["START", "START"]


def test_power_cut(world: World, libvirtd: Libvirtd) -> None:
    interval_s = 1
    # Side by side as many as may be: only the interval holds them back.
    guests = running(world, 20, start_interval=f"{interval_s}s", start_parallel="4")
    cut_power(world, guests)
    _, before = calls(libvirtd.calls_log)
    began_s = time.time()
    world.agents[0].start(boot_id="second-boot")
    for guest in guests:
        world.until_off(guest, "NodeReboot")
        world.until(guest, runs, "running after the boot")
        world.until_acts(guest, "START done")
    made, _ = calls(libvirtd.calls_log, before)
    starts = sorted(call.at_s for call in made if BY_AGENT["qemu"].get(call.signature) == "START")
    assert len(starts) == len(guests)
    # Each has had its turn before it reached libvirtd: never more starts than intervals.
    for number, at_s in enumerate(starts):
        assert at_s - began_s >= interval_s * number


def test_power_cut_starts_a_few_at_a_time(world: World, libvirtd: Libvirtd) -> None:
    parallel = 2
    guests = running(world, 8, start_interval="0.01s", start_parallel=str(parallel))
    cut_power(world, guests)
    before = len(steps_told(libvirtd))
    world.agents[0].start(boot_id="second-boot")
    for guest in guests:
        world.until(guest, lambda vm: runs(vm) and cause_of(vm) == "NodeReboot", "running after the boot")
    assert most_at_a_time(steps_told(libvirtd)[before:]) == parallel

"""libvirtd dies or hangs: the last that was seen stays, marked as stale, and nothing is done on a guess.

Which acts there were is read from libvirtd's own record.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from chaos.judge import asked
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import paused
from lab.world import World, cause_of, is_off, power_of, ready_of, reason_of, runs

BY_TEST = ["START"]
"""What the tests have asked for themselves; the agent starts a domain in the same words."""


@contextmanager
def dead(libvirtd: Libvirtd) -> Iterator[None]:
    """libvirtd is killed with -9 and comes back in the end; its guests live on."""
    libvirtd.kill()
    try:
        yield
    finally:
        libvirtd.start()


def running(world: World, count: int, **spec: str) -> list[Guest]:
    """So many VMs that run as their objects say, looked after by an agent."""
    guests = [world.start(f"vm-{number}") for number in range(count)]
    world.apply(*guests, powerState="Running", **spec)
    world.start_agent()
    for guest in guests:
        world.until(guest, runs, "running")
    return guests


def until_unreachable(world: World, *guests: Guest) -> None:
    """Wait until it is told that libvirt does not answer, and that what is told beside it is of before."""
    for guest in guests:
        vm = world.until_ready(guest, "LibvirtUnreachable")
        assert ready_of(vm)["status"] == "Unknown"
        assert power_of(vm) == "Running", "the last that was seen"


def test_libvirtd_restart(world: World, libvirtd: Libvirtd) -> None:
    guests = running(world, 10, restartPolicy="Always")
    gone, others = guests[:3], guests[3:]
    runs_of_others = [world.run_id(guest) for guest in others]
    with dead(libvirtd):
        until_unreachable(world, *guests)
        for guest in gone:
            guest.kill()
    for guest in gone:
        off = world.until_off(guest, "Unknown")
        assert ready_of(off)["status"] == "False"
        again = world.until(guest, runs, "running again")
        assert again["status"]["restartCount"] == 1
        assert asked(libvirtd.calls_log, guest.uuid) == [*BY_TEST, "START"]
    for guest in others:
        world.until(guest, runs, "told to run again")
        assert {power for power, *_ in world.told(guest)} <= {"Unknown", "Running"}
        assert cause_of(world.get(guest)) == ""
        assert asked(libvirtd.calls_log, guest.uuid) == BY_TEST
    assert [world.run_id(guest) for guest in others] == runs_of_others


def test_libvirtd_hang(world: World, libvirtd: Libvirtd) -> None:
    early, late, died, other = guests = running(world, 4, restartPolicy="Always")
    run_of_other = world.run_id(other)
    with paused(libvirtd.pid):
        world.patch(early, powerState="Stopped")
        died.kill()
        until_unreachable(world, *guests)
        world.patch(late, powerState="Paused")
        until_unreachable(world, late)
        assert all(world.nothing_done(guest) for guest in guests)
    off = world.until(died, lambda vm: power_of(vm) == "Crashed", "told to have died")
    assert cause_of(off) in {"Crash", "Unknown"}, "whether libvirtd or the agent was back first"
    world.until(died, runs, "running again")
    assert cause_of(world.until(early, is_off, "off")) == "Agent"
    world.until(late, lambda vm: power_of(vm) == "Paused" and reason_of(vm) == "InSync", "paused")
    world.until(other, runs, "told to run again")
    assert asked(libvirtd.calls_log, died.uuid) == [*BY_TEST, "START"]
    assert set(asked(libvirtd.calls_log, early.uuid)) == {*BY_TEST, "SHUTDOWN"}
    assert asked(libvirtd.calls_log, late.uuid) == [*BY_TEST, "SUSPEND"]
    assert asked(libvirtd.calls_log, other.uuid) == BY_TEST
    assert world.run_id(other) == run_of_other

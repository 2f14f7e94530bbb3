"""VMs that power themselves off after each job, as CI runners do, are started again: no host is going down."""

from lab.guest import Guest
from lab.world import World, ready_of, reason_of, runs

WINDOW_S = 3


def does_a_job(world: World, guest: Guest, jobs: int) -> None:
    """It powers itself off and is started again; that is so many times in all."""
    guest.wait_until_booted()
    guest.poweroff()
    world.until_off(guest, "Guest")
    world.until(guest, runs, "started again")
    world.until_act(guest, "START done", times=jobs)


def test_runners(world: World) -> None:
    runners, others = ([world.start(f"{kind}-{n}") for n in range(count)] for kind, count in (("runner", 3), ("vm", 4)))
    guests = [*runners, *others]
    world.apply(*guests, powerState="Running", restartPolicy="Always")
    agent = world.start_agent(brake_window=f"{WINDOW_S}s", brake_hold="1h", settle_power="2s", backoff_first="0")
    for guest in guests:
        world.until(guest, runs, "running")
    # One after the other, so that no three go off within the window.
    for guest in runners:
        for jobs in (1, 2):
            does_a_job(world, guest, jobs)
    for guest in runners:
        guest.wait_until_booted()
    for guest in runners:
        guest.poweroff()
    for guest in runners:
        world.until_off(guest, "Guest")
        world.until(guest, runs, "started again, though all three went off together")
        world.until_act(guest, "START done", times=3)
    # The host goes down: its other VMs too. However slow this machine is, they stop within this window.
    agent.stop()
    world.start_agent(brake_window="60s", brake_hold="1h", settle_power="2s", backoff_first="0")
    for guest in guests:
        guest.wait_until_booted()
    for guest in guests:
        world.virsh("shutdown", guest.name, "--mode=acpi")
    for guest in guests:
        world.until_off(guest, "Guest")
        world.until(
            guest, lambda vm: reason_of(vm) == "Settling" and "stopped together" in ready_of(vm)["message"], "braked"
        )
    assert [len(world.acts(guest)) for guest in guests] == [3, 3, 3, 0, 0, 0, 0]

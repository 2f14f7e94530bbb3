"""The host goes down: what stops with it is not fought, and comes back after the boot, at a pace it bears."""

from datetime import datetime, timedelta

from lab.guest import Guest
from lab.world import World, cause_of, power_of, ready_of, runs


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


def test_host_shutdown(world: World) -> None:
    guests = running(world, 5, settle_power="5s", brake_hold="1h")
    agent = world.agents[0]
    for guest in guests:
        world.virsh("shutdown", guest.name, "--mode=acpi")
    for guest in guests:
        world.until_off(guest, "Guest")
    # The settle time is over and nothing has been started: the brake holds.
    world.until(guests[0], lambda vm: "Several VMs stopped together" in ready_of(vm)["message"], "held by the brake")
    assert all(world.nothing_done(guest) for guest in guests)
    agent.restart(boot_id="second-boot", settle_power="1s")
    for guest in guests:
        assert world.until_off(guest, "NodeReboot")["status"]["nodeBootID"] == "second-boot"
    for guest in guests:
        world.until(guest, runs, "running after the boot")
        world.until_acts(guest, "START done")


def test_host_shutdown_save(world: World) -> None:
    guests = running(world, 5, settle_power="1s", settle_pause="1h")
    agent = world.agents[0]
    for guest in guests:
        world.virsh("managedsave", guest.name)
    for guest in guests:
        world.until(guest, lambda vm: power_of(vm) == "Saved" and cause_of(vm) == "Saved", "saved")
    assert all(world.nothing_done(guest) for guest in guests)
    agent.restart(boot_id="second-boot", settle_pause="1s")
    for guest in guests:
        running_again = world.until(guest, runs, "running after the boot")
        assert cause_of(running_again) == "NodeReboot"
        assert running_again["status"]["libvirt"] == {"state": "RUNNING", "reason": "RESTORED"}
        world.until_acts(guest, "START done")


def test_power_cut(world: World) -> None:
    interval_s = 1
    guests = running(world, 20, start_interval=f"{interval_s}s", start_parallel="2")
    agent = world.agents[0]
    agent.kill()
    for guest in guests:
        guest.kill()
    agent.start(boot_id="second-boot")
    for guest in guests:
        world.until_off(guest, "NodeReboot")
        world.until(guest, runs, "running after the boot")
        world.until_acts(guest, "START done")
    lines = agent.log_lines()
    began = max(datetime.fromisoformat(line["timestamp"]) for line in lines if "http_port" in line)
    starts = [datetime.fromisoformat(line["timestamp"]) for line in lines if line.get("verb") == "START"]
    # A start that has ended at this moment had its turn before: never more turns than intervals.
    for number, ended in enumerate(starts):
        assert ended - began >= timedelta(seconds=interval_s * number)

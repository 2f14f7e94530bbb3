"""A VM is to be off: asked politely for as long as the spec allows, and the user may think again."""

from datetime import datetime
from typing import Any

from lab.agent import ACTION_FINISHED
from lab.guest import Guest
from lab.world import World, cause_of, is_off, power_of, ready_of, reason_of, runs


def running(world: World, *, ignores_acpi: bool = False, settings: dict[str, str] | None = None, **spec: Any) -> Guest:
    """A VM that runs as its object says, looked after by an agent."""
    guest = world.start()
    if ignores_acpi:
        guest.ignore_power_button()
    world.apply(guest, powerState="Running", **spec)
    world.start_agent(**{"acpi_resend": "1s", "force_wait": "1s", **(settings or {})})
    world.until(guest, runs, "running")
    return guest


def test_virsh_start_of_stopped(world: World) -> None:
    guest = world.define()
    world.apply(guest, powerState="Stopped")
    world.start_agent(acpi_resend="1s")
    world.until(guest, is_off, "off")
    world.virsh("start", guest.name)
    started = world.until(guest, lambda vm: power_of(vm) == "Running", "told to run")
    assert reason_of(started) == "Settling"
    off = world.until(guest, is_off, "off again")
    assert cause_of(off) == "Agent"
    assert set(world.acts(guest)) == {"SHUTDOWN done"}


def test_user_start_during_stop(world: World) -> None:
    guest = running(world, ignores_acpi=True)
    run = world.run_id(guest)
    world.patch(guest, powerState="Stopped")
    world.until_act(guest, "SHUTDOWN done")
    world.patch(guest, powerState="Running")
    world.until_ready(guest, "Restarting")
    # The guest obeys at last.
    guest.poweroff()
    assert cause_of(world.until(guest, lambda vm: power_of(vm) == "Stopped", "off")) == "Agent"
    world.until(guest, runs, "started")
    assert world.run_id(guest) != run
    world.until_act(guest, "START done")
    assert "DESTROY done" not in world.acts(guest)


def test_user_start_during_stop_is_never_forced(world: World) -> None:
    guest = running(world, ignores_acpi=True, shutdown={"gracePeriodSeconds": 600})
    run = world.run_id(guest)
    world.patch(guest, powerState="Stopped")
    world.until_act(guest, "SHUTDOWN done")
    world.patch(guest, powerState="Running")
    world.until_ready(guest, "Restarting")
    world.patch(guest, shutdown={"gracePeriodSeconds": 4})
    kept = world.until(guest, runs, "left running after the old deadline")
    assert "operation" not in kept["status"]
    world.outlast_settling()
    assert world.run_id(guest) == run
    assert set(world.acts(guest)) == {"SHUTDOWN done"}
    generations = {
        line["generation"]
        for line in world.agents[0].log_lines()
        if line["event"] == ACTION_FINISHED and guest.name in line["vm"]
    }
    assert generations == {2}, "ACPI was sent again after the user thought again"


def test_stop_obedient(world: World) -> None:
    guest = running(world, settings={"acpi_resend": "1h"})
    world.patch(guest, powerState="Stopped")
    stopping = world.until_ready(guest, "ShuttingDown")
    assert stopping["status"]["operation"]["type"] == "Stop"
    off = world.until(guest, is_off, "off")
    assert cause_of(off) == "Agent"
    assert "operation" not in off["status"]
    world.until_acts(guest, "SHUTDOWN done")
    world.until_event(guest, "ShutdownRequested")
    assert "StoppedUnexpectedly" not in world.events(guest)


def test_stop_ignored(world: World) -> None:
    guest = running(world, ignores_acpi=True, shutdown={"gracePeriodSeconds": 4})
    world.patch(guest, powerState="Stopped")
    deadline = world.until_ready(guest, "ShuttingDown")["status"]["operation"]["deadline"]
    off = world.until(guest, is_off, "off")
    assert cause_of(off) == "Agent"
    assert off["status"]["libvirt"]["reason"] == "DESTROYED"
    assert datetime.fromisoformat(off["status"]["lastStop"]["time"]) >= datetime.fromisoformat(deadline)
    world.until_act(guest, "DESTROY done")
    *asked, forced = world.acts(guest)
    assert len(asked) >= 2
    assert set(asked) == {"SHUTDOWN done"}
    assert forced == "DESTROY done"
    world.until_event(guest, "ForcedOff")


def test_stop_graceful_only(world: World) -> None:
    guest = running(world, ignores_acpi=True, shutdown={"mode": "Graceful", "gracePeriodSeconds": 2})
    run = world.run_id(guest)
    world.patch(guest, powerState="Stopped")
    stuck = world.until_ready(guest, "ShutdownTimedOut")
    assert power_of(stuck) == "Running"
    assert ready_of(stuck)["status"] == "False"
    world.outlast_settling()
    assert world.run_id(guest) == run
    assert set(world.acts(guest)) == {"SHUTDOWN done"}
    assert reason_of(world.get(guest)) == "ShutdownTimedOut"


def test_stop_force(world: World) -> None:
    guest = running(world, shutdown={"mode": "Force"})
    world.patch(guest, powerState="Stopped")
    off = world.until(guest, is_off, "off")
    assert cause_of(off) == "Agent"
    assert off["status"]["libvirt"]["reason"] == "DESTROYED"
    world.until_acts(guest, "DESTROY done")
    world.until_event(guest, "ForcedOff")

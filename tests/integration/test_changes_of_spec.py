"""What users ask for: once, when its time has come, and in the end the last thing they asked for."""

from datetime import datetime

import pytest

from lab.guest import Guest
from lab.world import World, cause_of, is_off, moment, moment_after, runs


@pytest.fixture
def guest(world: World) -> Guest:
    """A VM that runs as its object says, and is asked to shut down once only: it obeys, unless it still boots."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(schedule_confirm="1s", acpi_resend="1h")
    world.until(guest, runs, "running")
    return guest


def test_restart_request(world: World, guest: Guest) -> None:
    run, request = world.run_id(guest), moment_after(world.get(guest))
    world.patch(guest, restartRequestTime=request)
    recorded = world.until_ready(guest, "Restarting")
    # Recorded before the first act: however the agent ends, it happens at most once.
    assert recorded["status"]["lastRestartTime"] == request
    assert recorded["status"]["operation"]["type"] == "Restart"
    assert recorded["status"]["powerState"] == "Running"
    done = world.until(guest, runs, "restarted")
    assert "operation" not in done["status"]
    assert done["status"]["restartCount"] == 0
    assert world.run_id(guest) != run
    world.until_acts(guest, "SHUTDOWN done", "START done")
    world.until_event(guest, "Restarted")


def test_restart_request_older_or_removed(world: World, guest: Guest) -> None:
    request = moment_after(world.get(guest))
    world.patch(guest, restartRequestTime=request)
    world.until(guest, lambda vm: runs(vm) and vm["status"].get("lastRestartTime") == request, "restarted")
    run = world.run_id(guest)
    for older in (moment(in_s=-3600), None):
        world.patch(guest, restartRequestTime=older)
        world.until(guest, runs, "running on")
    world.outlast_settling()
    assert world.run_id(guest) == run
    world.until_acts(guest, "SHUTDOWN done", "START done")
    assert world.get(guest)["status"]["lastRestartTime"] == request


def test_restart_request_in_the_future(world: World, guest: Guest) -> None:
    run, request = world.run_id(guest), moment(in_s=4)
    world.patch(guest, restartRequestTime=request)
    world.until(guest, runs, "running until then")
    assert world.run_id(guest) == run
    off = world.until_off(guest, "Agent")
    assert datetime.fromisoformat(off["status"]["lastStop"]["time"]) >= datetime.fromisoformat(request)
    world.until(guest, runs, "restarted")
    world.until_acts(guest, "SHUTDOWN done", "START done")


def test_restart_request_older_than_the_object(world: World) -> None:
    guest = world.start()
    run = world.run_id(guest)
    world.apply(guest, powerState="Running", restartRequestTime=moment(in_s=-3600))
    world.start_agent()
    world.until(guest, runs, "running")
    world.outlast_settling()
    assert world.nothing_done(guest)
    assert world.run_id(guest) == run


def test_restart_request_of_a_stopped_vm(world: World, guest: Guest) -> None:
    world.patch(guest, powerState="Stopped", restartRequestTime=moment_after(world.get(guest)))
    off = world.until(guest, is_off, "off")
    assert "lastRestartTime" not in off["status"]
    world.outlast_settling()
    world.until_acts(guest, "SHUTDOWN done")


def test_two_changes_one_pass(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    # A pass may see a Running of the middle, and then the last Stopped while the guest boots: that press is lost.
    world.start_agent(acpi_resend="2s")
    world.until(guest, runs, "running")
    wishes = ["Stopped", "Running"] * 4 + ["Running", "Stopped"]
    graces = range(100, 100 + len(wishes))
    burst = [
        world.manifest(guest, powerState=wish, shutdown={"gracePeriodSeconds": grace})
        for wish, grace in zip(wishes, graces, strict=True)
    ]
    world.kubectl("apply", "-f", "-", manifest={"apiVersion": "v1", "kind": "List", "items": burst})
    off = world.until(guest, lambda vm: is_off(vm) and vm["metadata"]["generation"] == 1 + len(wishes), "off at last")
    assert off["status"]["observedGeneration"] == 1 + len(wishes)
    assert cause_of(off) == "Agent"
    world.outlast_settling()
    assert world.get(guest)["status"] == off["status"]

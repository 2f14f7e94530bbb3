"""The agent starts on a living host, is killed in the middle of something, and comes back: nothing is done twice."""

import os
import shutil
from datetime import datetime, timedelta
from typing import Any

from lab.agent import ACTION_FINISHED
from lab.guest import Guest
from lab.world import World, cause_of, is_off, moment_after, runs

FORCE_WAIT_S = 4


def test_adopt_live_host(world: World) -> None:
    guests = [world.define(f"vm-{number}") for number in range(20)]
    for guest in guests:
        world.virsh("start", guest.name)
    runs_before = [world.run_id(guest) for guest in guests]
    world.apply(*guests, powerState="Running")
    world.start_agent()
    for guest in guests:
        world.until(guest, runs, "adopted")
    world.outlast_settling()
    assert all(world.nothing_done(guest) for guest in guests)
    assert [world.run_id(guest) for guest in guests] == runs_before
    ready = world.kubectl("get", "kvm", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].reason}")
    assert ready.split() == ["InSync"] * (len(guests) + 1)  # and the witness


def stop_is_under_way(world: World, **spec: Any) -> Guest:
    """A guest that ignores its power button, which an agent has pressed."""
    guest = world.start()
    guest.ignore_power_button()
    world.apply(guest, powerState="Running", **spec)
    world.start_agent(force_wait=f"{FORCE_WAIT_S}s", acpi_resend="1h")
    world.until(guest, runs, "running")
    world.patch(guest, powerState="Stopped")
    world.until_act(guest, "SHUTDOWN done")
    return guest


def test_agent_killed_mid_shutdown(world: World) -> None:
    guest = stop_is_under_way(world, shutdown={"gracePeriodSeconds": FORCE_WAIT_S})
    operation = world.get(guest)["status"]["operation"]
    world.agents[0].restart()
    world.until_act(guest, "SHUTDOWN done", times=2)
    assert world.get(guest)["status"]["operation"] == operation, "the deadline is the old one"
    off = world.until(guest, is_off, "off")
    assert cause_of(off) == "Agent"
    world.until_act(guest, "DESTROY done")
    asked, asked_again, forced = [line for line in world.agents[0].log_lines() if line["event"] == ACTION_FINISHED]
    assert [line["action"] for line in (asked, asked_again, forced)] == ["SHUTDOWN", "SHUTDOWN", "DESTROY"]
    # The new process has waited for the guest by itself, whatever the old one had done.
    waited = datetime.fromisoformat(forced["timestamp"]) - datetime.fromisoformat(asked_again["timestamp"])
    assert waited >= timedelta(seconds=FORCE_WAIT_S)


def test_agent_killed_mid_shutdown_and_the_guest_obeys(world: World) -> None:
    guest = stop_is_under_way(world)
    world.agents[0].kill()
    guest.poweroff()
    world.agents[0].start()
    off = world.until(guest, is_off, "off")
    assert cause_of(off) == "Agent"
    world.until_acts(guest, "SHUTDOWN done")


def test_restart_survives_kill(world: World) -> None:
    guest = world.start()
    guest.ignore_power_button()
    world.apply(guest, powerState="Running", restartPolicy="Never")
    agent = world.start_agent(acpi_resend="1h")
    world.until(guest, runs, "running")
    request = moment_after(world.get(guest))
    world.patch(guest, restartRequestTime=request)
    world.until_act(guest, "SHUTDOWN done")
    agent.kill()
    guest.poweroff()
    agent.start()
    done = world.until(guest, runs, "started")
    assert done["status"]["lastRestartTime"] == request
    assert "operation" not in done["status"]
    world.outlast_settling()
    world.until_acts(guest, "SHUTDOWN done", "START done")


def test_an_agent_ends_when_the_folder_of_the_socket_is_another(world: World) -> None:
    """In a Pod it would go on to see the old one for ever."""
    folder = world.folder / "libvirt"

    def lay_out() -> None:
        folder.mkdir()
        (folder / "libvirt-sock").symlink_to(world.libvirtd.socket)

    lay_out()
    agent = world.start_agent(uri=f"qemu+unix:///system?socket={folder / 'libvirt-sock'}")
    shutil.rmtree(folder)
    lay_out()

    assert agent.wait_until_ended() == os.EX_TEMPFAIL
    assert any("libvirt socket directory was removed" in line["event"] for line in agent.log_lines())
    # and the next one sees the new one
    agent.start()

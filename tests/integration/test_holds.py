"""What takes the agent's hands off: a hold, a VM without a desired power state, another agent, a deleted object."""

import time

from lab.world import POLL_INTERVAL_S, World, power_of, ready_of, reason_of, runs


def test_hold(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
    world.start_agent()
    world.until_ready(guest, "InSync")
    guest.poweroff()
    world.until_off(guest, "Guest")
    held = world.until_ready(guest, "Held")
    assert "ann (backup)" in ready_of(held)["message"]
    world.outlast_settling()
    assert world.acts(guest) == []
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann-")
    world.until_ready(guest, "Settling")
    world.until(guest, runs, "started")
    world.until_event(guest, "HoldReleased")
    world.until_acts(guest, "START done")


def test_hold_during_stop(world: World) -> None:
    guest = world.start()
    guest.ignore_power_button()
    world.apply(guest, powerState="Running", shutdown={"gracePeriodSeconds": 600})
    world.start_agent(force_wait="1s", acpi_resend="1s")
    world.until_ready(guest, "InSync")
    world.patch(guest, powerState="Stopped")
    world.until_act(guest, "SHUTDOWN done")
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=wait")
    held = world.until_ready(guest, "Held")
    assert "operation" not in held["status"]
    world.outlast_settling()  # the end of a request that was in flight is logged
    before = world.acts(guest)
    world.patch(guest, shutdown={"gracePeriodSeconds": 1})
    world.outlast_settling()
    assert world.acts(guest) == before
    world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann-")
    world.until(guest, lambda vm: "operation" in vm["status"], "being stopped anew")
    world.until(guest, lambda vm: power_of(vm) == "Stopped", "forced off")
    world.until_act(guest, "DESTROY done")


def test_observe_only(world: World) -> None:
    guest = world.start()
    world.apply(guest)
    world.start_agent()
    world.until_ready(guest, "Observed")
    world.virsh("suspend", guest.name)
    world.until(guest, lambda vm: power_of(vm) == "Paused", "paused")
    world.virsh("resume", guest.name)
    world.until(guest, lambda vm: power_of(vm) == "Running", "running")
    guest.poweroff()
    off = world.until_off(guest, "Guest")
    assert reason_of(off) == "Observed"
    world.outlast_settling()
    assert world.acts(guest) == []


def test_one_hand(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    first = world.start_agent()
    world.until_ready(guest, "InSync")
    second = world.new_agent()
    second.launch()
    first_pid = first.pid
    while str(first_pid) not in (said := second.ask("/readyz")[1] if second.running and second.log_lines() else ""):
        assert second.running, said
        time.sleep(POLL_INTERVAL_S)
    first.kill()
    second.wait_until_ready()
    guest.kill()
    world.until_off(guest, "Crash")
    world.until(guest, runs, "restarted by the second agent")


def test_object_deleted(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until_ready(guest, "InSync")
    run = world.run_id(guest)
    world.kubectl("delete", "kvm", guest.name, "--wait=true", "--timeout=60s")
    world.outlast_settling()
    assert world.run_id(guest) == run
    assert world.acts(guest) == []

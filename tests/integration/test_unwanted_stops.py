"""A VM goes off although nobody asked virtsync for that: told at once with its cause, answered by the restartPolicy."""

from datetime import datetime, timedelta
from typing import Any

from lab.processes import paused
from lab.world import World, cause_of, moment_after, power_of, ready_of, reason_of, runs

Json = dict[str, Any]


def test_guest_poweroff_always(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running", restartPolicy="Always")
    world.start_agent()
    world.until(guest, runs, "running")
    guest.poweroff()
    off = world.until_off(guest, "Guest")
    assert (power_of(off), reason_of(off)) == ("Stopped", "Settling")
    assert off["status"]["libvirt"] == {"state": "SHUTOFF", "reason": "SHUTDOWN"}
    world.until(guest, runs, "restarted")
    assert world.get(guest)["status"]["restartCount"] == 1
    world.until_acts(guest, "START done")
    world.until_event(guest, "StoppedUnexpectedly")
    world.until_event(guest, "Started")


def test_guest_poweroff_never(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running", restartPolicy="Never")
    world.start_agent()
    world.until(guest, runs, "running")
    guest.poweroff()
    world.until_off(guest, "Guest")
    completed = world.until_ready(guest, "Completed")
    assert ready_of(completed)["status"] == "True"
    assert "completionTime" in completed["status"]
    world.outlast_settling()
    assert world.nothing_done(guest)

    request = moment_after(world.get(guest))
    world.patch(guest, restartRequestTime=request)
    restarted = world.until(guest, runs, "started by a request for a restart")
    assert restarted["status"]["lastRestartTime"] == request
    assert "completionTime" not in restarted["status"]

    guest.wait_until_booted()
    guest.poweroff()
    world.until_ready(guest, "Completed")
    world.patch(guest, powerState="Stopped")
    world.until_ready(guest, "InSync")
    world.patch(guest, powerState="Running")
    world.until(guest, runs, "started by a change from Stopped to Running")
    assert world.get(guest)["status"]["restartCount"] == 0
    world.until_acts(guest, "START done", "START done")


def test_guest_poweroff_onfailure(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running", restartPolicy="OnFailure")
    world.start_agent()
    world.until(guest, runs, "running")
    guest.poweroff()
    world.until_off(guest, "Guest")
    assert ready_of(world.until_ready(guest, "Completed"))["status"] == "True"

    guest.start()
    world.until(guest, runs, "running, for somebody started it")
    assert world.nothing_done(guest)
    guest.kill()
    world.until_off(guest, "Crash")
    world.until(guest, runs, "restarted")
    assert world.get(guest)["status"]["restartCount"] == 1
    world.until_acts(guest, "START done")


def test_qemu_killed(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(settle_power="1h")
    world.until(guest, runs, "running")
    guest.kill()
    off = world.until_off(guest, "Crash")
    assert power_of(off) == "Crashed"
    assert off["status"]["backoff"]["failures"] == 1
    # A crash waits for no settle time, which is an hour here.
    running = world.until(guest, runs, "restarted")
    assert running["status"]["restartCount"] == 1
    assert running["status"]["backoff"] == off["status"]["backoff"]


def test_panic_destroy(world: World) -> None:
    guest = world.start(on_crash="destroy")
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    guest.panic()
    off = world.until_off(guest, "Crash")
    assert power_of(off) == "Crashed"
    world.until(guest, runs, "restarted")
    world.until_acts(guest, "START done")


def test_panic_preserve(world: World) -> None:
    guest = world.start(on_crash="preserve")
    run = world.run_id(guest)
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    guest.panic()
    kept = world.until_ready(guest, "CrashedPreserved")
    assert power_of(kept) == "Crashed"
    assert kept["status"]["libvirt"] == {"state": "CRASHED", "reason": "PANICKED"}
    world.outlast_settling()
    assert world.nothing_done(guest)
    assert world.run_id(guest) == run
    assert reason_of(world.get(guest)) == "CrashedPreserved"


def test_crash_loop(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(backoff_first="3s", backoff_forget="8s")
    world.until(guest, runs, "running")
    attempts = []
    for failures in (1, 2):
        guest.kill()
        attempt = world.until(guest, lambda vm: backoff_of(vm).get("failures") == failures, f"crashed {failures} times")  # noqa: B023 - used at once
        attempts.append(datetime.fromisoformat(backoff_of(attempt)["nextAttemptTime"]))
        world.until(guest, runs, "restarted")
    guest.kill()
    waiting = world.until_ready(guest, "CrashLoopBackOff")
    assert (power_of(waiting), cause_of(waiting)) == ("Crashed", "Crash")
    assert f"starts it again at {attempts[1]:%H:%M:%SZ}" in ready_of(waiting)["message"]
    # The second attempt came when the first wait was over, and the wait after it is twice as long.
    assert attempts[1] - attempts[0] >= timedelta(seconds=6)
    running = world.until(guest, runs, "restarted")
    assert running["status"]["restartCount"] == 3
    assert backoff_of(running)["failures"] == 3
    world.until(guest, lambda vm: runs(vm) and not backoff_of(vm), "forgiven after it ran for a while")


def backoff_of(vm: Json) -> Json:
    backoff: Json = vm.get("status", {}).get("backoff", {})
    return backoff


def test_out_of_band_restart(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(settle_power="10s", settle_pause="10s")
    before = world.until(guest, runs, "running")
    world.virsh("destroy", guest.name)
    off = world.until_off(guest, "External")
    assert (power_of(off), reason_of(off)) == ("Stopped", "Settling")
    world.virsh("start", guest.name)
    after = world.until(guest, runs, "running again")
    assert after["status"]["domain"]["id"] != before["status"]["domain"]["id"]
    run = world.run_id(guest)
    world.outlast_settling()
    assert world.nothing_done(guest)
    assert world.run_id(guest) == run
    assert world.get(guest)["status"]["restartCount"] == 0


def test_stale_event(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent(settle_power="0s")
    world.until(guest, runs, "running")
    # While the agent is stopped its events wait: when it reads that the domain stopped, the domain runs.
    with paused(agent.pid):
        world.virsh("destroy", guest.name)
        world.virsh("start", guest.name)
    run = world.run_id(guest)
    world.until(guest, lambda vm: runs(vm) and str(vm["status"]["domain"]["id"]) == run, "seen to run anew")
    world.outlast_settling()
    assert {power for power, _, _ in world.told(guest)} == {"Unknown", "Running"}
    assert world.nothing_done(guest)
    assert world.run_id(guest) == run

"""A VM stops running without going off, or with its memory kept: told at once, ended only where that is safe."""

from pathlib import Path

from lab.world import World, cause_of, power_of, reason_of, runs


def paused(vm: dict[str, object]) -> bool:
    return power_of(vm) == "Paused"


def test_paused_by_user(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(settle_pause="2s")
    world.until_ready(guest, "InSync")
    world.virsh("suspend", guest.name)
    assert reason_of(world.until(guest, paused, "paused")) == "Settling"
    world.until_ready(guest, "InSync")
    world.until_acts(guest, "RESUME done")


def test_disk_full(world: World) -> None:
    guest = world.start(disk=True)
    world.apply(guest, powerState="Running")
    world.start_agent(backoff_first="1s")
    world.until_ready(guest, "InSync")
    guest.fill_disk()
    full = world.until(guest, lambda vm: reason_of(vm) == "PausedByIOError", "paused by an I/O error")
    assert power_of(full) == "Paused"
    world.until(guest, lambda vm: vm["status"].get("backoff", {}).get("failures", 0) >= 2, "resumed twice in vain")
    guest.free_disk()
    world.until_ready(guest, "InSync")


def test_virsh_save_file(world: World, tmp_path: Path) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(settle_pause="10s")
    world.until_ready(guest, "InSync")
    world.virsh("save", guest.name, f"{tmp_path}/memory")
    saved = world.until_ready(guest, "SavedElsewhere")
    assert (power_of(saved), cause_of(saved)) == ("Stopped", "Saved")
    assert world.acts(guest) == []
    world.virsh("restore", f"{tmp_path}/memory")
    world.until_ready(guest, "InSync")
    assert world.acts(guest) == []


def test_guest_s3_is_woken_under_always(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running", restartPolicy="Always")
    world.start_agent()
    world.until_ready(guest, "InSync")
    run = world.run_id(guest)
    guest.suspend_to_ram()
    world.until(guest, lambda vm: power_of(vm) == "Suspended", "suspended")
    world.until(guest, runs, "awake")
    world.until_acts(guest, "WAKE done")
    assert world.run_id(guest) == run


def test_guest_s3_is_left_under_never(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running", restartPolicy="Never")
    world.start_agent()
    world.until_ready(guest, "InSync")
    run = world.run_id(guest)
    guest.suspend_to_ram()
    world.until_ready(guest, "SuspendedByGuest")
    world.outlast_settling()
    assert world.acts(guest) == []
    assert world.run_id(guest) == run


def test_saved(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(settle_pause="1s")
    world.until_ready(guest, "InSync")
    world.virsh("managedsave", guest.name)
    saved = world.until(guest, lambda vm: power_of(vm) == "Saved", "saved")
    assert cause_of(saved) == "Saved"
    restored = world.until_ready(guest, "InSync")
    assert restored["status"]["libvirt"] == {"state": "RUNNING", "reason": "RESTORED"}


def test_saved_and_desired_stopped_keeps_the_image(world: World) -> None:
    guest = world.start()
    world.virsh("managedsave", guest.name)
    world.apply(guest, powerState="Stopped")
    world.start_agent()
    assert power_of(world.until_ready(guest, "InSync")) == "Saved"
    world.outlast_settling()
    assert world.acts(guest) == []
    assert guest.name in world.virsh("list", "--all", "--name", "--with-managed-save")


def test_pause_enforced(world: World) -> None:
    guest = world.define()
    world.apply(guest, powerState="Paused")
    world.start_agent()
    assert power_of(world.until_ready(guest, "InSync")) == "Paused"
    world.until_acts(guest, "START_PAUSED done")
    world.virsh("resume", guest.name)
    world.until(guest, lambda vm: power_of(vm) == "Running", "running, for somebody resumed it")
    world.until(guest, paused, "paused again")
    world.until_acts(guest, "START_PAUSED done", "SUSPEND done")

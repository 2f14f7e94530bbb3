"""The actions of deploy/argocd, run by Argo CD's API server on live VMs."""

from gitops.application import Application
from lab.world import World, is_off, runs
from tests.gitops.conftest import Git
from tests.gitops.test_engines import delivered

HOLD = "hold.virtsync.dev/argocd"


def test_restart_restarts_a_vm_once_and_stays_synced(world: World, git: Git, app: Application) -> None:
    guest = delivered(world, git, app, powerState="Running")
    # A restart must be requested in a later second than that of the object's creation.
    world.outlast_settling()
    before = world.run_id(guest)
    assert app.actions(guest.name) == {"restart": True, "start": False, "stop": True, "hold": True, "release": False}
    app.run_action(guest.name, "restart")
    world.until_event(guest, "Restarted")
    world.until(guest, runs, "running")
    assert world.run_id(guest) != before
    assert app.refresh()["status"]["sync"]["status"] == "Synced"


def test_stop_and_start_switch_a_vm_whose_power_state_git_leaves_out(world: World, git: Git, app: Application) -> None:
    guest = delivered(world, git, app)
    app.run_action(guest.name, "stop")
    world.until(guest, is_off, "off")
    assert app.actions(guest.name)["start"]
    app.run_action(guest.name, "start")
    world.until(guest, runs, "running")
    assert app.refresh()["status"]["sync"]["status"] == "Synced"


def test_self_heal_undoes_a_stop_of_a_vm_whose_power_state_is_in_git(world: World, git: Git, app: Application) -> None:
    guest = delivered(world, git, app, powerState="Running")
    app.run_action(guest.name, "stop")
    world.until(guest, lambda vm: vm["spec"]["powerState"] == "Stopped", "stopped in the object")
    world.until(guest, lambda vm: vm["spec"]["powerState"] == "Running", "as Git says")
    world.until(guest, runs, "running")


def test_hold_holds_a_vm_and_release_releases_it(world: World, git: Git, app: Application) -> None:
    guest = delivered(world, git, app, powerState="Running")
    app.run_action(guest.name, "hold")
    world.until(guest, lambda vm: HOLD in vm["metadata"].get("annotations", {}), "held")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    app.until_health_of(guest.name, "Suspended")
    offered = app.actions(guest.name)
    assert (offered["hold"], offered["release"]) == (False, True)
    app.run_action(guest.name, "release")
    world.until(guest, runs, "running")
    assert HOLD not in world.get(guest)["metadata"].get("annotations", {})
    assert app.refresh()["status"]["sync"]["status"] == "Synced"

"""What only Argo CD does with VirtualMachines in Git."""

import json
from collections.abc import Callable
from typing import Any

from gitops.application import Application, resource, sync_of
from gitops.argocd import NAMESPACE
from gitops.ledger import Row
from lab.guest import Guest
from lab.world import World, is_off, moment, runs
from tests.gitops.conftest import Git
from tests.gitops.test_engines import delivered, exists, until_gone

Json = dict[str, Any]
Begin = Callable[[str], Row]
HOLD = "hold.virtsync.dev/ann"


def message_of(app: Json) -> str:
    return str(app.get("status", {}).get("operationState", {}).get("message", ""))


def in_wave(git: Git, guest: Guest, wave: int, power: str) -> str:
    return git.vm(guest, powerState=power, annotations={"argocd.argoproj.io/sync-wave": str(wave)})


def test_a_change_on_the_host_is_progressing_until_it_is_corrected(
    world: World, git: Git, app: Application, row: Begin
) -> None:
    guest = world.start()
    world.start_agent(settle_power="5s")
    on = git.vm(guest, powerState="Running")
    app.create()
    app.until_healthy(on)
    world.virsh("destroy", guest.name)
    told = row("virsh destroy, settle time 5 s")
    app.until_health_of(guest.name, "Progressing")
    app.until_health("Progressing")
    told.engine_did("Progressing")
    app.until_health("Healthy")
    told.engine_did("Healthy")
    world.until(guest, runs, "running")


def test_a_hold_by_plain_kubectl_stays_and_shows_as_suspended(
    world: World, git: Git, app: Application, row: Begin
) -> None:
    guest = delivered(world, git, app, powerState="Running")
    world.kubectl("annotate", "kvm", guest.name, f"{HOLD}=backup")
    world.virsh("destroy", guest.name)
    told = row("kubectl annotate of a hold, virsh destroy")
    world.until_ready(guest, "Held")
    told.vm_did("Held")
    assert app.until_health_of(guest.name, "Suspended").startswith("Held: ")
    told.engine_did("Suspended")
    app.until_applied(git.vm(guest, powerState="Running", shutdown={"gracePeriodSeconds": 100}))
    assert world.get(guest)["metadata"]["annotations"][HOLD] == "backup"
    assert world.nothing_done(guest)


def test_a_patch_of_a_field_that_git_leaves_out_stays(world: World, git: Git, app: Application, row: Begin) -> None:
    guest = delivered(world, git, app)
    world.patch(guest, powerState="Stopped")
    told = row("kubectl patch of a powerState that Git leaves out")
    world.until(guest, is_off, "off")
    told.vm_did("off, InSync")
    app.until_healthy(git.vm(guest, restartPolicy="OnFailure"))
    told.engine_did("stays, Synced")
    assert is_off(world.get(guest))


def test_a_sync_window_keeps_a_commit_away(world: World, git: Git, app: Application, row: Begin) -> None:
    guest = delivered(world, git, app, powerState="Running")
    window = {"kind": "deny", "schedule": "* * * * *", "duration": "1h", "applications": [app.name]}
    project = ("-n", NAMESPACE, "patch", "appproject", "default", "--type=merge", "-p")
    world.controlplane.kubectl(*project, json.dumps({"spec": {"syncWindows": [window]}}))
    try:
        off = git.vm(guest, powerState="Stopped")
        told = row("a commit: powerState Stopped, in a sync window that denies")
        app.until(lambda one: sync_of(one) == ("OutOfSync", off), "out of sync")
        told.engine_did("OutOfSync")
        assert sync_of(app.refresh()) == ("OutOfSync", off)
        assert runs(world.get(guest))
        told.vm_did("runs on")
    finally:
        world.controlplane.kubectl(*project, json.dumps({"spec": {"syncWindows": None}}))
    world.until(guest, is_off, "off")
    app.until_healthy(off)


def test_a_protected_object_stays_and_shows_as_out_of_sync(world: World, git: Git, app: Application) -> None:
    kept, other = world.start("kept"), world.define("other")
    world.start_agent()
    git.vm(kept, powerState="Running", annotations={"argocd.argoproj.io/sync-options": "Prune=false"})
    first = git.vm(other)
    app.create()
    app.until_healthy(first)
    removed = git.remove(kept)
    found = app.until(lambda one: sync_of(one) == ("OutOfSync", removed), "out of sync")
    assert resource(found, kept.name)["requiresPruning"]
    assert exists(world, kept)


def test_a_protected_object_outlives_its_application(world: World, git: Git, app: Application) -> None:
    kept, deleted = world.start("kept"), world.define("deleted")
    world.start_agent()
    git.vm(kept, powerState="Running", annotations={"argocd.argoproj.io/sync-options": "Prune=false,Delete=false"})
    first = git.vm(deleted)
    app.create()
    app.until_healthy(first)
    app.delete()
    assert (exists(world, kept), exists(world, deleted)) == (True, False)


def test_the_last_object_of_an_application_is_not_pruned(world: World, git: Git, app: Application) -> None:
    guest = delivered(world, git, app, powerState="Running")
    git.commit({f"{guest.name}.yaml": None, "README.md": "No VM is left."})
    app.until(lambda one: "auto-sync will wipe out all resources" in str(one["status"].get("conditions")), "refused")
    assert exists(world, guest)
    app.patch({"spec": {"syncPolicy": {"automated": {"allowEmpty": True}}}})
    until_gone(world, guest)


def test_a_wave_begins_when_the_vms_of_the_wave_before_it_are_healthy(
    world: World, git: Git, app: Application, row: Begin
) -> None:
    db, web = world.define("db"), world.define("web")
    world.start_agent()
    in_wave(git, db, 0, "Running")
    on = in_wave(git, web, 1, "Running")
    told = row("two VMs that are off, in two sync waves")
    app.create()
    runs_since = world.until(db, runs, "running")["status"]["powerStateTransitionTime"]
    told.vm_did("the first runs")
    world.until(web, runs, "running")
    told.vm_did("the second runs")
    app.until_healthy(on)
    told.engine_did("healthy")
    assert world.get(web)["metadata"]["creationTimestamp"] >= runs_since


def test_a_held_vm_stops_the_waves_after_it_until_it_is_released(
    world: World, git: Git, app: Application, row: Begin
) -> None:
    db, web = world.start("db"), world.start("web")
    world.start_agent()
    in_wave(git, db, 0, "Running")
    on = in_wave(git, web, 1, "Running")
    app.create()
    app.until_healthy(on)
    world.kubectl("annotate", "kvm", db.name, f"{HOLD}=backup")
    app.suspend()
    in_wave(git, db, 0, "Stopped")
    off = in_wave(git, web, 1, "Stopped")
    app.resume()
    told = row("both off by one commit, the VM of the first wave is held")
    world.until_ready(db, "Held")
    told.vm_did("the first is Held")
    app.until(
        lambda one: f"waiting for healthy state of virtsync.dev/VirtualMachine/{db.name}" in message_of(one), "waiting"
    )
    told.engine_did("waits for it")
    world.outlast_settling()
    assert world.get(web)["spec"]["powerState"] == "Running"
    world.kubectl("annotate", "kvm", db.name, f"{HOLD}-")
    told = row("the hold is removed")
    world.until(db, is_off, "off")
    told.vm_did("the first is off")
    world.until(web, is_off, "off")
    told.vm_did("the second is off")
    app.until_healthy(off)
    told.engine_did("healthy")


def test_a_vm_that_fails_ends_the_sync_of_its_wave(world: World, git: Git, app: Application) -> None:
    missing, web = world.define("missing"), world.define("web")
    world.start_agent()
    missing.remove()
    in_wave(git, missing, 0, "Running")
    in_wave(git, web, 1, "Running")
    app.create()
    app.until_failed("DomainNotFound")
    assert not exists(world, web)
    # Argo CD retries.
    world.define("missing")
    world.until(web, runs, "running")


def test_a_restart_request_by_kubectl_stays_synced_and_restarts_once(
    world: World, git: Git, app: Application, row: Begin
) -> None:
    guest = delivered(world, git, app, powerState="Running")
    requested = moment(in_s=2)
    world.patch(guest, restartRequestTime=requested)
    told = row("kubectl patch of restartRequestTime")
    world.until_event(guest, "Restarted")
    told.vm_did("restarted")
    run = world.run_id(guest)
    app.until_healthy(git.vm(guest, powerState="Running", restartPolicy="OnFailure"))
    assert world.get(guest)["spec"]["restartRequestTime"] == requested
    world.outlast_settling()
    assert world.run_id(guest) == run

"""What happens to VMs whose objects are in Git, with the real controllers of each engine, a real agent and real VMs."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from gitops.engine import PROTECTED, Delivery
from gitops.ledger import Row
from lab.guest import Guest
from lab.world import World, is_off, moment, runs, until
from tests.gitops.conftest import Git

Json = dict[str, Any]
Begin = Callable[[str], Row]
HOLD = "hold.virtsync.dev/ann"


def exists(world: World, guest: Guest) -> bool:
    return bool(world.kubectl("get", "kvm", guest.name, "--ignore-not-found", "-o", "name"))


def until_gone(world: World, guest: Guest) -> None:
    until(lambda: not exists(world, guest), f"{guest.name} is still there.")


def delivered(world: World, git: Git, delivery: Delivery, **spec: Any) -> Guest:
    """A VM that runs, and whose object the engine has applied."""
    guest = world.start()
    world.start_agent()
    revision = git.vm(guest, **spec)
    delivery.create()
    delivery.until_healthy(revision)
    return guest


def test_a_commit_switches_a_vm_off_and_on(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    off = git.vm(guest, powerState="Stopped")
    told = row("a commit: powerState Stopped")
    world.until(guest, is_off, "off")
    told.vm_did("off, InSync")
    delivery.until_healthy(off)
    told.engine_did("healthy")
    on = git.vm(guest, powerState="Running")
    told = row("a commit: powerState Running")
    world.until(guest, runs, "running")
    told.vm_did("runs, InSync")
    delivery.until_healthy(on)
    told.engine_did("healthy")


def test_a_revert_brings_a_vm_back(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    git.vm(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    back = git.revert()
    told = row("git revert of powerState Stopped")
    world.until(guest, runs, "running")
    told.vm_did("runs, InSync")
    delivery.until_healthy(back)
    told.engine_did("healthy")


def test_what_somebody_does_on_the_host_is_corrected(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    world.virsh("destroy", guest.name)
    told = row("virsh destroy")
    world.until_off(guest, "External")
    world.until(guest, runs, "running")
    told.vm_did("runs again")
    delivery.until_healthy(git.vm(guest, powerState="Running", restartPolicy="OnFailure"))


def test_a_hold_in_git_holds_until_a_commit_removes_it(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = world.start()
    world.start_agent()
    held = git.vm(guest, powerState="Running", annotations={HOLD: "backup"})
    delivery.create()
    delivery.until_healthy(held)
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    world.outlast_settling()
    assert world.nothing_done(guest)
    released = git.vm(guest, powerState="Running")
    told = row("a commit that removes a hold")
    world.until(guest, runs, "running")
    told.vm_did("runs again")
    delivery.until_healthy(released)
    told.engine_did("healthy")


def test_a_hold_by_kubectl_with_its_own_field_manager_stays(world: World, git: Git, delivery: Delivery) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    world.kubectl("annotate", "--field-manager=ann", "kvm", guest.name, f"{HOLD}=backup")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    delivery.until_applied(git.vm(guest, powerState="Running", shutdown={"gracePeriodSeconds": 100}))
    assert world.get(guest)["metadata"]["annotations"][HOLD] == "backup"
    assert world.nothing_done(guest)
    world.kubectl("annotate", "kvm", guest.name, f"{HOLD}-")
    world.until(guest, runs, "running")


def test_a_patch_of_a_field_in_git_is_undone(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    world.patch(guest, powerState="Stopped")
    told = row("kubectl patch of a powerState that is in Git")
    world.until(guest, lambda vm: vm["spec"]["powerState"] == "Running", "as Git says")
    told.engine_did("undone")
    world.until(guest, runs, "running")
    told.vm_did("runs, InSync")


def test_a_suspended_delivery_applies_nothing(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    delivery.suspend()
    off = git.vm(guest, powerState="Stopped")
    # Nothing that Git says undoes this now.
    world.patch(guest, powerState="Paused")
    world.until_ready(guest, "InSync")
    assert world.virsh("domstate", guest.name) == "paused"
    delivery.resume()
    told = row("automatic sync turned on again, after a commit")
    world.until(guest, is_off, "off")
    told.vm_did("off, InSync")
    delivery.until_healthy(off)
    told.engine_did("healthy")


def test_pruning_an_object_leaves_its_vm_running(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    pruned, kept, other = world.start("pruned"), world.start("kept"), world.define("other")
    world.start_agent()
    git.vm(pruned, powerState="Running")
    git.vm(kept, powerState="Running", annotations=dict(PROTECTED))
    # Argo CD prunes nothing if nothing would be left.
    first = git.vm(other)
    delivery.create()
    delivery.until_healthy(first)
    before = [world.run_id(guest) for guest in (pruned, kept)]
    git.remove(kept)
    git.remove(pruned)
    told = row("a file removed")
    until_gone(world, pruned)
    told.engine_did("object pruned")
    assert exists(world, kept)
    world.outlast_settling()
    assert [world.run_id(guest) for guest in (pruned, kept)] == before
    told.vm_did("runs on")


def test_deleting_the_delivery_leaves_its_vms_running(world: World, git: Git, delivery: Delivery, row: Begin) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    run = world.run_id(guest)
    told = row("deleted with its objects")
    delivery.delete()
    told.engine_did("objects deleted")
    assert not exists(world, guest)
    world.outlast_settling()
    assert world.run_id(guest) == run
    told.vm_did("runs on")


def test_a_restart_request_in_git_restarts_once_and_its_revert_does_nothing(
    world: World, git: Git, delivery: Delivery, row: Begin
) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    before = world.run_id(guest)
    # It must be later than the creation of the object.
    requested = git.vm(guest, powerState="Running", restartRequestTime=moment(in_s=2))
    told = row("a commit: restartRequestTime")
    world.until_event(guest, "Restarted")
    told.vm_did("restarted")
    after = world.run_id(guest)
    assert after != before
    delivery.until_healthy(requested)
    told.engine_did("healthy")
    delivery.until_healthy(git.revert())
    world.outlast_settling()
    assert world.run_id(guest) == after
    assert world.events(guest).count("Restarted") == 1


@pytest.mark.parametrize("spec", [{"nodeName": ""}, {}], ids=["empty", "left out"])
def test_an_object_without_a_node_switches_nothing_until_a_commit_binds_it(
    spec: Json, world: World, git: Git, delivery: Delivery
) -> None:
    guest = world.start()
    world.start_agent()
    unbound = world.manifest(guest) | {"spec": spec | {"powerState": "Stopped"}}
    first = git.commit({f"{guest.name}.yaml": unbound})
    delivery.create()
    delivery.until_applied(first)
    bound = git.vm(guest, powerState="Running")
    delivery.until_healthy(bound)
    world.until(guest, runs, "running")
    assert world.nothing_done(guest)


def test_the_files_of_import_are_applied_as_they_are(world: World, git: Git, delivery: Delivery) -> None:
    on, off = world.start("on"), world.define("off")
    world.start_agent()
    run = world.run_id(on)
    command = [sys.executable, "-m", "controller", "import", "--kubeconfig", str(world.controlplane.kubeconfig)]
    words = ["--node", world.node, "--namespace", world.name, "--out", "vms"]

    for state in ("create", "condition=Ready"):
        world.kubectl("wait", f"kvmhost/{world.node}", f"--for={state}", "--timeout=60s")

    def all_imported() -> bool:
        # The agent reports a new domain after a second.
        subprocess.run([*command, *words], cwd=git.folder, check=True, capture_output=True)
        return len(list(git.folder.glob(f"vms/{world.node}/{world.name}-*.yaml"))) == 2

    until(all_imported, "The domains were not imported.")
    imported = git.commit()
    delivery.create()
    delivery.until_healthy(imported)
    powers = [world.until_ready(guest, "Observed")["status"]["powerState"] for guest in (on, off)]
    assert powers == ["Running", "Stopped"]
    assert world.run_id(on) == run
    assert world.nothing_done(on)


# --- kubectl virtsync


def virtsync(world: World, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `kubectl virtsync` in the namespace of the world."""
    command = [sys.executable, "-m", "controller", "vm", *words]
    where = ["--namespace", world.name, "--kubeconfig", str(world.controlplane.kubeconfig)]
    return subprocess.run([*command, *where], check=False, capture_output=True, text=True)


def test_a_hold_by_kubectl_virtsync_stays_until_its_release(
    world: World, git: Git, delivery: Delivery, row: Begin
) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    done = virtsync(world, "hold", guest.name, "--as", "ann", "--because", "backup")
    assert done.returncode == 0, done.stderr
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    delivery.until_applied(git.vm(guest, powerState="Running", shutdown={"gracePeriodSeconds": 100}))
    assert world.get(guest)["metadata"]["annotations"][HOLD] == "backup"
    assert world.nothing_done(guest)
    told = row("kubectl virtsync release, of a VM that is off")
    done = virtsync(world, "release", guest.name, "--as", "ann")
    assert done.returncode == 0, done.stderr
    world.until(guest, runs, "running")
    told.vm_did("runs again")


def test_kubectl_virtsync_stops_a_vm_of_git_only_if_told_to_and_the_engine_undoes_it(
    world: World, git: Git, delivery: Delivery, row: Begin
) -> None:
    guest = delivered(world, git, delivery, powerState="Running")
    refused = virtsync(world, "stop", guest.name)
    assert (refused.returncode, "comes from Git" in refused.stderr) == (2, True), refused.stderr
    assert world.nothing_done(guest)
    told = row("kubectl virtsync stop --anyway, while Git has Running")
    done = virtsync(world, "stop", guest.name, "--anyway")
    assert done.returncode == 0, done.stderr
    world.until(guest, lambda vm: vm["spec"]["powerState"] == "Stopped", "to be stopped")
    world.until(guest, lambda vm: vm["spec"]["powerState"] == "Running", "as Git says")
    told.engine_did("undone")
    world.until(guest, runs, "running")
    told.vm_did("runs, InSync")

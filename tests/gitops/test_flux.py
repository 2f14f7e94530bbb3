"""What only Flux does with VirtualMachines in Git."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gitops.flux import SHARD, Flux
from gitops.kustomization import Kustomization
from gitops.ledger import Row
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import World, is_off, moment, power_of, ready_of, reason_of, runs
from tests.gitops.conftest import FOLDER, Git
from tests.gitops.test_engines import delivered, exists, until_gone

Json = dict[str, Any]
Begin = Callable[[str], Row]
HOLD = "hold.virtsync.dev/ann"
UNCURED: Json = {"healthCheckExprs": None}
"""Without the health expressions of deploy/flux, so that Flux asks kstatus."""


def has_hold(vm: Json) -> bool:
    return HOLD in vm["metadata"].get("annotations", {})


# --- who wins


def test_a_hold_by_plain_kubectl_is_removed_at_the_next_reconciliation(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = delivered(world, git, ks, powerState="Running")
    world.kubectl("annotate", "kvm", guest.name, f"{HOLD}=backup")
    told = row("kubectl annotate of a hold, without a field manager")
    world.until(guest, has_hold, "held")
    world.until(guest, lambda vm: not has_hold(vm), "released")
    told.engine_did("removes the hold")


def test_a_hold_by_plain_kubectl_stays_while_suspended_and_goes_on_resume(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = delivered(world, git, ks, powerState="Running")
    ks.suspend()
    world.kubectl("annotate", "kvm", guest.name, f"{HOLD}=backup")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    assert world.nothing_done(guest)
    ks.resume()
    told = row("resume, while a hold by kubectl is there")
    world.until(guest, lambda vm: not has_hold(vm), "released")
    told.engine_did("removes the hold")
    world.until(guest, runs, "running")
    told.vm_did("runs again")


def test_a_patch_of_a_power_state_that_git_leaves_out_is_carried_out_and_then_removed(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = delivered(world, git, ks)
    ks.suspend()
    world.patch(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    ks.resume()
    told = row("resume, after kubectl patch of a powerState that Git leaves out")
    world.until(guest, lambda vm: "powerState" not in vm["spec"], "as Git says")
    told.engine_did("removes the field")
    observed = world.until(guest, lambda vm: reason_of(vm) == "Observed", "observed")
    told.vm_did("stays off, Observed")
    assert power_of(observed) == "Stopped"


def test_a_restart_request_by_kubectl_restarts_once_and_its_removal_does_nothing(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = delivered(world, git, ks, powerState="Running")
    ks.suspend()
    world.patch(guest, restartRequestTime=moment(in_s=2))
    told = row("kubectl patch of restartRequestTime while suspended, then resume")
    world.until_event(guest, "Restarted")
    told.vm_did("restarted")
    run = world.run_id(guest)
    ks.resume()
    world.until(guest, lambda vm: "restartRequestTime" not in vm["spec"], "as Git says")
    told.engine_did("removes the field")
    world.outlast_settling()
    assert world.run_id(guest) == run
    assert world.events(guest).count("Restarted") == 1


# --- what Flux waits for


@pytest.mark.parametrize("cured", [True, False], ids=["expressions", "kstatus"])
def test_a_held_vm_is_healthy_with_the_expressions_and_times_out_without_them(
    cured: bool,  # noqa: FBT001 - a parameter of pytest
    world: World,
    git: Git,
    ks: Kustomization,
    row: Begin,
) -> None:
    guest = world.start()
    world.start_agent()
    held = git.vm(guest, powerState="Stopped", annotations={HOLD: "backup"})
    ks.create(spec={} if cured else UNCURED)
    told = row(f"a commit for a held VM, {'with' if cured else 'without'} the health expressions")
    world.until_ready(guest, "Held")
    told.vm_did("Held")
    if cured:
        ks.until_healthy(held)
        told.engine_did("healthy")
    else:
        ks.until_failed("HealthCheckFailed", "timeout")
        told.engine_did("HealthCheckFailed, after a timeout of 30 s")
    assert world.nothing_done(guest)


@pytest.fixture
def own_libvirtd() -> Iterator[Libvirtd]:
    """A libvirtd that a test may stop; a test names it before its world, which then ends first."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


def test_a_vm_whose_state_nobody_knows_fails_before_the_timeout(
    own_libvirtd: Libvirtd, world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = world.define(libvirtd=own_libvirtd)
    world.start_agent(uri=own_libvirtd.uri)
    first = git.vm(guest, powerState="Stopped")
    ks.create(spec={"timeout": "1h"})
    ks.until_healthy(first)
    own_libvirtd.halt()
    world.until(guest, lambda vm: ready_of(vm)["reason"] == "LibvirtUnreachable", "unknown")
    git.vm(guest, powerState="Running")
    told = row("a commit while libvirt is down, timeout 1 h")
    ks.until_failed("HealthCheckFailed", guest.name)
    told.engine_did("HealthCheckFailed")
    own_libvirtd.start()
    told = row("libvirt is up again")
    world.until(guest, runs, "running")
    told.vm_did("runs, InSync")


def test_a_vm_whose_agent_is_gone_fails_at_once_but_a_change_of_its_spec_waits_for_the_timeout(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = world.start()
    agent = world.start_agent(lease_namespace=world.name, lease_duration="20s")
    first = git.vm(guest, powerState="Running")
    ks.create(spec={"timeout": "20s"})
    ks.until_healthy(first)
    world.start_manager()
    agent.kill()
    world.until_ready(guest, "AgentUnreachable")
    git.vm(guest, powerState="Running", annotations={"example.com/owner": "ann"})
    told = row("a commit of an annotation, the agent is gone")
    ks.until_failed("HealthCheckFailed", "stalled", guest.name)
    told.engine_did("HealthCheckFailed, at once")
    off = git.vm(guest, powerState="Stopped")
    told = row("a commit: powerState Stopped, the agent is gone, timeout 20 s")
    ks.until_failed("HealthCheckFailed", "timeout", guest.name)
    told.engine_did("HealthCheckFailed, after the timeout")
    agent.start()
    told = row("the agent is back")
    world.until(guest, is_off, "off")
    told.vm_did("off, InSync")
    ks.until_healthy(off)
    told.engine_did("healthy")


def test_an_agent_that_only_observes_leaves_flux_healthy(world: World, git: Git, ks: Kustomization) -> None:
    guest = world.start()
    world.start_agent(observe_only="")
    revision = git.vm(guest, powerState="Stopped")
    ks.create()
    world.until_ready(guest, "ObserveOnly")
    ks.until_healthy(revision)


def test_a_domain_that_does_not_exist_fails_before_the_timeout(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    missing = world.define()
    world.start_agent()
    missing.remove()
    git.vm(missing, powerState="Running")
    ks.create(spec={"timeout": "1h"})
    told = row("a commit for a domain that does not exist, timeout 1 h")
    ks.until_failed("HealthCheckFailed", missing.name)
    told.engine_did("HealthCheckFailed")
    world.define()
    world.until(missing, runs, "running")


# --- one Kustomization after the other


@pytest.fixture
def in_order(flux: Flux, world: World, git: Git) -> Iterator[tuple[Kustomization, Kustomization]]:
    """Kustomizations of the folders db and web, not created yet."""
    with ExitStack() as ends:
        made = [
            Kustomization(flux, f"{world.name}-{name}", url=git.url, folder=f"{FOLDER}/{name}", namespace=world.name)
            for name in ("db", "web")
        ]
        for one in made:
            ends.enter_context(one)
        yield made[0], made[1]


def create_in_order(pair: tuple[Kustomization, Kustomization], **spec: Any) -> None:
    first, second = pair
    first.create(spec=spec)
    second.create(spec={"dependsOn": [{"name": first.name}]})


def commit_both(world: World, git: Git, db: Guest, web: Guest, power: str) -> str:
    objects = {"db": world.manifest(db, powerState=power), "web": world.manifest(web, powerState=power)}
    return git.commit({f"{folder}/vm.yaml": one for folder, one in objects.items()})


def test_a_kustomization_begins_when_the_vms_of_the_one_that_it_depends_on_are_healthy(
    world: World, git: Git, in_order: tuple[Kustomization, Kustomization], row: Begin
) -> None:
    db, web = world.define("db"), world.define("web")
    world.start_agent()
    on = commit_both(world, git, db, web, "Running")
    told = row("two VMs that are off, in two Kustomizations with dependsOn")
    create_in_order(in_order)
    since = world.until(db, runs, "running")["status"]["powerStateTransitionTime"]
    told.vm_did("the first runs")
    world.until(web, runs, "running")
    told.vm_did("the second runs")
    in_order[1].until_healthy(on)
    told.engine_did("healthy")
    assert world.get(web)["metadata"]["creationTimestamp"] >= since


@pytest.mark.parametrize("cured", [True, False], ids=["expressions", "kstatus"])
def test_a_held_vm_stops_the_kustomizations_that_depend_on_it_unless_flux_has_the_expressions(
    cured: bool,  # noqa: FBT001 - a parameter of pytest
    world: World,
    git: Git,
    in_order: tuple[Kustomization, Kustomization],
    row: Begin,
) -> None:
    db, web = world.start("db"), world.start("web")
    world.start_agent()
    on = commit_both(world, git, db, web, "Running")
    create_in_order(in_order, **({} if cured else UNCURED))
    in_order[1].until_healthy(on)
    world.kubectl("annotate", "--field-manager=ann", "kvm", db.name, f"{HOLD}=backup")
    off = commit_both(world, git, db, web, "Stopped")
    told = row(f"both off by one commit, the first is held, {'with' if cured else 'without'} the health expressions")
    world.until_ready(db, "Held")
    told.vm_did("the first is Held")
    if cured:
        world.until(web, is_off, "off")
        told.vm_did("the second is off")
        in_order[1].until_healthy(off)
        told.engine_did("healthy")
        return
    in_order[0].until_failed("HealthCheckFailed", "timeout")
    in_order[1].until_failed("DependencyNotReady")
    told.engine_did("HealthCheckFailed, DependencyNotReady")
    assert world.get(web)["spec"]["powerState"] == "Running"
    world.kubectl("annotate", "--field-manager=ann", "kvm", db.name, f"{HOLD}-")
    world.until(web, is_off, "off")
    told.vm_did("the second is off, after the hold")


# --- a commit while the health of the one before it is checked


@pytest.mark.parametrize("cured", [True, False], ids=["flag", "default"])
def test_a_commit_waits_for_the_health_check_of_the_one_before_it_unless_the_controller_has_the_flag(
    cured: bool,  # noqa: FBT001 - a parameter of pytest
    flux: Flux,
    world: World,
    git: Git,
    ks: Kustomization,
    row: Begin,
) -> None:
    if not cured:
        flux.shard("default")
    guest = world.start()
    world.start_agent()
    shutdown = {"gracePeriodSeconds": 12}
    on = git.vm(guest, powerState="Running", shutdown=shutdown)
    ks.create(metadata={} if cured else {"labels": {SHARD: "default"}})
    ks.until_healthy(on)
    run = world.run_id(guest)
    guest.ignore_power_button()
    git.vm(guest, powerState="Stopped", shutdown=shutdown)
    world.until_ready(guest, "ShuttingDown")
    back = git.vm(guest, powerState="Running", shutdown=shutdown)
    told = row(f"a commit that takes a shutdown back, {'with' if cured else 'without'} CancelHealthCheckOnNewRevision")
    world.until(guest, lambda vm: vm["spec"]["powerState"] == "Running", "as the last commit says")
    told.engine_did("applied")
    world.until(guest, runs, "running")
    told.vm_did("runs on" if cured else "was forced off, runs again")
    ks.until_healthy(back)
    told.engine_did("healthy")
    assert (world.run_id(guest) == run) is cured
    assert ("ForcedOff" in world.events(guest)) is not cured


# --- deletion


def test_the_last_vm_of_a_folder_is_pruned_and_runs_on(world: World, git: Git, ks: Kustomization) -> None:
    guest = delivered(world, git, ks, powerState="Running")
    run = world.run_id(guest)
    git.commit({f"{guest.name}.yaml": None, "README.md": "No VM is left."})
    until_gone(world, guest)
    world.outlast_settling()
    assert world.run_id(guest) == run


def test_a_protected_object_stays_when_its_kustomization_is_deleted(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = world.start()
    world.start_agent()
    revision = git.vm(guest, powerState="Running", annotations={"kustomize.toolkit.fluxcd.io/prune": "disabled"})
    ks.create()
    ks.until_healthy(revision)
    told = row("Kustomization deleted, the object is protected")
    ks.delete()
    told.engine_did("deleted")
    assert exists(world, guest)
    assert runs(world.get(guest))
    told.vm_did("runs on, InSync")

"""Hosts that Flux applies, and what it leaves alone of what somebody has set with kubectl."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gitops.kustomization import Kustomization
from gitops.ledger import Row
from lab.world import API, World, runs, until
from tests.gitops.conftest import Git
from tests.gitops.test_flux import HOLD, has_hold

Json = dict[str, Any]
Begin = Callable[[str], Row]
MERGE = {"kustomize.toolkit.fluxcd.io/ssa": "Merge"}
CLUSTER: Json = {"serviceAccountName": None, "targetNamespace": None}
"""The rights of Flux itself: a host is in no namespace."""
MAINTENANCE = {"mode": "Hold", "reason": "new RAM"}


def host(world: World, *, annotations: dict[str, str] | None = None, **spec: Any) -> Json:
    meta = {"name": world.node, "annotations": annotations or {}}
    return {"apiVersion": API, "kind": "Hypervisor", "metadata": meta, "spec": spec}


def declare(world: World, maintenance: Json | None) -> None:
    body = json.dumps({"spec": {"maintenance": maintenance}})
    world.kubectl("patch", "kvmhost", world.node, "--type=merge", "-p", body)


def is_declared(world: World) -> bool:
    return "maintenance" in json.loads(world.kubectl("get", "kvmhost", world.node, "-o", "json"))["spec"]


def until_quiet(world: World) -> None:
    world.kubectl("wait", f"kvmhost/{world.node}", "--for=condition=Quiesced", "--timeout=60s")


def test_a_maintenance_in_git_is_healthy_once_the_host_is_quiet(
    world: World, git: Git, ks: Kustomization, row: Begin
) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    first = git.commit({"host.yaml": host(world)})
    ks.create(spec=CLUSTER)
    ks.until_healthy(first)
    declared = git.commit({"host.yaml": host(world, maintenance=MAINTENANCE)})
    told = row("a commit: maintenance, mode Hold, of a Hypervisor")
    ks.until_healthy(declared)
    told.engine_did("healthy")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    ended = git.revert()
    told = row("a commit without the maintenance")
    world.until(guest, runs, "running")
    told.vm_did("runs again")
    ks.until_healthy(ended)
    told.engine_did("healthy")


@pytest.mark.parametrize("merged", [True, False], ids=["merge", "default"])
def test_a_maintenance_by_kubectl_stays_only_if_the_host_has_the_annotation_merge(
    merged: bool,  # noqa: FBT001 - a parameter of pytest
    world: World,
    git: Git,
    ks: Kustomization,
    row: Begin,
) -> None:
    world.start_agent()
    first = git.commit({"host.yaml": host(world, annotations=MERGE if merged else None)})
    ks.create(spec=CLUSTER)
    ks.until_healthy(first)
    ks.suspend()
    declare(world, MAINTENANCE)
    until_quiet(world)
    told = row(f"resume, after kubectl patch of maintenance, {'with' if merged else 'without'} ssa: Merge")
    ks.resume()
    if merged:
        ks.reconcile("again")
        assert is_declared(world)
        told.engine_did("keeps the maintenance")
        declare(world, None)
    until(lambda: not is_declared(world), "The maintenance does not end.")
    if not merged:
        told.engine_did("ends the maintenance")


def test_a_hold_by_plain_kubectl_stays_on_a_vm_with_the_annotation_merge(
    world: World, git: Git, ks: Kustomization
) -> None:
    guest = world.start()
    world.start_agent()
    first = git.vm(guest, annotations=MERGE, powerState="Running")
    ks.create()
    ks.until_healthy(first)
    world.kubectl("annotate", "kvm", guest.name, f"{HOLD}=backup")
    ks.reconcile("again")
    assert has_hold(world.get(guest))
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    world.kubectl("annotate", "kvm", guest.name, f"{HOLD}-")
    world.until(guest, runs, "running")

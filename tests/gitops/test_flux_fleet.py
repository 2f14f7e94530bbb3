"""Two traps of Flux that docs/gitops.md warns of: what it takes over from kubectl, in hosts and in Kustomizations."""

import json
from typing import Any

from gitops.engine import PROTECTED
from gitops.kustomization import Kustomization
from lab.world import API, World
from tests.gitops.conftest import Git

Json = dict[str, Any]
MAINTENANCE = {"maintenance": {"mode": "Hold", "reason": "new fan"}}
AS_FLUX = {"serviceAccountName": None, "targetNamespace": None, "wait": False}
"""Changes of a Kustomization that applies other objects than VMs."""


def spec_after_maintenance_by_kubectl(world: World, git: Git, ks: Kustomization, annotations: dict[str, str]) -> Json:
    """The spec of a host in Git after somebody has declared maintenance with kubectl, and Flux has reconciled."""
    meta = {"name": world.node, "annotations": {**PROTECTED, **annotations}}
    ks.create(spec=AS_FLUX)
    ks.until_applied(git.commit({"host.yaml": {"apiVersion": API, "kind": "Hypervisor", "metadata": meta}}))
    patch = ("patch", "kvmhost", world.node, "--type=merge", "-p")
    world.controlplane.kubectl(*patch, json.dumps({"spec": MAINTENANCE}))
    ks.reconcile("after-the-patch")
    found: Json = json.loads(world.controlplane.kubectl("get", "kvmhost", world.node, "-o", "json").stdout)
    world.controlplane.kubectl(*patch, '{"spec":{"maintenance":null}}')
    world.controlplane.kubectl("delete", "kvmhost", world.node)
    spec: Json = found["spec"]
    return spec


def test_flux_ends_a_maintenance_by_kubectl(world: World, git: Git, ks: Kustomization) -> None:
    assert spec_after_maintenance_by_kubectl(world, git, ks, {}) == {}


def test_with_merge_flux_keeps_a_maintenance_by_kubectl(world: World, git: Git, ks: Kustomization) -> None:
    merge = {"kustomize.toolkit.fluxcd.io/ssa": "Merge"}
    assert spec_after_maintenance_by_kubectl(world, git, ks, merge) == MAINTENANCE


def test_a_kustomization_that_kubectl_suspends_is_resumed_by_the_one_that_applies_it(
    git: Git, ks: Kustomization
) -> None:
    child = f"{ks.name}-child"
    source = {"kind": "GitRepository", "name": ks.name}
    applied = {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": child, "namespace": "flux-system"},
        "spec": {"interval": "1h", "path": "./none", "prune": True, "sourceRef": source},
    }
    ks.create(spec=AS_FLUX)
    ks.until_applied(git.commit({"child.yaml": applied}))
    ks.kubectl("patch", ks.kind, child, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    ks.reconcile("after-the-patch")
    assert "suspend" not in json.loads(ks.kubectl("get", ks.kind, child, "-o", "json"))["spec"]
    ks.kubectl("delete", ks.kind, child)

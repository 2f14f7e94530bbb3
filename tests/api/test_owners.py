"""Who owns a field. The managed fields have the form in which kube-apiserver 1.35.4 writes them."""

import json
from typing import Any

import pytest

from controller.api.names import CLI
from controller.api.owners import Owner, field_owner, object_owner

Json = dict[str, Any]
POWER = ("spec", "powerState")
RESTART = ("spec", "restartRequestTime")
HOLD = ("metadata", "annotations", "hold.virtsync.dev/git")
FLUX = Owner("Flux", "Kustomization flux-system/vms")
ARGO = Owner("Argo CD", "Application shop")
FLUX_LABELS = {"kustomize.toolkit.fluxcd.io/name": "vms", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
ID = "argocd.argoproj.io/tracking-id"
TRACKED = {ID: "shop:virtsync.dev/VirtualMachine:default/web-1"}
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
FLUX_FIELDS: Json = {
    "f:metadata": {
        "f:annotations": {"f:hold.virtsync.dev/git": {}},
        "f:labels": {"f:kustomize.toolkit.fluxcd.io/name": {}, "f:kustomize.toolkit.fluxcd.io/namespace": {}},
    },
    "f:spec": {"f:nodeName": {}, "f:powerState": {}},
}
ARGO_FIELDS: Json = {
    "f:metadata": {"f:annotations": {".": {}, f"f:{ID}": {}, f"f:{LAST_APPLIED}": {}}},
    "f:spec": {
        ".": {},
        "f:nodeName": {},
        "f:powerState": {},
        "f:restartPolicy": {},
        "f:shutdown": {".": {}, "f:gracePeriodSeconds": {}, "f:mode": {}},
    },
}


def entry(manager: str, operation: str, fields: Json, **more: str) -> Json:
    return {
        "apiVersion": "virtsync.dev/v1alpha1",
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        "manager": manager,
        "operation": operation,
        "time": "2026-11-27T12:30:36Z",
        **more,
    }


def vm(*entries: Json, labels: Json | None = None, annotations: Json | None = None) -> Json:
    meta: Json = {"name": "web-1", "namespace": "default", "managedFields": list(entries)}
    meta |= {"labels": labels} if labels else {}
    meta |= {"annotations": annotations} if annotations else {}
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": meta}


def without(fields: Json, name: str) -> Json:
    return fields | {"f:spec": {key: value for key, value in fields["f:spec"].items() if key != name}}


def by_flux(fields: Json = FLUX_FIELDS) -> Json:
    return vm(entry("kustomize-controller", "Apply", fields), labels=FLUX_LABELS)


def by_argo(fields: Json = ARGO_FIELDS, **spec: str) -> Json:
    applied = json.dumps({"metadata": {"annotations": TRACKED}, "spec": {"nodeName": "n", **spec}})
    return vm(entry("argocd-controller", "Update", fields), annotations=TRACKED | {LAST_APPLIED: applied})


def test_flux_owns_what_it_has_applied() -> None:
    assert field_owner(by_flux(), POWER) == FLUX
    assert field_owner(by_flux(), HOLD) == FLUX


def test_flux_does_not_own_what_git_leaves_out() -> None:
    assert field_owner(by_flux(), RESTART) is None
    assert field_owner(by_flux(), ("metadata", "annotations", "hold.virtsync.dev/ann")) is None
    assert object_owner(by_flux()) == FLUX


def test_argo_cd_owns_what_it_has_applied_on_the_client() -> None:
    assert field_owner(by_argo(powerState="Running"), POWER) == ARGO
    assert field_owner(by_argo(powerState="Running"), RESTART) is None


def test_argo_cd_still_owns_a_field_that_somebody_has_changed_since() -> None:
    ours = entry(CLI, "Update", {"f:spec": {"f:powerState": {}}})
    changed = by_argo(without(ARGO_FIELDS, "f:powerState"), powerState="Running")
    changed["metadata"]["managedFields"].append(ours)
    assert field_owner(changed, POWER) == ARGO


def test_what_kubectl_has_applied_belongs_to_nobody() -> None:
    applied = json.dumps({"spec": {"powerState": "Running"}})
    fields = entry("kubectl-client-side-apply", "Update", ARGO_FIELDS)
    assert field_owner(vm(fields, annotations={LAST_APPLIED: applied}), POWER) is None
    assert object_owner(vm(fields, annotations={LAST_APPLIED: applied})) is None


def test_the_last_applied_object_counts_for_argo_cd_alone() -> None:
    raw = by_flux(without(FLUX_FIELDS, "f:powerState"))
    raw["metadata"]["annotations"] = {LAST_APPLIED: json.dumps({"spec": {"powerState": "Running"}})}
    assert field_owner(raw, POWER) is None


def test_a_status_that_a_tool_has_written_makes_it_no_owner() -> None:
    raw = vm(entry("argocd-controller", "Update", {"f:spec": {"f:powerState": {}}}, subresource="status"))
    assert field_owner(raw, POWER) is None
    assert object_owner(raw) is None


def test_a_part_of_a_field_makes_the_field_owned() -> None:
    fields: Json = {"f:spec": {"f:maintenance": {"f:mode": {}, "f:reason": {}}}}
    host: Json = {"kind": "Hypervisor", "metadata": {"name": "h"}}
    host["metadata"]["managedFields"] = [entry("kustomize-controller", "Apply", fields)]
    assert field_owner(host, ("spec", "maintenance")) == Owner("Flux")
    assert str(field_owner(host, ("spec", "maintenance"))) == "Flux"


def test_a_helm_release_of_flux_is_named() -> None:
    labels = {"helm.toolkit.fluxcd.io/name": "vms", "helm.toolkit.fluxcd.io/namespace": "shop"}
    raw = vm(entry("helm-controller", "Apply", {"f:spec": {"f:powerState": {}}}), labels=labels)
    assert str(field_owner(raw, POWER)) == "Flux (HelmRelease shop/vms)"


@pytest.mark.parametrize(
    "tracking",
    [
        "shop:virtsync.dev/VirtualMachine:default/web-2",
        "shop:virtsync.dev/VirtualMachine:other/web-1",
        "shop:apps/Deployment:default/web-1",
        "shop",
        "",
    ],
)
def test_a_tracking_annotation_of_another_object_is_ignored(tracking: str) -> None:
    assert object_owner(vm(annotations={ID: tracking})) is None


def test_a_tracking_annotation_of_a_host_is_valid_in_any_namespace() -> None:
    host: Json = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor"}
    host |= {"metadata": {"name": "h", "annotations": {ID: "infra:virtsync.dev/Hypervisor:argocd/h"}}}
    assert object_owner(host) == Owner("Argo CD", "Application infra")


def test_the_label_of_an_instance_proves_argo_cd_only_with_its_field_manager() -> None:
    labels = {"app.kubernetes.io/instance": "shop"}
    assert object_owner(vm(entry("helm", "Update", ARGO_FIELDS), labels=labels)) is None
    assert object_owner(vm(entry("argocd-controller", "Apply", ARGO_FIELDS), labels=labels)) == ARGO


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {"managedFields": None},
        {"managedFields": ["x", {}, {"manager": 1}, {"manager": "argocd-controller", "fieldsV1": "x"}]},
        {"annotations": {LAST_APPLIED: "{", ID: 1}, "labels": []},
        {"annotations": TRACKED | {LAST_APPLIED: "[]"}, "name": "web-1"},
    ],
)
def test_a_damaged_object_has_no_owned_field(meta: object) -> None:
    raw = {"apiVersion": 1, "kind": None, "metadata": meta}
    assert field_owner(raw, POWER) is None


@pytest.mark.parametrize("taken_over", ["kubectl", "before-first-apply", "kustomize-controller"])
def test_flux_does_not_take_over_the_fields_of_our_commands(taken_over: str) -> None:
    assert not CLI.startswith(taken_over)

"""What Flux waits for: the health expressions of deploy/flux, with each reason that a VirtualMachine can have."""

from typing import Any

import cel
import pytest
import yaml

from controller.api.virtualmachine import Reason
from tests.deploy.callers import REPOSITORY
from tests.deploy.reasons import is_unknown, table, vm

Json = dict[str, Any]
OBJECTS: dict[str, Json] = {
    obj["kind"]: obj for obj in yaml.safe_load_all((REPOSITORY / "deploy/flux/virtual-machines.yaml").read_text())
}
FLUX = {"Healthy": "current", "Suspended": "current", "Degraded": "failed", "Progressing": "inProgress"}


def verdicts(obj: Json) -> list[str]:
    """The expressions that are true for an object; Flux gives them the fields of the object as variables."""
    (checks,) = OBJECTS["Kustomization"]["spec"]["healthCheckExprs"]
    assert (checks["apiVersion"], checks["kind"]) == ("virtsync.dev/v1alpha1", "VirtualMachine")
    return [name for name in ("current", "failed", "inProgress") if cel.evaluate(checks[name], obj) is True]


@pytest.mark.parametrize("reason", Reason)
def test_flux_makes_of_each_reason_what_is_documented(reason: Reason) -> None:
    assert verdicts(vm(reason)) == [FLUX[table()[reason]]]


@pytest.mark.parametrize("reason", Reason)
def test_flux_waits_for_a_spec_that_is_not_observed_unless_the_state_is_unknown(reason: Reason) -> None:
    assert verdicts(vm(reason, generation=2)) == ["failed" if is_unknown(reason) else "inProgress"]


def test_flux_waits_for_a_new_object() -> None:
    new = vm("Pending")
    new["status"]["observedGeneration"] = -1
    assert verdicts(new) == ["inProgress"]


def test_the_rights_of_flux_are_those_of_a_user_of_vms_in_one_namespace() -> None:
    (rule,) = OBJECTS["Role"]["rules"]
    assert rule == {
        "apiGroups": ["virtsync.dev"],
        "resources": ["virtualmachines"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    }


def test_the_kustomization_uses_the_account_that_has_the_rights() -> None:
    applied, binding = OBJECTS["Kustomization"], OBJECTS["RoleBinding"]
    meta = OBJECTS["ServiceAccount"]["metadata"]
    assert binding["subjects"] == [{"kind": "ServiceAccount"} | meta]
    assert binding["roleRef"]["name"] == OBJECTS["Role"]["metadata"]["name"]
    assert (applied["spec"]["serviceAccountName"], applied["metadata"]["namespace"]) == (
        meta["name"],
        meta["namespace"],
    )
    assert applied["spec"]["targetNamespace"] == binding["metadata"]["namespace"]
    assert applied["spec"]["sourceRef"]["name"] == OBJECTS["GitRepository"]["metadata"]["name"]

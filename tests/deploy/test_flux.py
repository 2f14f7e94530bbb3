"""What Flux waits for: the health expressions of deploy/flux, with each reason that a VM or a host can have."""

import json
import subprocess
from typing import Any

import cel
import pytest
import yaml

from controller.api.virtualmachine import Reason
from lab.controlplane import ControlPlane
from lab.world import until
from tests.deploy.callers import REPOSITORY
from tests.deploy.reasons import host, host_table, is_unknown, table, vm

Json = dict[str, Any]
OBJECTS: dict[str, Json] = {
    obj["kind"]: obj for obj in yaml.safe_load_all((REPOSITORY / "deploy/flux/virtual-machines.yaml").read_text())
}
EXPRESSIONS = {
    (checks["apiVersion"], checks["kind"]): checks for checks in OBJECTS["Kustomization"]["spec"]["healthCheckExprs"]
}
FLUX = {"Healthy": "current", "Suspended": "current", "Degraded": "failed", "Progressing": "inProgress"}


def verdicts(obj: Json, kind: str = "VirtualMachine") -> list[str]:
    """The expressions that are true for an object; Flux gives them the fields of the object as variables."""
    checks = EXPRESSIONS["virtsync.dev/v1alpha1", kind]
    return [name for name in ("current", "failed", "inProgress") if cel.evaluate(checks[name], obj) is True]


@pytest.mark.parametrize("reason", Reason)
def test_flux_makes_of_each_reason_what_is_documented(reason: Reason) -> None:
    assert verdicts(vm(reason)) == [FLUX[table()[reason]]]


@pytest.mark.parametrize("reason", Reason)
def test_flux_waits_for_a_spec_that_is_not_observed_unless_the_state_is_unknown(reason: Reason) -> None:
    assert verdicts(vm(reason, generation=2)) == ["failed" if is_unknown(reason) else "inProgress"]


@pytest.mark.parametrize(("status", "reason", "health"), host_table("Ready"))
def test_flux_makes_of_each_reason_of_a_host_what_is_documented(status: str, reason: str, health: str) -> None:
    assert verdicts(host(("Ready", status, reason)), "Hypervisor") == [FLUX[health]]


@pytest.mark.parametrize(("status", "reason", "health"), host_table("Quiesced"))
def test_flux_waits_until_a_host_in_maintenance_is_quiet(status: str, reason: str, health: str) -> None:
    quiesced = ("Quiesced", status, reason)
    for ready in (("Ready", "True", "Active"), ("Ready", "False", "ActionBlocked")):
        assert verdicts(host(ready, quiesced), "Hypervisor") == [FLUX[health]]
    assert verdicts(host(("Ready", "Unknown", "AgentUnreachable"), quiesced), "Hypervisor") == ["failed"]


@pytest.mark.parametrize(("status", "reason"), [(status, reason) for status, reason, _ in host_table("Ready")])
@pytest.mark.parametrize("maintenance", [None, {"mode": "Hold", "reason": "RAM"}], ids=["ended", "declared"])
def test_flux_waits_until_the_agent_obeys_the_spec_of_a_host(
    maintenance: Json | None, status: str, reason: str
) -> None:
    unread = host(("Ready", status, reason))
    unread["metadata"]["generation"] = 4
    unread["spec"] = {"maintenance": maintenance} if maintenance else {}
    silent = status == "Unknown" and reason != "Pending"
    assert verdicts(unread, "Hypervisor") == ["failed" if silent else "inProgress"]


def test_flux_waits_for_a_maintenance_that_the_agent_has_not_answered_with_quiesced() -> None:
    acknowledged = host(("Ready", "True", "Active"))
    acknowledged["spec"] = {"maintenance": {"mode": "Hold", "reason": "RAM"}}
    assert verdicts(acknowledged, "Hypervisor") == ["inProgress"]


@pytest.mark.parametrize("kind", ["VirtualMachine", "Hypervisor"])
def test_flux_waits_for_a_new_object_as_the_api_server_completes_it(installed: ControlPlane, kind: str) -> None:
    """The expressions read the status without has(), so the API server must give a status to every new object."""
    new = {"apiVersion": "virtsync.dev/v1alpha1", "kind": kind, "metadata": {"name": "new"}}
    words = ("apply", "--server-side", "--field-manager=kustomize-controller", "-n", "default", "-o", "json", "-f", "-")
    created = json.loads(installed.kubectl(*words, input=json.dumps(new)).stdout)
    installed.kubectl("delete", kind, "new", "-n", "default")
    assert verdicts(created, kind) == ["inProgress"]


def test_the_rights_of_flux_are_those_of_a_user_of_vms_in_one_namespace() -> None:
    (rule,) = OBJECTS["Role"]["rules"]
    assert rule == {
        "apiGroups": ["virtsync.dev"],
        "resources": ["virtualmachines"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete", "bind"],
    }


@pytest.mark.parametrize("verb", ["create", "patch", "bind"])
def test_flux_needs_each_of_its_rights_to_create_an_object(installed: ControlPlane, verb: str) -> None:
    role, account = OBJECTS["Role"], OBJECTS["ServiceAccount"]["metadata"]
    namespace = f"flux-without-{verb}"
    (rule,) = role["rules"]
    less = rule | {"verbs": [other for other in rule["verbs"] if other != verb]}
    binding = OBJECTS["RoleBinding"] | {"metadata": {"name": "flux", "namespace": namespace}}
    meta = {"name": "web-1", "namespace": namespace}
    wanted = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": meta}
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    words = ("apply", "--server-side", "--dry-run=server", f"--as={user}", "-f", "-")

    def apply(rules: list[Json]) -> subprocess.CompletedProcess[str]:
        bound = role | {"metadata": {"name": role["metadata"]["name"], "namespace": namespace}, "rules": rules}
        for it in (bound, binding):
            installed.kubectl("apply", "-f", "-", input=json.dumps(it))
        return installed.kubectl(*words, input=json.dumps(wanted), check=False)

    installed.kubectl("create", "namespace", namespace)
    until(lambda: apply([rule]).returncode == 0, "Flux may not create a VirtualMachine.")
    until(lambda: "forbidden" in apply([less]).stderr, f"Flux may create a VirtualMachine without {verb}.")


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

"""The example of a fleet in Git: rendered by kubectl, and accepted by a real API server."""

import json
import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.binaries import find_assets
from lab.controlplane import ControlPlane
from lab.world import until
from tests.deploy.callers import REPOSITORY

Json = dict[str, Any]
EXAMPLE = REPOSITORY / "examples" / "gitops"
KUSTOMIZATIONS = {
    file.parent.relative_to(EXAMPLE).as_posix(): yaml.safe_load(file.read_text())
    for file in sorted(EXAMPLE.rglob("kustomization.yaml"))
}
RENDERED = [folder for folder, it in KUSTOMIZATIONS.items() if it["kind"] == "Kustomization"]
NAMESPACES = sorted(folder.name for folder in (EXAMPLE / "namespaces").iterdir())
ENGINES = ("argoproj.io/", "kustomize.toolkit.fluxcd.io/", "source.toolkit.fluxcd.io/")
"""Groups that only a cluster with the engine serves."""
NOT_OF_GIT = {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences"}
CASES = [("hosts", "fleet-hosts", "hosts")]
CASES += [(f"namespaces/{it}/overlays/{time}", f"fleet-{it}", it) for it in NAMESPACES for time in ("day", "night")]


def render(folder: Path) -> list[Json]:
    kustomize = [str(find_assets() / "kubectl"), "kustomize", str(folder)]
    return [*yaml.safe_load_all(subprocess.run(kustomize, check=True, capture_output=True, text=True).stdout)]


def key(it: Json) -> tuple[str, str]:
    return it["kind"], it["metadata"]["name"]


def as_list(objects: list[Json]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def of(kind: str, engine: str) -> dict[str, Json]:
    """The objects of this kind that an engine applies from the example, by their names."""
    objects = render(EXAMPLE / "clusters" / engine)
    return {it["metadata"]["name"]: it for it in objects if it["kind"] == kind}


@pytest.mark.parametrize("folder", RENDERED)
def test_the_api_server_accepts_each_folder(installed: ControlPlane, folder: str) -> None:
    """With all that is in it, except the objects of the engines, whose definitions are not installed."""
    objects = [it for it in render(EXAMPLE / folder) if not it["apiVersion"].startswith(ENGINES)]
    for name in [*NAMESPACES, "flux-system"]:
        installed.kubectl("create", "namespace", name, check=False)  # a dry run creates none

    words = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "name", "-f", "-")
    accepted = installed.kubectl(*words, input=as_list(objects)).stdout.split() if objects else []
    assert len(accepted) == len(objects)
    assert objects or folder == "clusters/argocd"


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_night_changes_the_power_state_of_the_test_vms_and_nothing_else(namespace: str) -> None:
    day, night = (
        {key(it): it for it in render(EXAMPLE / "namespaces" / namespace / "overlays" / time)}
        for time in ("day", "night")
    )
    tests = {name for name, it in day.items() if it["metadata"].get("labels", {}).get("stage") == "test"}
    assert tests
    assert {day[name]["spec"]["powerState"] for name in tests} == {"Running"}

    expected = deepcopy(day)
    for name in tests:
        expected[name]["spec"]["powerState"] = "Stopped"
    assert night == expected


@pytest.mark.parametrize("folder", RENDERED)
def test_no_object_has_what_does_not_belong_into_git(folder: str) -> None:
    for it in render(EXAMPLE / folder):
        assert "status" not in it, key(it)
        assert NOT_OF_GIT.isdisjoint(it["metadata"]), key(it)


def test_no_tool_deletes_an_object_of_ours_or_a_namespace() -> None:
    objects = [it for folder in RENDERED for it in render(EXAMPLE / folder)]
    ours = [it for it in objects if it["apiVersion"].startswith("virtsync.dev/")]
    assert {it["kind"] for it in ours} == {"VirtualMachine", "Hypervisor"}
    for it in ours:
        annotations = it["metadata"]["annotations"]
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false", key(it)
    for it in [*ours, *(it for it in objects if it["kind"] == "Namespace")]:
        assert it["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/prune"] == "disabled", key(it)


def test_a_maintenance_that_somebody_declares_with_kubectl_is_not_of_flux() -> None:
    for it in render(EXAMPLE / "hosts"):
        assert it["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/ssa"] == "Merge"
        assert "spec" not in it


def test_the_lines_that_declare_a_maintenance_are_valid(installed: ControlPlane, tmp_path: Path) -> None:
    *rest, spec, maintenance, mode, reason = (EXAMPLE / "hosts" / "node-b.yaml").read_text().splitlines()
    lines = [line.removeprefix("# ") for line in (spec, maintenance, mode, reason)]
    (tmp_path / "node-b.yaml").write_text("\n".join(rest + lines))
    words = ("apply", "--server-side", "--dry-run=server", "-o", "json", "-f", str(tmp_path / "node-b.yaml"))
    declared = json.loads(installed.kubectl(*words).stdout)
    assert declared["spec"]["maintenance"]["mode"] == "Shutdown"


def test_every_file_is_used() -> None:
    used = {EXAMPLE / "README.md", EXAMPLE / "clusters" / "argocd" / "applicationset.yaml"}
    for folder, it in KUSTOMIZATIONS.items():
        here = EXAMPLE / folder
        patches = [patch["path"] for patch in it.get("patches", []) if "path" in patch]
        used |= {here / name for name in [*it.get("resources", []), *patches]} | {here / "kustomization.yaml"}
    assert {file for file in EXAMPLE.rglob("*") if file.is_file()} <= used


@pytest.mark.parametrize("engine", ["flux", "argocd"])
def test_what_an_engine_applies_is_in_the_repository(engine: str) -> None:
    if engine == "flux":
        applied = {name: it["spec"]["path"].removeprefix("./") for name, it in of("Kustomization", engine).items()}
    else:
        applied = {name: it["spec"]["source"]["path"] for name, it in of("Application", engine).items()}
    assert applied == {
        "fleet": f"clusters/{engine}",
        "hosts": "hosts",
        **{name: f"namespaces/{name}/overlays/day" for name in NAMESPACES},
    }
    assert set(applied.values()) <= set(RENDERED)


def test_the_command_of_the_readme_switches_every_namespace_to_the_night(tmp_path: Path) -> None:
    copy = shutil.copytree(EXAMPLE, tmp_path / "fleet")
    (command,) = re.findall(r"^    (sed .*) && git commit", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    subprocess.run(["bash", "-ec", command], cwd=copy, check=True)
    flux, argocd = (render(copy / "clusters" / engine) for engine in ("flux", "argocd"))
    night = {name: f"namespaces/{name}/overlays/night" for name in NAMESPACES}
    paths = {it["metadata"]["name"]: it["spec"]["path"] for it in flux if it["kind"] == "Kustomization"}
    assert {name: paths[name] for name in NAMESPACES} == {name: f"./{path}" for name, path in night.items()}
    paths = {it["metadata"]["name"]: it["spec"]["source"]["path"] for it in argocd if it["kind"] == "Application"}
    assert {name: paths[name] for name in NAMESPACES} == night
    template = yaml.safe_load((copy / "clusters" / "argocd" / "applicationset.yaml").read_text())["spec"]["template"]
    assert template["spec"]["source"]["path"] == "{{.path.path}}/overlays/night"


def test_the_application_set_makes_the_same_applications() -> None:
    folder = EXAMPLE / "clusters" / "argocd"
    text = (folder / "applicationset.yaml").read_text()
    template = yaml.safe_load(text)["spec"]["template"]
    applications = of("Application", "argocd")
    for name in NAMESPACES:
        made = json.dumps(template).replace("{{.path.basename}}", name).replace("{{.path.path}}", f"namespaces/{name}")
        assert json.loads(made)["spec"] == applications[name]["spec"]


def test_flux_waits_by_the_expressions_of_deploy() -> None:
    shipped = yaml.safe_load_all((REPOSITORY / "deploy/flux/virtual-machines.yaml").read_text())
    (expected,) = (it["spec"]["healthCheckExprs"] for it in shipped if it["kind"] == "Kustomization")
    kustomizations = of("Kustomization", "flux")
    assert "healthCheckExprs" not in kustomizations.pop("fleet")["spec"]
    for name, it in kustomizations.items():
        assert (it["spec"]["wait"], it["spec"]["healthCheckExprs"]) == (True, expected), name


def test_flux_waits_longer_than_any_guest_may_take_to_shut_down() -> None:
    kustomizations = of("Kustomization", "flux")
    for name in NAMESPACES:
        vms = [it["spec"] for it in render(EXAMPLE / "namespaces" / name / "base")]
        longest = max(it.get("shutdown", {}).get("gracePeriodSeconds", 180) for it in vms)
        assert int(kustomizations[name]["spec"]["timeout"].removesuffix("m")) * 60 > longest


def test_the_rights_of_flux_in_a_namespace_are_those_of_deploy() -> None:
    shipped = yaml.safe_load_all((REPOSITORY / "deploy/flux/virtual-machines.yaml").read_text())
    (expected,) = (it["rules"] for it in shipped if it["kind"] == "Role")
    assert of("ClusterRole", "flux")["flux-virtual-machines"]["rules"] == expected


def bind_flux(installed: ControlPlane) -> None:
    """Create what the example has of namespaces, accounts, roles and bindings."""
    installed.kubectl("create", "namespace", "flux-system", check=False)
    objects = [it for it in render(EXAMPLE / "clusters" / "flux") if not it["apiVersion"].startswith(ENGINES)]
    installed.kubectl("apply", "-f", "-", input=as_list(objects))


def apply_as(installed: ControlPlane, account: str, folder: str) -> subprocess.CompletedProcess[str]:
    """What the API server answers when Flux applies a folder as this account."""
    words = ("apply", "--server-side", "--dry-run=server", f"--as=system:serviceaccount:flux-system:{account}")
    return installed.kubectl(*words, "-f", "-", input=as_list(render(EXAMPLE / folder)), check=False)


@pytest.mark.parametrize(("folder", "account", "kustomization"), CASES)
def test_flux_has_the_rights_to_apply_each_folder(
    installed: ControlPlane, folder: str, account: str, kustomization: str
) -> None:
    bind_flux(installed)
    assert of("Kustomization", "flux")[kustomization]["spec"]["serviceAccountName"] == account
    until(lambda: apply_as(installed, account, folder).returncode == 0, f"{account} may not apply {folder}.")


def test_the_account_of_a_namespace_has_no_rights_in_another_one(installed: ControlPlane) -> None:
    bind_flux(installed)
    until(
        lambda: apply_as(installed, "fleet-shop", "namespaces/shop/overlays/day").returncode == 0,
        "fleet-shop has no rights.",
    )
    for folder in ("namespaces/databases/overlays/day", "hosts"):
        refused = apply_as(installed, "fleet-shop", folder)
        assert (refused.returncode, "(Forbidden)" in refused.stderr) == (1, True), folder

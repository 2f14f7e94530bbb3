"""The chart installed, upgraded and uninstalled by the real Helm on a real API server."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.controlplane import ControlPlane
from lab.helm import CHART, Helm
from manifests.chart import files
from tests.deploy.callers import AGENTS

Json = dict[str, Any]
DEFINITIONS = ["hypervisors.virtsync.dev", "virtualmachines.virtsync.dev"]
VM = {
    "apiVersion": "virtsync.dev/v1alpha1",
    "kind": "VirtualMachine",
    "metadata": {"name": "web-1", "annotations": {"hold.virtsync.dev/me": "new disk"}},
    "spec": {"nodeName": "node-a", "powerState": "Running"},
}
NEWER_FIELD = "runsElsewhere"
"""A field of a Hypervisor's status that the older chart does not know."""
INSTALL = ("install", "virtsync", CHART, f"--namespace={AGENTS}", "--create-namespace")
UPGRADE = ("upgrade", "virtsync", CHART, f"--namespace={AGENTS}")
UNINSTALL = ("uninstall", "virtsync", f"--namespace={AGENTS}")


class Installation:
    """An API server of its own, for the chart's objects are the whole cluster's, with one VirtualMachine."""

    def __init__(self, controlplane: ControlPlane, folder: Path) -> None:
        self.controlplane = controlplane
        self.helm = Helm(folder / "helm", controlplane.kubeconfig)

    def get(self, *words: str) -> list[Json]:
        """Objects as the API server has them."""
        items: list[Json] = json.loads(self.controlplane.kubectl("get", *words, "-o", "json").stdout)["items"]
        return items

    def create_vm(self) -> None:
        self.controlplane.until_crds_served()
        self.controlplane.kubectl("create", "-f", "-", input=json.dumps(VM))

    def vms(self) -> list[tuple[str, Json]]:
        """Who each VirtualMachine is, and what users have written."""
        return [(it["metadata"]["uid"], it["spec"]) for it in self.get("kvm", "-A")]

    def definitions(self) -> dict[str, str]:
        """The uid of each definition."""
        return {it["metadata"]["name"]: it["metadata"]["uid"] for it in self.get("crd")}

    def knows_the_newer_field(self) -> bool:
        (host,) = (it for it in self.get("crd") if it["metadata"]["name"] == "hypervisors.virtsync.dev")
        return NEWER_FIELD in _status_of_a_hypervisor(host)

    def parts(self) -> dict[tuple[str, str], object]:
        """Kind and name of each object of virtsync's, but for the definitions, and which version it is.

        The status of flow control changes without Helm, so the generation counts if there is one.
        """
        kinds = ",".join(sorted({kind for kind, _ in _everything()}))
        found = self.get(kinds, "-A", "-l", "app.kubernetes.io/part-of=virtsync")
        return {
            (it["kind"], it["metadata"]["name"]): it["metadata"].get("generation", it["metadata"]["resourceVersion"])
            for it in found
        }


def _everything() -> set[tuple[str, str]]:
    manifests = yaml.safe_load_all((files.DEPLOY / "install.yaml").read_text())
    return {(it["kind"], it["metadata"]["name"]) for it in manifests if it["kind"] != "Namespace"}


def _status_of_a_hypervisor(definition: Json) -> Json:
    (version,) = definition["spec"]["versions"]
    status: Json = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    return status


def _older_chart(folder: Path) -> Path:
    """The chart of a release that knew less: a field of a definition is missing, and so is the flow control."""
    definitions = files.definitions()
    for it in definitions:
        if it["metadata"]["name"] == "hypervisors.virtsync.dev":
            _status_of_a_hypervisor(it).pop(NEWER_FIELD)
    older = shutil.copytree(CHART, folder / "older")
    for name, text in files.templates(definitions).items():
        (older / name).write_text(text)
    (older / "templates" / "flowcontrol.yaml").unlink()
    return older


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("helm")
    with ControlPlane(folder / "controlplane") as controlplane:
        yield Installation(controlplane, folder)


@pytest.fixture
def older(empty: Installation, tmp_path: Path) -> Iterator[Installation]:
    """An older chart is installed, and there is a VM; afterwards nothing is left of either."""
    words = [_older_chart(tmp_path) if word is CHART else word for word in INSTALL]
    empty.helm.run(*words)
    empty.create_vm()
    yield empty
    empty.helm.run(*UNINSTALL, "--ignore-not-found")
    empty.controlplane.kubectl("delete", "crd", *DEFINITIONS)


def test_an_upgrade_upgrades_the_definitions_and_a_rollback_puts_them_back(older: Installation) -> None:
    vms, definitions = older.vms(), older.definitions()
    assert not older.knows_the_newer_field()
    assert ("FlowSchema", "virtsync") not in older.parts()

    older.helm.run(*UPGRADE)
    assert older.knows_the_newer_field()
    parts = older.parts()
    assert parts.keys() == _everything()
    assert (older.vms(), older.definitions()) == (vms, definitions)

    # Without a change it writes nothing.
    older.helm.run(*UPGRADE)
    assert older.parts() == parts

    older.helm.run("rollback", "virtsync", "1", f"--namespace={AGENTS}")
    assert not older.knows_the_newer_field()
    assert ("FlowSchema", "virtsync") not in older.parts()
    assert (older.vms(), older.definitions()) == (vms, definitions)


def test_no_value_and_no_uninstallation_deletes_the_definitions_or_the_objects(older: Installation) -> None:
    vms, definitions = older.vms(), older.definitions()

    older.helm.run(*UPGRADE, "--set=crds.install=false")
    assert (older.vms(), older.definitions()) == (vms, definitions)
    # The definitions are not part of the release now, and stay as they were.
    assert not older.knows_the_newer_field()

    # An upgrade without values keeps this, as docs/install.md says.
    older.helm.run(*UPGRADE)
    assert not older.knows_the_newer_field()
    older.helm.run(*UPGRADE, "--set=crds.install=true")
    assert older.knows_the_newer_field()

    older.helm.run(*UNINSTALL)
    assert older.parts() == {}
    assert (older.vms(), older.definitions()) == (vms, definitions)
    assert AGENTS in {it["metadata"]["name"] for it in older.get("namespaces")}

    # It goes on with what is there.
    older.helm.run(*INSTALL)
    assert older.parts().keys() == _everything()
    assert (older.vms(), older.definitions()) == (vms, definitions)


def test_a_release_of_another_name_takes_the_definitions_only_if_it_is_told_to(older: Installation) -> None:
    vms, definitions = older.vms(), older.definitions()
    older.helm.run(*UNINSTALL)
    words = ["other" if word == "virtsync" else word for word in INSTALL]

    with pytest.raises(subprocess.CalledProcessError) as failure:
        older.helm.run(*words)
    assert "cannot be imported into the current release" in failure.value.stderr
    assert (older.vms(), older.definitions()) == (vms, definitions)

    older.helm.run(*words, "--take-ownership")
    assert older.knows_the_newer_field()
    assert (older.vms(), older.definitions()) == (vms, definitions)
    older.helm.run("uninstall", "other", f"--namespace={AGENTS}")
    assert (older.vms(), older.definitions()) == (vms, definitions)


def test_the_shares_are_kept_by_an_upgrade_and_kubectl_cannot_set_them(older: Installation) -> None:
    level = ("prioritylevelconfiguration", "virtsync")
    shares = ("get", *level, "--output=jsonpath={.spec.limited.nominalConcurrencyShares}")
    older.helm.run(*UPGRADE, "--set=flowControl.shares.virtsync=60")
    older.helm.run(*UPGRADE)
    assert older.controlplane.kubectl(*shares).stdout == "60"
    # This is what docs/scale.md warns of.
    older.controlplane.kubectl(
        "patch", *level, "--type=merge", '-p={"spec":{"limited":{"nominalConcurrencyShares":90}}}'
    )
    assert 'conflict with "kubectl-patch"' in older.helm.run(*UPGRADE, check=False).stderr


def test_an_upgrade_after_a_rollout_that_was_undone_is_told_to_overwrite_it(older: Installation) -> None:
    older.helm.run(*UPGRADE)
    # `kubectl rollout undo` sends the older template, and so owns what differs.
    (daemonset,) = older.get("daemonsets", "-A")
    template = daemonset["spec"]["template"] | {"$patch": "replace"}
    template["spec"]["containers"][0]["image"] = "virtsync/virtsync:0.0.9"
    patch = json.dumps({"spec": {"template": template}})
    older.controlplane.kubectl("patch", "daemonset", "virtsync-agent", f"--namespace={AGENTS}", f"--patch={patch}")

    assert "--force-conflicts" in (files.DEPLOY.parent / "docs" / "operations.md").read_text()
    assert 'containers[name="agent"].image' in older.helm.run(*UPGRADE, check=False).stderr
    older.helm.run(*UPGRADE, "--force-conflicts")
    older.helm.run(*UPGRADE)


def test_what_kubectl_has_installed_becomes_a_release(installed: ControlPlane, tmp_path: Path) -> None:
    it = Installation(installed, tmp_path)
    it.create_vm()
    vms, definitions = it.vms(), it.definitions()

    it.helm.run(*INSTALL, "--take-ownership", "--force-conflicts")

    assert it.parts().keys() == _everything()
    assert (it.vms(), it.definitions()) == (vms, definitions)
    managed_by = "app.kubernetes.io/managed-by"
    (daemonset,) = it.get("daemonsets", "-A")
    assert daemonset["metadata"]["labels"][managed_by] == "Helm"
    assert daemonset["spec"]["template"]["metadata"]["labels"][managed_by] == "Helm"
    it.helm.run(*UNINSTALL)
    assert it.parts() == {}
    assert (it.vms(), it.definitions()) == (vms, definitions)

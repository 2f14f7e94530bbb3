"""examples/gitops as it is: its objects are valid for the engines, and both engines apply it to two hosts."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from gitops.git import GitServer, Repository
from lab.controlplane import ControlPlane
from lab.world import until
from tests.gitops.fleet.parts import EXAMPLE, NAMESPACES, Engine, host_of


def test_the_api_server_accepts_the_objects_of_the_engine(engine: Engine, crd: ControlPlane) -> None:
    folder = EXAMPLE / "clusters" / engine.name
    for namespace in NAMESPACES:
        crd.kubectl("create", "namespace", namespace)  # a dry run creates none
    try:
        apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-o", "name")
        accepted = crd.kubectl(*apply, "-k", str(folder)).stdout.split()
        assert len(accepted) == len(re.findall("^kind: ", crd.kubectl("kustomize", str(folder)).stdout, re.MULTILINE))
        for file in folder.glob("applicationset.yaml"):
            crd.kubectl(*apply, "-n", engine.namespace, "-f", str(file))
    finally:
        crd.kubectl("delete", "namespace", *NAMESPACES)


@pytest.mark.timeout(600)
def test_the_example_is_applied_as_it_is_and_its_night_switches_the_test_vms(
    engine: Engine, crd: ControlPlane, git_server: tuple[GitServer, Path], tmp_path: Path
) -> None:
    server, folder = git_server
    repository = Repository(folder / f"example-{engine.name}")
    url = server.url_of(repository)
    files = {file.relative_to(EXAMPLE).as_posix(): file.read_text() for file in EXAMPLE.rglob("*.yaml")}
    vms = [yaml.safe_load(text) for text in files.values() if "\nkind: VirtualMachine\n" in text]
    on_by_day = {it["metadata"]["name"]: it["spec"].get("powerState") != "Stopped" for it in vms}
    tests = {it["metadata"]["name"] for it in vms if "labels" in it["metadata"]}
    by_node: dict[str, list[str]] = {}
    for it in vms:
        by_node.setdefault(it["spec"]["nodeName"], []).append(it["metadata"]["name"])
    repository.commit({name: text.replace("https://git.example.com/fleet.git", url) for name, text in files.items()})
    with ExitStack() as ends:
        for node, names in by_node.items():
            ends.enter_context(host_of(crd, node, names, tmp_path / f"{node}.log"))
        crd.kubectl("apply", "-k", str(repository.folder / "clusters" / engine.name))
        until(lambda: _on(crd) == on_by_day, "The VMs are not as by day.")
        at_night = {
            name: clusters.replace("overlays/day", "overlays/night") for name, clusters in _clusters(repository)
        }
        repository.commit(at_night)
        engine.refresh(crd)
        until(lambda: _on(crd) == on_by_day | dict.fromkeys(tests, False), "The VMs are not as by night.", limit_s=120)
        repository.revert()
        engine.refresh(crd)
        until(lambda: _on(crd) == on_by_day, "The VMs are not as by day again.")
        crd.kubectl("-n", engine.namespace, "delete", engine.kinds, *engine.roots, "--timeout=60s")
        until(lambda: not engine.has_objects(crd), f"{engine.name} still has some of the fleet.")
        assert _on(crd) == on_by_day
        crd.kubectl("delete", "namespace", *NAMESPACES)


def _on(controlplane: ControlPlane) -> dict[str, bool]:
    """Which VMs of the example are on, of those that are as their specs say."""
    items = [
        it
        for namespace in NAMESPACES
        for it in json.loads(controlplane.kubectl("get", "kvm", "-n", namespace, "-o", "json").stdout)["items"]
    ]
    return {
        it["metadata"]["name"]: it["status"]["powerState"] == "Running"
        for it in items
        if it["status"]["observedGeneration"] == it["metadata"]["generation"]
        and any((one["type"], one["status"]) == ("Ready", "True") for one in it["status"]["conditions"])
    }


def _clusters(repository: Repository) -> Iterator[tuple[str, str]]:
    for file in (repository.folder / "clusters").rglob("*.yaml"):
        yield file.relative_to(repository.folder).as_posix(), file.read_text()

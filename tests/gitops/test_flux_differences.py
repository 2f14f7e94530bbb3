"""That Flux changes nothing where nothing differs, and what it does with mistakes in a file."""

from typing import Any

import pytest

from gitops.kustomization import Kustomization
from lab.world import World
from tests.gitops.conftest import Git
from tests.gitops.test_argocd_differences import NULL, SPECS, TIME, manifest

Json = dict[str, Any]
UNWATCHED: Json = {"wait": False}
"""Nobody is responsible for these objects, so nobody waits for their health."""


def versions(world: World) -> dict[str, str]:
    """The resource version of each object: it changes with every write, also with one that changes no field."""
    return {vm["metadata"]["name"]: vm["metadata"]["resourceVersion"] for vm in world.objects()}


def test_an_object_that_was_applied_is_not_written_again(world: World, git: Git, ks: Kustomization) -> None:
    objects = {name: manifest(name, spec) for name, spec in SPECS.items()}
    objects |= {"no-spec": manifest("no-spec", None), "with-metadata": manifest("with-metadata", {})}
    objects["with-metadata"]["metadata"] |= {"labels": {"team": "a"}, "annotations": {"note": "Only for a day."}}
    applied = git.commit({f"{name}.yaml": one for name, one in objects.items()})
    ks.create(spec=UNWATCHED)
    ks.until_healthy(applied)
    first = versions(world)
    assert first.keys() == objects.keys()
    for request in ("first", "second"):
        ks.reconcile(request)
        assert versions(world) == first


def test_a_status_in_git_is_ignored(world: World, git: Git, ks: Kustomization) -> None:
    applied = git.commit({"vm.yaml": manifest("web", {}) | {"status": {"powerState": "Running"}}})
    ks.create(spec=UNWATCHED)
    ks.until_healthy(applied)
    (vm,) = world.objects()
    assert vm["status"]["powerState"] == "Unknown"
    first = versions(world)
    ks.reconcile("again")
    assert versions(world) == first


def test_a_time_in_git_needs_no_quotes(git: Git, ks: Kustomization) -> None:
    applied = git.commit({"vm.yaml": TIME})
    ks.create(spec=UNWATCHED)
    ks.until_healthy(applied)


MISTAKES = {
    "null": (NULL, "powerState"),
    "typo": (manifest("web", {"powerstate": "Running"}), "powerstate"),
    "case": (manifest("web", {"powerState": "running"}), "Unsupported value"),
    "time": (manifest("web", {"restartRequestTime": "tomorrow"}), "restartRequestTime"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_stops_all_files_of_the_kustomization_until_it_is_reverted(
    name: str, world: World, git: Git, ks: Kustomization
) -> None:
    wrong, word = MISTAKES[name]
    git.commit({"good.yaml": manifest("good", {})})
    git.commit({"vm.yaml": wrong})
    ks.create(spec=UNWATCHED)
    ks.until_failed("ReconciliationFailed", "web", word)
    assert not world.objects()
    ks.until_healthy(git.revert())
    assert [vm["metadata"]["name"] for vm in world.objects()] == ["good"]

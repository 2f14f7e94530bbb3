"""That Argo CD sees no difference where there is none, and what it does with mistakes in a file."""

import json
from typing import Any

import pytest

from gitops.application import Application, is_synced, sync_of
from lab.world import World
from tests.gitops.conftest import Git

Json = dict[str, Any]
SERVER_SIDE: dict[str, Json] = {
    "metadata": {"annotations": {"argocd.argoproj.io/compare-options": "ServerSideDiff=true"}},
    "spec": {"syncPolicy": {"syncOptions": ["ServerSideApply=true"]}},
}
SIDES: dict[str, dict[str, Json]] = {"client-side": {}, "server-side": SERVER_SIDE}
UUID = "4DEA22B3-1D52-48F3-8516-782E98AB3FA0"
ALL: Json = {
    "domain": {"name": "web"},
    "powerState": "Stopped",
    "restartPolicy": "OnFailure",
    "shutdown": {"mode": "Graceful", "gracePeriodSeconds": 600},
    "restartRequestTime": "2026-01-01T00:00:00+00:00",
}
SPECS: dict[str, Json] = {
    "all": ALL,
    "uuid": ALL | {"domain": {"uuid": UUID}},
    "empty": {},
    "empty-domain": {"domain": {}},
    "empty-shutdown": {"shutdown": {}},
    "empty-node": {"nodeName": ""},
    "defaults": {"restartPolicy": "Always", "shutdown": {"mode": "GracefulThenForce", "gracePeriodSeconds": 180}},
}


def manifest(name: str, spec: Json | None) -> Json:
    written: Json = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}}
    return written if spec is None else written | {"spec": spec}


@pytest.mark.parametrize("side", SIDES)
def test_an_object_that_was_applied_does_not_differ(side: str, world: World, git: Git, app: Application) -> None:
    world.start_agent()
    objects = {name: manifest(name, {"nodeName": world.node} | spec) for name, spec in SPECS.items()}
    objects |= {"no-spec": manifest("no-spec", None)}
    objects["with-status"] = manifest("with-status", {}) | {"status": {"powerState": "Running"}}
    objects["with-metadata"] = manifest("with-metadata", {})
    objects["with-metadata"]["metadata"] |= {"labels": {"team": "a"}, "annotations": {"note": "Only for a day."}}
    applied = git.commit({f"{name}.yaml": one for name, one in objects.items()})
    app.create(**SIDES[side])
    first = app.until_applied(applied)
    for _ in range(2):
        again = app.refresh()
        assert is_synced(again, applied)
        assert again["status"]["operationState"] == first["status"]["operationState"]
    generations = world.kubectl("get", "kvm", "-o", "jsonpath={.items[*].metadata.generation}").split()
    assert generations == ["1"] * len(objects)


TIME = """\
apiVersion: virtsync.dev/v1alpha1
kind: VirtualMachine
metadata:
  name: web
spec:
  restartRequestTime: 2026-01-01T00:00:00Z
"""


def test_a_time_needs_no_quotes(git: Git, app: Application) -> None:
    applied = git.commit({"vm.yaml": TIME})
    app.create()
    app.until_applied(applied)
    assert is_synced(app.refresh(), applied)


NULL = (
    "apiVersion: virtsync.dev/v1alpha1\nkind: VirtualMachine\nmetadata:\n  name: web\nspec:\n  powerState:\n  domain:\n"
)


def test_an_empty_field_is_left_out_by_a_client_side_apply(world: World, git: Git, app: Application) -> None:
    applied = git.commit({"vm.yaml": NULL})
    app.create()
    app.until_applied(applied)
    assert is_synced(app.refresh(), applied)
    assert "powerState" not in world.kubectl("get", "kvm", "web", "-o", "jsonpath={.spec}")


def test_an_empty_field_is_refused_by_a_server_side_apply(world: World, git: Git, app: Application) -> None:
    git.commit({"vm.yaml": NULL})
    app.create(**SERVER_SIDE)
    app.until_failed("powerState")
    assert not world.kubectl("get", "kvm")


def test_a_misspelled_field_is_never_in_sync(git: Git, app: Application) -> None:
    wrong = git.commit({"vm.yaml": manifest("web", {"powerstate": "Running"})})
    app.create()
    app.until(lambda one: sync_of(one) == ("OutOfSync", wrong) and "operationState" in one["status"], "out of sync")
    assert sync_of(app.refresh()) == ("OutOfSync", wrong)


def test_a_misspelled_field_is_refused_by_a_server_side_apply(git: Git, app: Application) -> None:
    git.commit({"vm.yaml": manifest("web", {"powerstate": "Running"})})
    app.create(**SERVER_SIDE)
    app.until_failed("powerstate")


@pytest.mark.parametrize("side", SIDES)
def test_an_invalid_value_fails_only_its_object(side: str, world: World, git: Git, app: Application) -> None:
    wrong = git.commit({"vm.yaml": manifest("web", {"powerState": "running"}), "good.yaml": manifest("good", {})})
    app.create(**SIDES[side])
    app.until_failed("Unsupported value")
    # Unlike Flux, Argo CD applies the others.
    assert world.kubectl("get", "kvm", "-o", "jsonpath={.items[*].metadata.name}") == "good"
    assert wrong in json.dumps(app.get()["status"])


def test_an_object_that_was_copied_from_kubectl_differs_after_the_next_change(
    world: World, git: Git, app: Application
) -> None:
    first = git.commit({"vm.yaml": manifest("web", {"restartPolicy": "Never"})})
    app.create()
    app.until_applied(first)
    shown = json.loads(world.kubectl("get", "kvm", "web", "-o", "json"))
    meta = shown["metadata"]
    for name in ("uid", "resourceVersion", "managedFields", "namespace", "annotations"):
        meta.pop(name, None)
    app.until_applied(git.commit({"vm.yaml": shown}))
    shown["spec"]["restartPolicy"] = "OnFailure"
    changed = git.commit({"vm.yaml": shown})
    world.kubectl("wait", "kvm/web", "--for=jsonpath={.spec.restartPolicy}=OnFailure", "--timeout=60s")
    # The generation in Git is that of the former spec.
    app.until(lambda one: sync_of(one) == ("OutOfSync", changed), "out of sync")
    assert sync_of(app.refresh()) == ("OutOfSync", changed)
    del meta["creationTimestamp"], meta["generation"]
    cleaned = git.commit({"vm.yaml": shown})
    app.until_applied(cleaned)
    assert is_synced(app.refresh(), cleaned)


def test_an_object_with_the_uid_of_another_one_fails_the_sync(git: Git, app: Application) -> None:
    wrong = manifest("web", {})
    wrong["metadata"]["uid"] = "4dea22b3-1d52-48f3-8516-782e98ab3fa0"
    first = git.commit({"vm.yaml": manifest("web", {})})
    app.create()
    app.until_applied(first)
    git.commit({"vm.yaml": wrong})
    app.until_failed("uid")

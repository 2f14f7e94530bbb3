"""A Kustomization of Flux with its source and its rights, as deploy/flux has them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from gitops.flux import KUSTOMIZATIONS, KUSTOMIZE, NAMESPACE, Flux
from gitops.merge import merged
from gitops.watched import WatchedObject

Json = dict[str, Any]

EXAMPLE = Path(__file__).parents[2] / "deploy" / "flux" / "virtual-machines.yaml"
"""The file that users copy."""
REQUESTED = "reconcile.fluxcd.io/requestedAt"
# As short as Flux allows without a load of its own. Flux waits for health for 30 s also if `timeout` is shorter.
SOURCE_INTERVAL = "2s"
INTERVALS = {"interval": "4s", "retryInterval": "2s", "timeout": "30s"}


class Kustomization(WatchedObject):
    """One Kustomization, which applies a folder of a Git repository to a namespace; use it as a context manager.

    Its GitRepository, its ServiceAccount and the rights of that are made with it. At the end it is removed without the
    objects that it has applied.
    """

    def __init__(self, flux: Flux, name: str, *, url: str, folder: str, namespace: str) -> None:
        super().__init__(flux.controlplane, KUSTOMIZATIONS, NAMESPACE, name, log=flux.log(KUSTOMIZE))
        self._objects = _adapted(name, url, folder, namespace)

    def create(self, **changes: Json) -> None:
        """Create it, with changes to its `metadata` and `spec`; Flux begins at once."""
        items = [merged(one, changes) if one["kind"] == "Kustomization" else one for one in self._objects]
        # The objects are in two namespaces.
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.controlplane.kubectl("apply", "-f", "-", input=body)

    def suspend(self) -> None:
        """Have Flux apply nothing."""
        self.patch({"spec": {"suspend": True}})

    def resume(self) -> None:
        """Have Flux apply commits again."""
        self.patch({"spec": {"suspend": False}})

    def reconcile(self, request: str) -> Json:
        """Have everything applied again, as `flux reconcile` does, and wait for the end; each request needs a new word.

        The result is the object afterwards.
        """
        self.patch({"metadata": {"annotations": {REQUESTED: request}}})
        return self.until(lambda ks: ks.get("status", {}).get("lastHandledReconcileAt") == request, "reconciled")

    def until_applied(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them, whatever their health."""
        return self.until(lambda ks: is_applied(ks, revision), f"applied at {revision}")

    def until_healthy(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them, and healthy."""
        return self.until(lambda ks: is_healthy(ks, revision), f"healthy at {revision}")

    def until_ready(self) -> None:
        """Wait until Ready is True for any commit."""
        self.until(lambda ks: condition(ks, "Ready").get("status") == "True", "Ready")

    def until_failed(self, reason: str, *words: str) -> str:
        """Wait until Ready is False with this reason and with these words in its message; the message."""

        def failed(ks: Json) -> bool:
            ready = condition(ks, "Ready")
            told = (ready.get("status"), ready.get("reason")) == ("False", reason)
            return told and all(word in ready["message"] for word in words)

        return str(condition(self.until(failed, f"{reason} {words}"), "Ready")["message"])

    def remove(self) -> None:
        """Remove it, its source, its account and the rights of that, without the objects that it has applied."""
        super().remove()
        for one in _of_kinds(self._objects, "RoleBinding", "Role", "ServiceAccount", "GitRepository"):
            meta = one["metadata"]
            words = ("delete", one["kind"].lower(), meta["name"], "--ignore-not-found")
            self.controlplane.kubectl("-n", meta["namespace"], *words)


def is_healthy(ks: Json, revision: str) -> bool:
    """Ready is True for this commit."""
    applied = str(ks.get("status", {}).get("lastAppliedRevision", ""))
    return applied.endswith(revision) and condition(ks, "Ready").get("status") == "True" and _is_current(ks)


def is_applied(ks: Json, revision: str) -> bool:
    """The objects are as this commit has them: it is healthy, or Flux checks its health or has found it bad."""
    if is_healthy(ks, revision):
        return True
    attempted = str(ks.get("status", {}).get("lastAttemptedRevision", ""))
    ready, reconciling = condition(ks, "Ready"), condition(ks, "Reconciling")
    told = reconciling.get("message", "")
    if told.startswith("Running health checks for revision") and revision in told:
        return True
    # While Flux works on a commit, Ready can still be about the one before it.
    found_bad = ready.get("reason") == "HealthCheckFailed" and reconciling.get("reason") != "Progressing"
    return found_bad and attempted.endswith(revision)


def condition(ks: Json, kind: str) -> Json:
    """A condition of the object, or an empty one."""
    found = ks.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})


def _is_current(ks: Json) -> bool:
    return bool(ks.get("status", {}).get("observedGeneration") == ks["metadata"]["generation"])


def _adapted(name: str, url: str, folder: str, namespace: str) -> list[Json]:
    """The objects of the example with these names, and with short intervals."""
    (account, binding, role, source, ks) = _of_kinds(
        list(yaml.safe_load_all(EXAMPLE.read_text())),
        "ServiceAccount",
        "RoleBinding",
        "Role",
        "GitRepository",
        "Kustomization",
    )
    for one in (account, source, ks):
        one["metadata"] = {"name": name, "namespace": NAMESPACE}
    for one in (role, binding):
        one["metadata"] = {"name": f"flux-{name}", "namespace": namespace}
    binding["roleRef"]["name"] = role["metadata"]["name"]
    binding["subjects"] = [{"kind": "ServiceAccount"} | account["metadata"]]
    source["spec"] |= {"url": url, "interval": SOURCE_INTERVAL}
    ks["spec"] |= INTERVALS | {
        "sourceRef": {"kind": "GitRepository", "name": name},
        "path": f"./{folder}",
        "targetNamespace": namespace,
        "serviceAccountName": name,
    }
    return [account, role, binding, source, ks]


def _of_kinds(objects: Iterable[Json], *kinds: str) -> list[Json]:
    by_kind = {one["kind"]: one for one in objects}
    return [by_kind[kind] for kind in kinds]

"""An Application of Argo CD: create it, change it, watch what Argo CD says about it."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from gitops.argocd import API, NAMESPACE, ArgoCD
from gitops.merge import merged
from gitops.watched import HANG_LIMIT_S, WatchedObject
from lab import LabError

Json = dict[str, Any]

AUTOMATED = {"prune": True, "selfHeal": True}
FINALIZER = "resources-finalizer.argocd.argoproj.io"
REFRESH = "argocd.argoproj.io/refresh"


class Application(WatchedObject):
    """One Application, which applies a folder of a Git repository to a namespace; use it as a context manager.

    `options` are sync options of the Application. It has the finalizer with which its deletion deletes its objects; at
    the end it is removed without them.
    """

    def __init__(
        self, argocd: ArgoCD, name: str, *, url: str, folder: str, namespace: str, options: Sequence[str] = ()
    ) -> None:
        log = argocd.log("argocd-application-controller")
        super().__init__(argocd.controlplane, f"{API}/applications", NAMESPACE, name, log=log)
        self.argocd = argocd
        self._manifest: Json = {
            "apiVersion": API,
            "kind": "Application",
            "metadata": {"name": name, "namespace": NAMESPACE, "finalizers": [FINALIZER]},
            "spec": {
                "project": "default",
                "source": {"repoURL": url, "path": folder, "targetRevision": "main"},
                "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
                "syncPolicy": {"automated": AUTOMATED, "syncOptions": list(options)},
            },
        }

    def create(self, **changes: Json) -> None:
        """Create it, with changes to its `metadata` and `spec`; Argo CD begins at once."""
        self.kubectl("create", "-f", "-", input=json.dumps(merged(self._manifest, changes)))

    def suspend(self) -> None:
        """Turn the automated sync off."""
        self.patch({"spec": {"syncPolicy": {"automated": None}}})

    def resume(self) -> None:
        """Turn the automated sync on."""
        self.patch({"spec": {"syncPolicy": {"automated": AUTOMATED}}})

    def refresh(self) -> Json:
        """Have the whole state compared again, without caches, and return the result."""
        self.patch({"metadata": {"annotations": {REFRESH: "hard"}}})
        version = self.get()["metadata"]["resourceVersion"]
        self.until(lambda app: int(app["metadata"]["resourceVersion"]) >= int(version), "changed")
        return self.until(lambda app: REFRESH not in app["metadata"].get("annotations", {}), "refreshed")

    def until_applied(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them."""
        return self.until(lambda app: is_synced(app, revision), f"synced to {revision}")

    def until_healthy(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them, and healthy."""
        return self.until(
            lambda app: is_synced(app, revision) and health_of(app) == "Healthy", f"healthy at {revision}"
        )

    def until_failed(self, words: str) -> Json:
        """Wait until a sync has failed with these words in its results, also if Argo CD is going to retry it."""

        def failed(app: Json) -> bool:
            operation = app.get("status", {}).get("operationState", {})
            ended = operation.get("phase") in {"Failed", "Error"} or "Retrying attempt" in operation.get("message", "")
            return ended and words in json.dumps(operation)

        return self.until(failed, f"failed by {words}")

    def until_health(self, health: str) -> Json:
        """Wait until its health is this one."""
        return self.until(lambda app: health_of(app) == health, health)

    def until_health_of(self, name: str, health: str, *, kind: str = "VirtualMachine") -> str:
        """Wait until the object of this name has this health; the message beside it."""
        app = self.until(lambda app: resource(app, name, kind).get("health", {}).get("status") == health, health)
        return str(resource(app, name, kind)["health"].get("message", ""))

    # --- what its API server does

    def actions(self, vm: str) -> dict[str, bool]:
        """The actions that Argo CD offers for a VirtualMachine, and whether each is enabled."""
        answer = self._ask("GET", f"resource/actions?{self._words(vm)}")
        return {action["name"]: not action.get("disabled", False) for action in answer["actions"]}

    def run_action(self, vm: str, action: str) -> None:
        """Run an action on a VirtualMachine, as the button of its page does."""
        self._ask("POST", "resource/actions/v2", self._resource(vm) | {"action": action})

    def _resource(self, vm: str) -> dict[str, str]:
        namespace = self._manifest["spec"]["destination"]["namespace"]
        kind = {"group": "virtsync.dev", "version": "v1alpha1", "kind": "VirtualMachine"}
        return {"resourceName": vm, "namespace": namespace} | kind

    def _words(self, vm: str) -> str:
        return "&".join(f"{key}={value}" for key, value in self._resource(vm).items())

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        request = urllib.request.Request(  # noqa: S310 - the URL is ours
            f"{self.argocd.url}/api/v1/applications/{self.name}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=HANG_LIMIT_S) as response:  # noqa: S310
                answer: Json = json.load(response)
        except urllib.error.HTTPError as error:
            raise LabError(f"Argo CD answers {error.code}: {error.read().decode()}") from None
        return answer


def is_synced(app: Json, revision: str) -> bool:
    """The objects are as this commit has them, and the sync of it has ended well."""
    status = app.get("status", {})
    sync, operation = status.get("sync", {}), status.get("operationState", {})
    return (sync.get("status"), sync.get("revision"), operation.get("phase")) == ("Synced", revision, "Succeeded")


def sync_of(app: Json) -> tuple[str, str]:
    """Whether the objects are as Git says (`Synced`, `OutOfSync`), and the commit that was compared."""
    sync = app.get("status", {}).get("sync", {})
    return str(sync.get("status", "")), str(sync.get("revision", ""))


def health_of(app: Json) -> str:
    """The health of an Application: the worst of its objects."""
    return str(app.get("status", {}).get("health", {}).get("status", ""))


def resource(app: Json, name: str, kind: str = "VirtualMachine") -> Json:
    """What the Application's status says about one of its objects; empty if it has none of this name."""
    found = app.get("status", {}).get("resources", [])
    return next((item for item in found if (item["kind"], item["name"]) == (kind, name)), {})

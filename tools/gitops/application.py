"""An Application of Argo CD: create it, change it, watch what Argo CD says about it."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

from gitops.argocd import NAMESPACE, ArgoCD
from lab import LabError
from lab.processes import last_lines
from lab.world import Watch

Json = dict[str, Any]

AUTOMATED = {"prune": True, "selfHeal": True}
FINALIZER = "resources-finalizer.argocd.argoproj.io"
REFRESH = "argocd.argoproj.io/refresh"
HANG_LIMIT_S = 120


class Application:
    """One Application, which applies a folder of a Git repository to a namespace; use it as a context manager.

    `options` are sync options of the Application. It has the finalizer with which its deletion deletes its objects; at
    the end it is removed without them. The waits check every version of the Application in order, beginning with the
    one at which the last wait ended, so that they also find a state that lasted briefly.
    """

    def __init__(
        self, argocd: ArgoCD, name: str, *, url: str, folder: str, namespace: str, options: Sequence[str] = ()
    ) -> None:
        self.argocd = argocd
        self.name = name
        self._ends = ExitStack()
        self._seen_until = 0
        self._manifest: Json = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {"name": name, "namespace": NAMESPACE, "finalizers": [FINALIZER]},
            "spec": {
                "project": "default",
                "source": {"repoURL": url, "path": folder, "targetRevision": "main"},
                "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
                "syncPolicy": {"automated": AUTOMATED, "syncOptions": list(options)},
            },
        }

    def __enter__(self) -> Self:
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/applications"
        self._versions = self._ends.enter_context(Watch(self.argocd.controlplane, path))
        self._ends.callback(self._remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def create(self, **changes: Json) -> None:
        """Create it, with changes to its `metadata` and `spec`; Argo CD begins at once."""
        self._kubectl("create", "-f", "-", input=json.dumps(_merged(self._manifest, changes)))

    def get(self) -> Json:
        """The object as it is now."""
        found: Json = json.loads(self._kubectl("get", "application", self.name, "-o", "json"))
        return found

    def patch(self, body: Json) -> None:
        """Merge this into the object."""
        self._kubectl("patch", "application", self.name, "--type=merge", "-p", json.dumps(body))

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

    def delete(self) -> None:
        """Delete it, and return when it and its objects are gone."""
        self._kubectl("delete", "application", self.name, f"--timeout={HANG_LIMIT_S}s")

    def until(self, holds: Callable[[Json], bool], what: str) -> Json:
        """The first version for which this holds; LabError with the last status if there is none in time."""
        index, found = self._versions.until(self.name, holds, first=self._seen_until)
        if found is None:
            log = self.argocd.folder / "argocd-application-controller.log"
            status = json.dumps(self._versions.versions(self.name)[-1:], indent=1)
            raise LabError(f"{self.name} is not {what}:\n{status}\n{last_lines(log)}")
        self._seen_until = index
        return found

    def until_applied(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them."""
        return self.until(lambda app: is_synced(app, revision), f"synced to {revision}")

    def until_healthy(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them, and healthy."""
        return self.until(
            lambda app: is_synced(app, revision) and health_of(app) == "Healthy", f"healthy at {revision}"
        )

    def until_failed(self, words: str) -> Json:
        """Wait until a sync has failed with these words in its results."""

        def failed(app: Json) -> bool:
            operation = app.get("status", {}).get("operationState", {})
            return operation.get("phase") in {"Failed", "Error"} and words in json.dumps(operation)

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

    def _remove(self) -> None:
        if self._kubectl("get", "application", self.name, "--ignore-not-found"):
            self.patch({"metadata": {"finalizers": None}})
            self._kubectl("delete", "application", self.name, "--ignore-not-found")

    def _kubectl(self, *words: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess.run has it
        return self.argocd.controlplane.kubectl("-n", NAMESPACE, *words, input=input).stdout


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


def _merged(old: Json, changes: Json) -> Json:
    return old | {
        key: _merged(old.get(key, {}), value) if isinstance(value, dict) else value for key, value in changes.items()
    }

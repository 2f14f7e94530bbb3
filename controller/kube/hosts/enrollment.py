"""Creates and deletes the objects of an enrolled host: a ServiceAccount of its own, and the rights of an agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from controller.api.json_mapping import Json, as_map
from controller.api.names import AGENT, HOST_ACCOUNT_PREFIX
from controller.kube.client import MERGE_PATCH, Api
from controller.runtime import retry
from controller.runtime.errors import Conflicted, Rejected, Unserved, Vanished

POLICY = "virtsync-agent-token"
"""The policy that came with enrolled hosts. Where it is in force, the other policies confine these hosts too."""
RBAC = "/apis/rbac.authorization.k8s.io/v1"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
INSTALL = "kubectl apply -f deploy/install.yaml"


@dataclass(frozen=True, slots=True)
class Place:
    """An object, and where it is in the API."""

    folder: str
    """The path of the collection that it is in."""
    manifest: Json

    @property
    def path(self) -> str:
        """The path of the object."""
        return f"{self.folder}/{quote(self.manifest['metadata']['name'])}"

    def __str__(self) -> str:
        return f"{self.manifest['kind']} {self.manifest['metadata']['name']}"


def objects_of(host: str, namespace: str) -> list[Place]:
    """Return what enrolling this host creates. The agent's rights are those of the roles of deploy/base."""
    account = HOST_ACCOUNT_PREFIX + host
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    labels = {
        "app.kubernetes.io/name": "virtsync",
        "app.kubernetes.io/part-of": "virtsync",
        "app.kubernetes.io/component": "enrolled-host",
    }

    def meta(name: str, *, namespaced: bool = True) -> Json:
        return {"name": name} | ({"namespace": namespace} if namespaced else {}) | {"labels": labels}

    def rbac(kind: str, name: str, **fields: Any) -> Json:
        namespaced = kind != "ClusterRoleBinding"
        version = "rbac.authorization.k8s.io/v1"
        return {"apiVersion": version, "kind": kind, "metadata": meta(name, namespaced=namespaced), **fields}

    def to(kind: str, name: str) -> Json:
        return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}

    own = [{"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": [account]}]
    core, ours = f"/api/v1/namespaces/{quote(namespace)}", f"{RBAC}/namespaces/{quote(namespace)}"
    manifest: Json = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(account)}
    return [
        Place(f"{core}/serviceaccounts", manifest | {"automountServiceAccountToken": False}),
        Place(f"{ours}/roles", rbac("Role", account, rules=own)),
        Place(f"{ours}/rolebindings", rbac("RoleBinding", account, roleRef=to("Role", account), subjects=subjects)),
        Place(
            f"{ours}/rolebindings",
            rbac("RoleBinding", f"{account}:lease", roleRef=to("Role", AGENT), subjects=subjects),
        ),
        Place(
            f"{RBAC}/clusterrolebindings",
            rbac("ClusterRoleBinding", account, roleRef=to("ClusterRole", AGENT), subjects=subjects),
        ),
    ]


class Enrollment:
    """Enrolls and revokes hosts, with the rights of a person. Each method raises Rejected, Transient or Vanished."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    def check_installed(self) -> None:
        """Raise Rejected if virtsync is not installed, or its policies do not confine enrolled hosts."""
        role = f"{RBAC}/namespaces/{quote(self._namespace)}/roles/{AGENT}"
        for path, what in (
            (role, f"namespace {self._namespace} has no Role {AGENT}"),
            (f"{BINDINGS}/{POLICY}", f"the policy {POLICY}, which confines enrolled hosts, is not in force"),
        ):
            if self._read(path) is None:
                raise Rejected(f"virtsync is not installed there, or is too old: {what} ({INSTALL})")

    def is_node(self, host: str) -> bool:
        """Whether the cluster has a node of this name."""
        return self._read(f"/api/v1/nodes/{quote(host)}") is not None

    def elsewhere(self, host: str) -> str:
        """Return the other namespace in which this host is enrolled; empty: there is none.

        Only the ClusterRoleBinding can tell, because its name, which has no namespace, is the same in each of them.
        """
        account = HOST_ACCOUNT_PREFIX + host
        binding = as_map(self._read(f"{RBAC}/clusterrolebindings/{quote(account)}"))
        namespaces = {
            one["namespace"]
            for one in binding.get("subjects") or ()
            if one["kind"] == "ServiceAccount" and one["name"] == account
        }
        return "" if self._namespace in namespaces else min(namespaces, default="")

    def ensure(self, place: Place) -> str:
        """Create the object, or change it to what it should be. Return what was done; empty: nothing was missing."""
        found = self._read(place.path)
        if found is not None and _has(found, place.manifest):
            return ""
        if found is None:
            try:
                self._api.request("POST", place.folder, place.manifest)
            except Conflicted:  # somebody else has just created it
                pass
            else:
                return "Created"
        self._api.request("PATCH", place.path, place.manifest, content_type=MERGE_PATCH)
        return "Changed"

    def token(self, host: str, lifetime_s: float) -> str:
        """Return a new token of this host. The API server may shorten its lifetime."""
        return request_token(self._api, self._namespace, host, int(lifetime_s))

    def delete(self, place: Place) -> bool:
        """Delete the object. Return whether there was one."""
        try:
            retry.call(self._api.request, "DELETE", place.path)
        except Vanished:
            return False
        return True

    def _read(self, path: str) -> Json | None:
        try:
            return retry.call(self._api.request, "GET", path)
        except (Vanished, Unserved):
            return None


def request_token(api: Api, namespace: str, host: str, lifetime_s: int) -> str:
    """Have a token issued for the ServiceAccount of this host, valid for this many seconds, or less if the API server
    shortens it. Raises Rejected, Transient, Vanished.
    """
    account = quote(HOST_ACCOUNT_PREFIX + host)
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": lifetime_s},
    }
    path = f"/api/v1/namespaces/{quote(namespace)}/serviceaccounts/{account}/token"
    answer = api.request("POST", path, body)
    token = as_map(answer.get("status")).get("token")
    if not isinstance(token, str):
        raise Rejected("the API server returned no token")
    return token


def _has(found: Any, wanted: Any) -> bool:
    """Whether the object has each field that is wanted, with this value."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_has(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        same_length = isinstance(found, list) and len(found) == len(wanted)
        return same_length and all(map(_has, found, wanted))
    return bool(found == wanted)

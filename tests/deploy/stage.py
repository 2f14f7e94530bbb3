"""The objects that each case of the matrix of rights starts from, and the requests that the cases make."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.callers import AGENTS, Caller, Json, Request

TEAM, OTHER_TEAM = "team-a", "team-b"
VMS = "/apis/virtsync.dev/v1alpha1"
HOSTS = f"{VMS}/hypervisors"
LEASES = "/apis/coordination.k8s.io/v1"
EVENTS = "/apis/events.k8s.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NODE_LEASES = "kube-node-lease"
OF_NO_NAMESPACE = "default"
"""The namespace of the Events about objects that are in no namespace."""
STATUS = {"status": {"powerState": "Stopped"}}

NO_OWNER = {
    "apiVersion": "example.com/v1",
    "kind": "Fleet",
    "name": "gone",
    "uid": "00000000-0000-0000-0000-000000000002",
}
OWNED = {"ownerReferences": [NO_OWNER]}
"""With such an owner, the garbage collector would delete the object; it does not run here."""
KEPT = {"finalizers": ["example.com/keep"]}
"""With such a finalizer, an object stays when it is deleted."""
ADORNMENTS: Json = {"annotations": {"a": "b"}, "labels": {"a": "b"}} | KEPT | OWNED

ALLOWED = "allowed"
IGNORED = "no effect"
UNKNOWN = "unknown token"
BY_RBAC = "RBAC"


@dataclass(frozen=True)
class Stage:
    """What a case finds: VMs of its own, one bound to each node and one to none, and a Hypervisor for each node.

    There is a Lease only if the case asks for one.
    """

    number: int
    admin: Caller

    def name(self, which: str) -> str:
        return f"vm-{self.number}-{which}"

    def vm(self, which: str, *, namespace: str = TEAM, status: bool = False) -> str:
        return f"{VMS}/namespaces/{namespace}/virtualmachines/{self.name(which)}{'/status' if status else ''}"

    def host(self, which: str, *, status: bool = False) -> str:
        return f"{HOSTS}/node-{which}{'/status' if status else ''}"

    def do(self, method: str, path: str, body: Json | None = None) -> None:
        answer = self.admin.ask(Request(method, path, body))
        assert answer.granted, answer

    def set_up(self) -> None:
        # What has a finalizer stays.
        for it in self.admin.ask(Request("GET", f"{VMS}/virtualmachines")).body["items"]:
            if "finalizers" in it["metadata"]:
                path = f"{VMS}/namespaces/{it['metadata']['namespace']}/virtualmachines/{it['metadata']['name']}"
                self.do("PATCH", path, {"metadata": {"finalizers": None}})
        for namespace in (TEAM, OTHER_TEAM):
            self.do("DELETE", f"{VMS}/namespaces/{namespace}/virtualmachines")
        for which, spec in {"a": {"nodeName": "node-a"}, "b": {"nodeName": "node-b"}, "free": {}}.items():
            self.do("POST", f"{VMS}/namespaces/{TEAM}/virtualmachines", vm(self.name(which), spec))
        self.do("POST", f"{VMS}/namespaces/{OTHER_TEAM}/virtualmachines", vm(self.name("a"), {"nodeName": "node-a"}))
        # A policy refuses to delete a Hypervisor that is in maintenance.
        for it in self.admin.ask(Request("GET", HOSTS)).body["items"]:
            freed = {"metadata": {"finalizers": None}, "spec": {"maintenance": None}}
            self.do("PATCH", f"{HOSTS}/{it['metadata']['name']}", freed)
        self.do("DELETE", HOSTS)
        for which in ("a", "b"):
            self.do("POST", HOSTS, host(f"node-{which}"))
        for namespace in (AGENTS, NODE_LEASES, "zealous"):
            self._delete_all(f"{LEASES}/namespaces/{namespace}/leases")
        for namespace in (TEAM, AGENTS, OF_NO_NAMESPACE):
            self._delete_all(f"{EVENTS}/namespaces/{namespace}/events")

    def _delete_all(self, path: str) -> None:
        self.do("DELETE", path)
        for it in self.admin.ask(Request("GET", path)).body["items"]:  # those with a finalizer
            self.do("PATCH", f"{path}/{it['metadata']['name']}", {"metadata": {"finalizers": None}})

    def snapshot(self) -> dict[tuple[str, str, str], Json]:
        """Everything that a case could change, without what the API server itself notes on each write."""
        paths = (f"{VMS}/virtualmachines", HOSTS, f"{LEASES}/leases", f"{EVENTS}/events", f"{RBAC}/rolebindings")
        objects = {}
        for path in paths:
            for item in self.admin.ask(Request("GET", path)).body["items"]:
                meta = item["metadata"]
                meta.pop("resourceVersion")
                meta.pop("managedFields", None)
                namespace = meta.get("namespace", "")
                # There the API server renews a Lease of its own.
                if namespace != "kube-system":
                    objects[path, namespace, meta["name"]] = item
        return objects


@dataclass(frozen=True)
class Case:
    """`who` tries `what`; `words` are in the refusal, and `first` is done by an administrator before."""

    who: str
    what: str
    outcome: str
    request: Callable[[Stage], Request]
    words: tuple[str, ...] = ()
    first: Callable[[Stage], None] = lambda _stage: None
    reads: bool = field(default=False)

    def __str__(self) -> str:
        return f"{self.who}: {self.what}".replace(" ", "-")


def vm(name: str, spec: Json) -> Json:
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": spec}


def host(name: str, spec: Json | None = None) -> Json:
    return {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "Hypervisor",
        "metadata": {"name": name},
        "spec": spec or {},
    }


def get(path: Callable[[Stage], str] | str) -> Callable[[Stage], Request]:
    return lambda s: Request("GET", path if isinstance(path, str) else path(s))


def patch(which: str, body: Json, *, status: bool = False, namespace: str = TEAM) -> Callable[[Stage], Request]:
    return lambda s: Request("PATCH", s.vm(which, status=status, namespace=namespace), body)


def report(which: str, body: Json | None = None) -> Callable[[Stage], Request]:
    return patch(which, body or STATUS, status=True)


def observed_by(node: str, **changes: Any) -> Json:
    """A status with what this node has observed of a VM, and begun."""
    return {
        "status": {
            "nodeName": node,
            "nodeBootID": "its-boot",
            "hostUUID": "00000000-0000-0000-0000-00000000000b",
            "powerState": "Stopped",
            "runTransitionTime": "2026-01-01T00:00:00Z",
            "domain": {"name": "web", "uuid": "00000000-0000-0000-0000-000000000001", "boundBy": "web"},
            "libvirt": {"state": "SHUTOFF", "reason": "SHUTDOWN"},
            "lastRestartTime": "2026-01-01T00:00:00Z",
            "operation": OPERATION,
            "conditions": [condition("Ready", "True", "InSync")],
            **changes,
        }
    }


OPERATION = {
    "type": "Stop",
    "startTime": "2026-01-01T00:00:00Z",
    "deadline": "2026-01-01T00:03:00Z",
    "domainID": 7,
}
FORGERIES: dict[str, Any] = {
    "domain": {"name": "payroll"},
    "hostUUID": "00000000-0000-0000-0000-00000000000c",
    "lastRestartTime": "2025-01-01T00:00:00Z",
    "libvirt": {"reason": "DESTROYED"},
    "nodeBootID": "another-boot",
    "operation": {"type": "Restart"},
    "powerState": "Running",
    "runTransitionTime": "2026-01-02T00:00:00Z",
}
"""Another value for each field of `observed_by` that belongs to the node in it."""


def spec(which: str, **spec: Any) -> Callable[[Stage], Request]:
    return patch(which, {"spec": spec})


def create(name: str, *, namespace: str = TEAM, **spec: Any) -> Callable[[Stage], Request]:
    return lambda s: Request("POST", f"{VMS}/namespaces/{namespace}/virtualmachines", vm(s.name(name), spec))


def delete(which: str) -> Callable[[Stage], Request]:
    return lambda s: Request("DELETE", s.vm(which))


def create_host(name: str, spec: Json | None = None, **metadata: Any) -> Callable[[Stage], Request]:
    body = host(name, spec)
    body["metadata"] |= metadata
    return lambda _s: Request("POST", HOSTS, body)


def patch_host(which: str, body: Json) -> Callable[[Stage], Request]:
    return lambda s: Request("PATCH", s.host(which), body)


def report_host(which: str, **status: Any) -> Callable[[Stage], Request]:
    return lambda s: Request("PATCH", s.host(which, status=True), {"status": status})


def delete_host(which: str) -> Callable[[Stage], Request]:
    return lambda s: Request("DELETE", s.host(which))


def by_admin(*requests: Callable[[Stage], Request]) -> Callable[[Stage], None]:
    """Requests that an administrator makes before the case."""

    def made(stage: Stage) -> None:
        for it in requests:
            request = it(stage)
            stage.do(request.method, request.path, request.body)

    return made


def condition(kind: str, status: str, reason: str) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def lease(name: str, namespace: str = AGENTS, holder: str = "somebody", *, tied: Json | None = None) -> Json:
    """A Lease; `tied`: its finalizers and owners."""
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 40}
    meta = {"name": name, "namespace": namespace} | (tied or {})
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def take_lease(name: str, namespace: str = AGENTS, *, tied: Json | None = None) -> Callable[[Stage], Request]:
    return lambda _s: Request("POST", f"{LEASES}/namespaces/{namespace}/leases", lease(name, namespace, tied=tied))


def renew_lease(name: str, namespace: str = AGENTS, *, tied: Json | None = None) -> Callable[[Stage], Request]:
    def renewed(stage: Stage) -> Request:
        lease = stage.admin.ask(Request("GET", lease_path(name, namespace))).body
        lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
        lease["metadata"] |= tied or {}
        return Request("PUT", lease_path(name, namespace), lease)

    return renewed


def lease_path(name: str, namespace: str = AGENTS) -> str:
    return f"{LEASES}/namespaces/{namespace}/leases/{name}"


def with_lease(name: str, namespace: str = AGENTS, *, tied: Json | None = None) -> Callable[[Stage], None]:
    return lambda s: s.do("POST", f"{LEASES}/namespaces/{namespace}/leases", lease(name, namespace, tied=tied))


def event(which: str, node: str, namespace: str = TEAM, **changes: Any) -> Callable[[Stage], Json]:
    return lambda s: {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{s.name(which)}.1", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "Started",
        "action": "Start",
        "note": "It was started.",
        "reportingController": "virtsync.dev/agent",
        "reportingInstance": node,
        "regarding": {
            "apiVersion": "virtsync.dev/v1alpha1",
            "kind": "VirtualMachine",
            "namespace": namespace,
            "name": s.name(which),
        },
        **changes,
    }


def tell(which: str, node: str, namespace: str = TEAM, **changes: Any) -> Callable[[Stage], Request]:
    written = event(which, node, namespace, **changes)
    return lambda s: Request("POST", f"{EVENTS}/namespaces/{namespace}/events", written(s))


def tell_about(api_version: str, kind: str) -> Callable[[Stage], Request]:
    about = {"apiVersion": api_version, "kind": kind, "namespace": TEAM, "name": "web"}
    return tell("a", "node-a", regarding=about)


def tell_of_host(name: str, **signed: str) -> Callable[[Stage], Request]:
    about = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "name": name}
    return tell("a", "node-a", OF_NO_NAMESPACE, regarding=about, **signed)


def tell_tied(node: str, tied: Json, **signed: str) -> Callable[[Stage], Request]:
    """An Event about the VM `a` with these finalizers or owners."""
    return tell("a", node, metadata={"name": "web.1", "namespace": TEAM} | tied, **signed)


def told(which: str, node: str) -> Callable[[Stage], None]:
    return lambda s: s.do("POST", f"{EVENTS}/namespaces/{TEAM}/events", event(which, node)(s))


def tell_again(which: str, **changes: Any) -> Callable[[Stage], Request]:
    series = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}} | changes
    return lambda s: Request("PATCH", f"{EVENTS}/namespaces/{TEAM}/events/{s.name(which)}.1", series)


def hand_over(which: str, node: str) -> Callable[[Stage], None]:
    return lambda s: s.do("PATCH", s.vm(which), {"spec": {"nodeName": node}})


def bind_role(role: str) -> Callable[[Stage], Request]:
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"to-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "everybody"}],
    }
    return lambda _s: Request("POST", f"{RBAC}/namespaces/{TEAM}/rolebindings", body)

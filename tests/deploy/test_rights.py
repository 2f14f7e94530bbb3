"""Who may do what: real tokens, bound to Pods on two nodes or held by users, and everything they could try.

For each case the world is compared before and after. What a policy refuses is asked again with the policies gone, and
must then pass: so it is the policy that refuses, and the case could fail.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World, until
from tests.deploy.callers import AGENTS, REPOSITORY, Answer, Caller, Json, Request, pod_token, token

TEAM, OTHER_TEAM = "team-a", "team-b"
VMS = "/apis/virtsync.dev/v1alpha1"
LEASES = "/apis/coordination.k8s.io/v1"
EVENTS = "/apis/events.k8s.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NODE_LEASES = "kube-node-lease"
POLICIES = ("virtsync-status", "virtsync-agent-spec", "virtsync-agent-lease", "virtsync-agent-events", "virtsync-bind")
STATUS = {"status": {"powerState": "Stopped"}}

ALLOWED = "allowed"
IGNORED = "no effect"
UNKNOWN = "unknown token"
BY_RBAC = "RBAC"


@dataclass(frozen=True)
class Stage:
    """What a case finds: VMs of its own, one bound to each node and one to none. Leases are there if it asks."""

    number: int
    admin: Caller

    def name(self, which: str) -> str:
        return f"vm-{self.number}-{which}"

    def vm(self, which: str, *, namespace: str = TEAM, status: bool = False) -> str:
        return f"{VMS}/namespaces/{namespace}/virtualmachines/{self.name(which)}{'/status' if status else ''}"

    def do(self, method: str, path: str, body: Json | None = None) -> None:
        answer = self.admin.ask(Request(method, path, body))
        assert answer.granted, answer

    def set_up(self) -> None:
        for which, spec in {"a": {"nodeName": "node-a"}, "b": {"nodeName": "node-b"}, "free": {}}.items():
            self.do("POST", f"{VMS}/namespaces/{TEAM}/virtualmachines", _vm(self.name(which), spec))
        self.do("POST", f"{VMS}/namespaces/{OTHER_TEAM}/virtualmachines", _vm(self.name("a"), {"nodeName": "node-a"}))
        for namespace in (AGENTS, NODE_LEASES, "zealous"):
            self.do("DELETE", f"{LEASES}/namespaces/{namespace}/leases")
        for namespace in (TEAM, AGENTS):
            self.do("DELETE", f"{EVENTS}/namespaces/{namespace}/events")

    def snapshot(self) -> dict[tuple[str, str, str], Json]:
        """Everything that a case could change, without what the API server itself notes on each write."""
        paths = (f"{VMS}/virtualmachines", f"{LEASES}/leases", f"{EVENTS}/events", f"{RBAC}/rolebindings")
        objects = {}
        for path in paths:
            for item in self.admin.ask(Request("GET", path)).body["items"]:
                meta = item["metadata"]
                meta.pop("resourceVersion")
                meta.pop("managedFields", None)
                # There the API server renews a Lease of its own.
                if meta["namespace"] != "kube-system":
                    objects[path, meta["namespace"], meta["name"]] = item
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


def _vm(name: str, spec: Json) -> Json:
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": spec}


def _get(path: Callable[[Stage], str] | str) -> Callable[[Stage], Request]:
    return lambda s: Request("GET", path if isinstance(path, str) else path(s))


def _patch(which: str, body: Json, *, status: bool = False, namespace: str = TEAM) -> Callable[[Stage], Request]:
    return lambda s: Request("PATCH", s.vm(which, status=status, namespace=namespace), body)


def _report(which: str, body: Json | None = None) -> Callable[[Stage], Request]:
    return _patch(which, body or STATUS, status=True)


def _spec(which: str, **spec: Any) -> Callable[[Stage], Request]:
    return _patch(which, {"spec": spec})


def _create(name: str, *, namespace: str = TEAM, **spec: Any) -> Callable[[Stage], Request]:
    return lambda s: Request("POST", f"{VMS}/namespaces/{namespace}/virtualmachines", _vm(s.name(name), spec))


def _delete(which: str) -> Callable[[Stage], Request]:
    return lambda s: Request("DELETE", s.vm(which))


def _lease(name: str, namespace: str = AGENTS, holder: str = "somebody") -> Json:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 40}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def _take_lease(name: str, namespace: str = AGENTS) -> Callable[[Stage], Request]:
    return lambda _s: Request("POST", f"{LEASES}/namespaces/{namespace}/leases", _lease(name, namespace))


def _renew_lease(name: str, namespace: str = AGENTS) -> Callable[[Stage], Request]:
    def renewed(stage: Stage) -> Request:
        lease = stage.admin.ask(Request("GET", _lease_path(name, namespace))).body
        lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
        return Request("PUT", _lease_path(name, namespace), lease)

    return renewed


def _lease_path(name: str, namespace: str = AGENTS) -> str:
    return f"{LEASES}/namespaces/{namespace}/leases/{name}"


def _with_lease(name: str, namespace: str = AGENTS) -> Callable[[Stage], None]:
    return lambda s: s.do("POST", f"{LEASES}/namespaces/{namespace}/leases", _lease(name, namespace))


def _event(which: str, node: str, namespace: str = TEAM, **changes: Any) -> Callable[[Stage], Json]:
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


def _tell(which: str, node: str, namespace: str = TEAM, **changes: Any) -> Callable[[Stage], Request]:
    event = _event(which, node, namespace, **changes)
    return lambda s: Request("POST", f"{EVENTS}/namespaces/{namespace}/events", event(s))


def _tell_about(api_version: str, kind: str) -> Callable[[Stage], Request]:
    about = {"apiVersion": api_version, "kind": kind, "namespace": TEAM, "name": "web"}
    return _tell("a", "node-a", regarding=about)


def _told(which: str, node: str) -> Callable[[Stage], None]:
    return lambda s: s.do("POST", f"{EVENTS}/namespaces/{TEAM}/events", _event(which, node)(s))


def _tell_again(which: str, **changes: Any) -> Callable[[Stage], Request]:
    series = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}} | changes
    return lambda s: Request("PATCH", f"{EVENTS}/namespaces/{TEAM}/events/{s.name(which)}.1", series)


def _hand_over(which: str, node: str) -> Callable[[Stage], None]:
    return lambda s: s.do("PATCH", s.vm(which), {"spec": {"nodeName": node}})


def _bind_role(role: str) -> Callable[[Stage], Request]:
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"to-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "everybody"}],
    }
    return lambda _s: Request("POST", f"{RBAC}/namespaces/{TEAM}/rolebindings", body)


A, B = "agent of node-a", "agent of node-b"
ZEALOUS = "agent of node-a, made cluster-admin"
COPY = "copy of virtsync on node-a, other names"
UNBOUND, GONE = "agent, token bound to no Pod", "agent, token of a Pod that is gone"
IMPERSONATOR = "somebody who impersonates the agent"
NEIGHBOUR = "another Pod on node-a"
ROOT = "cluster administrator"
VM_VIEWER, OPERATOR, VM_ADMIN = "virtsync-vm-viewer", "virtsync-vm-operator", "virtsync-vm-admin"
VIEWER, EDITOR, OWNER, NOBODY = "view", "edit", "admin", "no role"
AUTHOR, STATUS_WRITER = "create and update, no bind", "patch of status, no report"

OWN = f"{VMS}/virtualmachines?fieldSelector=spec.nodeName%3Dnode-a"
# `kubectl describe` asks for the former, `kubectl events` too; Events are one thing under two names.
TOLD = {"": f"/api/v1/namespaces/{TEAM}/events", "events.k8s.io": f"{EVENTS}/namespaces/{TEAM}/events"}
SPEC, LEASE, EVENT = ("virtsync-agent-spec", "virtsync-agent-lease", "virtsync-agent-events")
BIND = "virtsync-bind"

CASES = (
    # What an agent does all day.
    Case(A, "lists the VMs of its node", ALLOWED, _get(OWN), reads=True),
    Case(A, "watches them", ALLOWED, _get(f"{OWN}&watch=1&timeoutSeconds=1"), reads=True),
    Case(A, "reads its VM", ALLOWED, _get(lambda s: s.vm("a")), reads=True),
    Case(A, "writes the status of its VM", ALLOWED, _report("a")),
    Case(B, "writes the status of its VM", ALLOWED, _report("b")),
    Case(A, "takes the Lease of its node", ALLOWED, _take_lease("node-a")),
    Case(A, "renews the Lease of its node", ALLOWED, _renew_lease("node-a"), first=_with_lease("node-a")),
    Case(A, "tells an Event about its VM", ALLOWED, _tell("a", "node-a")),
    Case(A, "tells that it repeats", ALLOWED, _tell_again("a"), first=_told("a", "node-a")),
    Case(B, "writes the status of a VM handed over to it", ALLOWED, _report("a"), first=_hand_over("a", "node-b")),
    # What cannot be refused: see docs/security.md.
    Case(A, "reads a VM of node-b", ALLOWED, _get(lambda s: s.vm("b")), reads=True),
    Case(A, "tells an Event about a VM of node-b, as itself", ALLOWED, _tell("b", "node-a")),
    # Other nodes.
    Case(A, "writes the status of a VM of node-b", "virtsync-status", _report("b"), ("node node-a", "node node-b")),
    Case(A, "writes the status of a VM of no node", "virtsync-status", _report("free"), ("node node-a", "of no node")),
    Case(
        A,
        "writes the status of a VM that it has handed over",
        "virtsync-status",
        _report("a"),
        ("node node-a", "node node-b"),
        first=_hand_over("a", "node-b"),
    ),
    Case(A, "takes the Lease of node-b", LEASE, _take_lease("node-b"), ("of node node-a", "virtsync-system/node-b")),
    Case(
        A,
        "renews the Lease of node-b",
        LEASE,
        _renew_lease("node-b"),
        ("of node node-a", "virtsync-system/node-b"),
        first=_with_lease("node-b"),
    ),
    Case(
        A,
        "takes a Lease of any other name",
        LEASE,
        _take_lease("virtsync-monitor"),
        ("of node node-a", "virtsync-system/virtsync-monitor"),
    ),
    Case(A, "tells an Event as node-b", EVENT, _tell("b", "node-b"), ("of node node-a",)),
    Case(
        A, "tells an Event as another program", EVENT, _tell("a", "node-a", reportingController="kubelet"), ("node-a",)
    ),
    Case(A, "tells an Event about a Pod", EVENT, _tell_about("v1", "Pod"), ("of node node-a",)),
    Case(A, "tells an Event about KubeVirt's VM", EVENT, _tell_about("kubevirt.io/v1", "VirtualMachine"), ("node-a",)),
    Case(A, "tells an Event about a Hypervisor", EVENT, _tell_about("virtsync.dev/v1", "Hypervisor"), ("node-a",)),
    Case(A, "changes an Event of node-b", EVENT, _tell_again("b"), ("of node node-a",), first=_told("b", "node-b")),
    # Through the status: the API server takes nothing but the status from such a write.
    Case(A, "takes a VM of its node along with a status", IGNORED, _report("a", {"spec": {"powerState": "Stopped"}})),
    Case(A, "gives its VM to node-b along with a status", IGNORED, _report("a", {"spec": {"nodeName": "node-b"}})),
    Case(
        A,
        "puts annotations, labels and a finalizer along with a status",
        IGNORED,
        _report(
            "a",
            {
                "metadata": {
                    "annotations": {"hold.virtsync.dev/a": "me"},
                    "labels": {"a": "b"},
                    "finalizers": ["virtsync.dev/a"],
                }
            },
        ),
    ),
    Case(
        A,
        "takes a VM of node-b along with a status",
        "virtsync-status",
        _report("b", {"spec": {"nodeName": "node-a"}} | STATUS),
        ("node node-a", "node node-b"),
    ),
    # Everything else of a VM, and of the cluster.
    Case(A, "switches its VM by its spec", BY_RBAC, _spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(A, "takes a VM of node-b", BY_RBAC, _spec("b", nodeName="node-a"), ("patch", '"virtualmachines"')),
    Case(A, "gives its VM to node-b", BY_RBAC, _spec("a", nodeName="node-b"), ("patch", '"virtualmachines"')),
    Case(
        A,
        "holds its VM",
        BY_RBAC,
        _patch("a", {"metadata": {"annotations": {"hold.virtsync.dev/a": "me"}}}),
        ("patch", '"virtualmachines"'),
    ),
    Case(A, "makes a VM", BY_RBAC, _create("new", nodeName="node-a"), ("create", '"virtualmachines"')),
    Case(A, "deletes its VM", BY_RBAC, _delete("a"), ("delete", '"virtualmachines"')),
    Case(
        A,
        "deletes all VMs",
        BY_RBAC,
        lambda _s: Request("DELETE", f"{VMS}/namespaces/{TEAM}/virtualmachines"),
        ("deletecollection", '"virtualmachines"'),
    ),
    Case(
        A,
        "takes a Lease in the nodes' own namespace",
        BY_RBAC,
        _take_lease("node-a", NODE_LEASES),
        ("create", '"leases"', NODE_LEASES),
    ),
    Case(
        A,
        "deletes the Lease of its node",
        BY_RBAC,
        lambda _s: Request("DELETE", _lease_path("node-a")),
        ("delete", '"leases"'),
        first=_with_lease("node-a"),
    ),
    Case(A, "reads secrets", BY_RBAC, _get(f"/api/v1/namespaces/{AGENTS}/secrets"), ("list", '"secrets"')),
    Case(A, "reads config maps", BY_RBAC, _get(f"/api/v1/namespaces/{AGENTS}/configmaps"), ("list", '"configmaps"')),
    Case(A, "reads Pods", BY_RBAC, _get(f"/api/v1/namespaces/{AGENTS}/pods"), ("list", '"pods"')),
    Case(A, "reads its Node", BY_RBAC, _get("/api/v1/nodes/node-a"), ("get", '"nodes"')),
    Case(
        A,
        "reads the CRD",
        BY_RBAC,
        _get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/virtualmachines.virtsync.dev"),
        ("get", '"customresourcedefinitions"'),
    ),
    Case(
        A,
        "has a token made for itself",
        BY_RBAC,
        lambda _s: Request("POST", f"/api/v1/namespaces/{AGENTS}/serviceaccounts/virtsync-agent/token"),
        ("create", '"serviceaccounts/token"'),
    ),
    Case(
        A,
        "deletes a policy",
        BY_RBAC,
        lambda _s: Request(
            "DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/virtsync-status"
        ),
        ("delete", '"validatingadmissionpolicies"'),
    ),
    # Tokens that are not a Pod's on a node.
    Case(UNBOUND, "writes the status of a VM", "virtsync-status", _report("a"), ("names no node", "node node-a")),
    Case(UNBOUND, "takes a Lease", LEASE, _take_lease("node-a"), ("of no node", "virtsync-system/node-a")),
    Case(UNBOUND, "tells an Event", EVENT, _tell("a", "node-a"), ("of no node",)),
    Case(GONE, "reads a VM", UNKNOWN, _get(lambda s: s.vm("a")), reads=True),
    Case(IMPERSONATOR, "writes the status of a VM", "virtsync-status", _report("a"), ("names no node", "node node-a")),
    Case(IMPERSONATOR, "takes a Lease", LEASE, _take_lease("node-a"), ("of no node", "virtsync-system/node-a")),
    Case(
        NEIGHBOUR, "writes the status of a VM of node-a", BY_RBAC, _report("a"), ("patch", '"virtualmachines/status"')
    ),
    Case(NEIGHBOUR, "reads a VM", BY_RBAC, _get(lambda s: s.vm("a")), ("get", '"virtualmachines"')),
    # Should somebody give an agent every right there is, the policies hold by themselves.
    Case(ZEALOUS, "writes the status of its VM", ALLOWED, _report("a")),
    Case(
        ZEALOUS, "writes the status of a VM of node-b", "virtsync-status", _report("b"), ("node node-a", "node node-b")
    ),
    Case(ZEALOUS, "switches its VM by its spec", SPEC, _spec("a", powerState="Stopped"), ("of node node-a",)),
    Case(ZEALOUS, "takes a VM of node-b", SPEC, _spec("b", nodeName="node-a"), ("of node node-a",)),
    Case(ZEALOUS, "gives its VM to node-b", SPEC, _spec("a", nodeName="node-b"), ("of node node-a",)),
    Case(ZEALOUS, "makes a VM", SPEC, _create("new", nodeName="node-a"), ("of node node-a",)),
    Case(ZEALOUS, "deletes its VM", SPEC, _delete("a"), ("of node node-a",)),
    Case(
        ZEALOUS,
        "takes a Lease in the nodes' own namespace",
        LEASE,
        _take_lease("node-a", NODE_LEASES),
        ("of node node-a", "kube-node-lease/node-a"),
    ),
    Case(
        ZEALOUS,
        "deletes the Lease of node-b",
        LEASE,
        lambda _s: Request("DELETE", _lease_path("node-b", "zealous")),
        ("of node node-a", "zealous/node-b"),
        first=_with_lease("node-b", "zealous"),
    ),
    # Should somebody install it under other names, which the policies do not know.
    Case(COPY, "writes the status of its VM", ALLOWED, _report("a")),
    Case(COPY, "writes the status of a VM of node-b", "virtsync-status", _report("b"), ("node node-a", "node node-b")),
    # Users.
    Case(OPERATOR, "switches a VM", ALLOWED, _spec("a", powerState="Stopped")),
    Case(OPERATOR, "holds a VM", ALLOWED, _patch("a", {"metadata": {"annotations": {"hold.virtsync.dev/me": "why"}}})),
    Case(OPERATOR, "gives a VM to another node", BIND, _spec("a", nodeName="node-b"), ("bind", TEAM, OPERATOR)),
    Case(OPERATOR, "takes another domain", BIND, _spec("a", domain={"name": "payroll"}), ("bind", TEAM, OPERATOR)),
    Case(OPERATOR, "binds a VM of no node", BIND, _spec("free", nodeName="node-b"), ("bind", TEAM)),
    Case(OPERATOR, "makes a VM", BY_RBAC, _create("new", nodeName="node-a"), ("create", '"virtualmachines"')),
    Case(OPERATOR, "deletes a VM", BY_RBAC, _delete("a"), ("delete", '"virtualmachines"')),
    *(
        Case(who, f"reads Events of {group or 'the core'}", ALLOWED, _get(path), first=_told("a", "node-a"), reads=True)
        for who in (VM_VIEWER, OPERATOR, VM_ADMIN)
        for group, path in TOLD.items()
    ),
    Case(OPERATOR, "tells an Event", BY_RBAC, _tell("a", "node-a"), ("create", '"events"')),
    Case(VM_VIEWER, "switches a VM", BY_RBAC, _spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(OPERATOR, "writes a status", BY_RBAC, _report("a"), ("patch", '"virtualmachines/status"')),
    Case(
        OPERATOR,
        "switches a VM of another team",
        BY_RBAC,
        _patch("a", {"spec": {"powerState": "Stopped"}}, namespace=OTHER_TEAM),
        ("patch", '"virtualmachines"', OTHER_TEAM),
    ),
    Case(AUTHOR, "makes a VM of no node", ALLOWED, _create("new", powerState="Running")),
    Case(AUTHOR, "makes a VM of a node", BIND, _create("new", nodeName="node-a"), ("bind", TEAM)),
    Case(AUTHOR, "makes a VM of a domain", BIND, _create("new", domain={"name": "payroll"}), ("bind", TEAM)),
    Case(AUTHOR, "takes a VM off its node", BIND, _spec("a", nodeName=None), ("bind", TEAM)),
    Case(VM_ADMIN, "makes a VM of a node", ALLOWED, _create("new", nodeName="node-a", domain={"name": "payroll"})),
    Case(VM_ADMIN, "gives a VM to another node", ALLOWED, _spec("a", nodeName="node-b")),
    Case(VM_ADMIN, "takes another domain", ALLOWED, _spec("a", domain={"name": "payroll"})),
    Case(VM_ADMIN, "deletes a VM", ALLOWED, _delete("a")),
    Case(VM_ADMIN, "writes a status", BY_RBAC, _report("a"), ("patch", '"virtualmachines/status"')),
    Case(
        VM_ADMIN,
        "makes a VM for another team",
        BY_RBAC,
        _create("new", namespace=OTHER_TEAM, nodeName="node-a"),
        ("create", '"virtualmachines"', OTHER_TEAM),
    ),
    Case(VIEWER, "reads a VM", ALLOWED, _get(lambda s: s.vm("a")), reads=True),
    Case(VIEWER, "switches a VM", BY_RBAC, _spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(EDITOR, "reads a VM", ALLOWED, _get(lambda s: s.vm("a")), reads=True),
    Case(EDITOR, "switches a VM", BY_RBAC, _spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(EDITOR, "makes a VM", BY_RBAC, _create("new", nodeName="node-a"), ("create", '"virtualmachines"')),
    Case(OWNER, "switches a VM", BY_RBAC, _spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(OWNER, "lets everybody view", ALLOWED, _bind_role("view")),
    Case(OWNER, "makes everybody a vm-operator", BY_RBAC, _bind_role(OPERATOR), ("not currently held",)),
    Case(OWNER, "makes everybody a vm-admin", BY_RBAC, _bind_role(VM_ADMIN), ("not currently held", "bind")),
    Case(NOBODY, "reads a VM", BY_RBAC, _get(lambda s: s.vm("a")), ("get", '"virtualmachines"')),
    Case(STATUS_WRITER, "writes a status", "virtsync-status", _report("a"), ("names no node", "node node-a")),
    Case(ROOT, "writes a status", ALLOWED, _report("a")),
)

NUMBERS = count()


@pytest.fixture(scope="module")
def cast(installed: ControlPlane) -> Iterator[dict[str, Caller]]:
    """Everybody, with a token."""
    for namespace in (TEAM, OTHER_TEAM, "zealous", "copy"):
        installed.kubectl("create", "namespace", namespace)
    _aggregate(installed)
    agents = installed.kubectl("get", "daemonset", "virtsync-agent", f"--namespace={AGENTS}", "-o", "json").stdout
    spec = json.loads(agents)["spec"]["template"]["spec"]
    tokens = {A: pod_token(installed, AGENTS, "virtsync-agent", "node-a", spec)}
    tokens[GONE] = pod_token(installed, AGENTS, "virtsync-agent", "node-gone", spec)
    installed.kubectl(
        "delete", "pod", "virtsync-agent-node-gone", f"--namespace={AGENTS}", "--force", "--grace-period=0"
    )
    tokens[B] = pod_token(installed, AGENTS, "virtsync-agent", "node-b", spec)
    tokens[UNBOUND] = token(installed, AGENTS, "virtsync-agent")
    for who, namespace, account, role in (
        (ZEALOUS, "zealous", "virtsync-agent", "cluster-admin"),
        (COPY, "copy", "acme-agent", "virtsync-agent"),
        (NEIGHBOUR, TEAM, "neighbour", "system:discovery"),
    ):
        installed.service_account(namespace, account, cluster_role=role)
        tokens[who] = pod_token(installed, namespace, account, "node-a")
    _custom_role(installed, "author", ["virtualmachines"], ["get", "create", "update", "patch"])
    _custom_role(installed, "status-writer", ["virtualmachines/status"], ["patch"])
    roles = {
        VM_VIEWER: VM_VIEWER,
        OPERATOR: OPERATOR,
        VM_ADMIN: VM_ADMIN,
        VIEWER: "view",
        EDITOR: "edit",
        OWNER: "admin",
    }
    roles |= {AUTHOR: "author", STATUS_WRITER: "status-writer", NOBODY: ""}
    for who, role in roles.items():
        account = role or "nobody"
        installed.kubectl("create", "serviceaccount", account, f"--namespace={TEAM}")
        if role:
            binding = (f"--clusterrole={role}", f"--serviceaccount={TEAM}:{account}")
            installed.kubectl("create", "rolebinding", account, f"--namespace={TEAM}", *binding)
        tokens[who] = token(installed, TEAM, account)
    cast = {who: Caller(installed, it) for who, it in tokens.items()}
    name = f"system:serviceaccount:{AGENTS}:virtsync-agent"
    cast[ROOT] = Caller(installed, installed.token)
    cast[IMPERSONATOR] = Caller(installed, installed.token, {"Impersonate-User": name})
    with ExitStack() as ends:
        for caller in cast.values():
            ends.callback(caller.close)
        until(lambda: _in_force(cast) == set(POLICIES), "not all policies are in force")
        yield cast


@pytest.fixture
def stage(cast: dict[str, Caller]) -> Stage:
    stage = Stage(next(NUMBERS), cast[ROOT])
    stage.set_up()
    return stage


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_may_do_what_it_must_and_no_more(
    case: Case, cast: dict[str, Caller], stage: Stage, matrix: list[str]
) -> None:
    case.first(stage)
    before = stage.snapshot()
    answer = cast[case.who].ask(case.request(stage))
    changed = stage.snapshot() != before
    matrix.append(f"{len(matrix) + 1:3} {case.who}: {case.what}\n      {_verdict(case.outcome)}{_why(answer)}")
    match case.outcome:
        case "allowed":
            assert answer.granted, answer.message
            assert changed != case.reads
        case "no effect":
            assert answer.granted, answer.message
            assert not changed
        case "unknown token":
            assert answer.code == 401
        case by:
            assert answer.code == 403, answer
            assert not changed
            assert (by != BY_RBAC) == (f"ValidatingAdmissionPolicy '{by}'" in answer.message), answer.message
            assert all(word in answer.message for word in case.words), answer.message


@pytest.mark.parametrize("role", [VM_VIEWER, OPERATOR, VM_ADMIN])
def test_whoever_may_see_a_vm_is_shown_its_events(
    installed: ControlPlane, stage: Stage, role: str, tmp_path: Path
) -> None:
    vm = stage.admin.ask(Request("GET", stage.vm("a"))).body
    about = {"apiVersion": vm["apiVersion"], "kind": vm["kind"]} | {
        word: vm["metadata"][word] for word in ("namespace", "name", "uid")
    }
    stage.do("POST", f"{EVENTS}/namespaces/{TEAM}/events", _event("a", "node-a", regarding=about)(stage))
    kubeconfig = tmp_path / "kubeconfig"
    installed._write_kubeconfig(kubeconfig, token(installed, TEAM, role))
    words = (f"--kubeconfig={kubeconfig}", f"--namespace={TEAM}")
    described = installed.kubectl(*words, "describe", "kvm", stage.name("a")).stdout
    assert "It was started." in described.partition("\nEvents:")[2]
    assert "It was started." in installed.kubectl(*words, "events", "--for", f"kvm/{stage.name('a')}").stdout


@pytest.fixture(scope="class")
def unguarded(installed: ControlPlane, cast: dict[str, Caller]) -> Iterator[None]:
    """The policies are there and bind nobody."""
    installed.kubectl("delete", "validatingadmissionpolicybinding", *POLICIES)
    until(lambda: not _in_force(cast), "a policy is still in force")
    yield
    installed.kubectl("apply", "-f", str(REPOSITORY / "deploy" / "install.yaml"))
    until(lambda: _in_force(cast) == set(POLICIES), "not all policies are in force again")


@pytest.mark.usefixtures("unguarded")
class TestWithoutPolicies:
    """The same requests when no policy binds anybody: nothing else is in their way."""

    @pytest.mark.parametrize("case", [case for case in CASES if case.outcome in POLICIES], ids=str)
    def test_it_would_pass(self, case: Case, cast: dict[str, Caller], stage: Stage) -> None:
        case.first(stage)
        before = stage.snapshot()
        answer = cast[case.who].ask(case.request(stage))
        assert answer.granted, answer.message
        assert stage.snapshot() != before


def test_the_matrix_is_as_large_as_it_says() -> None:
    by = {case.outcome for case in CASES}
    assert set(POLICIES) < by
    assert len(CASES) >= 20
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.usefixtures("cast")
def test_these_rights_are_enough_for_an_agent(installed: ControlPlane, libvirtd: Libvirtd, tmp_path: Path) -> None:
    """It takes its Lease, reports, starts, stops, tells Events, gives the Lease back, and nothing is refused to it."""
    with World(installed, libvirtd, "enough", tmp_path) as world:
        guest = world.define()
        kubeconfig = tmp_path / "kubeconfig"
        installed._write_kubeconfig(kubeconfig, pod_token(installed, AGENTS, "virtsync-agent", world.node))
        agent = world.new_agent(kubeconfig=kubeconfig, env={"POD_NAMESPACE": AGENTS, "POD_UID": "its-uid"})
        agent.start()
        assert _holder(installed, world.node) == "its-uid"
        world.apply(guest, powerState="Running")
        world.until_ready(guest, "InSync")
        world.patch(guest, powerState="Stopped", shutdown={"mode": "Force"})
        world.until_ready(guest, "InSync")
        world.until_event(guest, "ForcedOff")
        assert world.events(guest) == ["Started", "ForcedOff"]
        agent.stop()
        assert _holder(installed, world.node) == ""
        refused = [line for line in agent.log_lines() if "forbidden" in str(line).lower()]
    assert not refused


def _holder(controlplane: ControlPlane, node: str) -> str:
    words = ("get", "lease", node, f"--namespace={AGENTS}", "-o", "jsonpath={.spec.holderIdentity}")
    return controlplane.kubectl(*words).stdout


def _in_force(cast: dict[str, Caller]) -> set[str]:
    """The policies that refuse what they are to refuse, asked without a trace (dryRun)."""
    agent, free = cast[UNBOUND], f"{VMS}/namespaces/{TEAM}/virtualmachines"
    leases, events = f"{LEASES}/namespaces/{AGENTS}/leases", f"{EVENTS}/namespaces/{TEAM}/events"
    stage = Stage(0, cast[ROOT])
    if not stage.admin.ask(Request("GET", f"{free}/probe")).granted:
        stage.do("POST", free, _vm("probe", {"nodeName": "node-a"}))
    tries = {
        "virtsync-status": (agent, Request("PATCH", f"{free}/probe/status?dryRun=All", STATUS)),
        "virtsync-agent-spec": (cast[ZEALOUS], Request("DELETE", f"{free}/probe?dryRun=All")),
        "virtsync-agent-lease": (agent, Request("POST", f"{leases}?dryRun=All", _lease("probe"))),
        "virtsync-agent-events": (agent, Request("POST", f"{events}?dryRun=All", _event("x", "node-a")(stage))),
        "virtsync-bind": (cast[AUTHOR], Request("PATCH", f"{free}/probe?dryRun=All", {"spec": {"nodeName": "b"}})),
    }
    return {name for name, (who, request) in tries.items() if f"'{name}'" in who.ask(request).message}


def _verdict(outcome: str) -> str:
    return outcome if outcome in {ALLOWED, IGNORED, UNKNOWN} else f"refused by {outcome}"


def _why(answer: Answer) -> str:
    """What the API server says, without the names of what it was asked for and by which policy."""
    words = re.split(r"denied request: |is forbidden: ", answer.message)[-1]
    return "" if answer.granted else f" ({answer.code}): {' '.join(words.split())}"


def _custom_role(controlplane: ControlPlane, name: str, resources: list[str], verbs: list[str]) -> None:
    resource = ",".join(f"virtualmachines.virtsync.dev{it.removeprefix('virtualmachines')}" for it in resources)
    controlplane.kubectl("create", "clusterrole", name, f"--verb={','.join(verbs)}", f"--resource={resource}")


def _aggregate(controlplane: ControlPlane) -> None:
    """Fill `view`, `edit` and `admin` by their own selectors, as a controller does that does not run here."""
    for name in ("view", "edit", "admin"):
        roles = json.loads(controlplane.kubectl("get", "clusterroles", "-o", "json").stdout)["items"]
        role = next(role for role in roles if role["metadata"]["name"] == name)
        selectors = [it["matchLabels"] for it in role["aggregationRule"]["clusterRoleSelectors"]]
        labelled = [r for r in roles if any(it.items() <= r["metadata"].get("labels", {}).items() for it in selectors)]
        role["rules"] = [rule for r in labelled for rule in r["rules"] or []]
        controlplane.kubectl("replace", "-f", "-", input=json.dumps(role))

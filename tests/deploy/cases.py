"""The cases of the matrix of rights: who tries what, and what the API server answers."""

from tests.deploy.callers import AGENTS, Json, Request
from tests.deploy.stage import (
    ALLOWED,
    BY_RBAC,
    EVENTS,
    FORGERIES,
    IGNORED,
    KEPT,
    NO_OWNER,
    NODE_LEASES,
    OPERATION,
    OTHER_TEAM,
    OWNED,
    STATUS,
    TEAM,
    UNKNOWN,
    VMS,
    Case,
    bind_role,
    by_admin,
    condition,
    create,
    delete,
    get,
    hand_over,
    lease_path,
    observed_by,
    patch,
    renew_lease,
    report,
    spec,
    take_lease,
    tell,
    tell_about,
    tell_again,
    tell_tied,
    told,
    with_lease,
)

A, B = "agent of node-a", "agent of node-b"
ZEALOUS = "agent of node-a, made cluster-admin"
COPY = "copy of virtsync on node-a, other names"
UNBOUND, GONE = "agent, token bound to no Pod", "agent, token of a Pod that is gone"
IMPERSONATOR = "somebody who impersonates the agent"
NEIGHBOUR = "another Pod on node-a"
ROOT = "cluster administrator"
VM_VIEWER, OPERATOR, VM_ADMIN = "virtsync-vm-viewer", "virtsync-vm-operator", "virtsync-vm-admin"
VIEWER, EDITOR, OWNER, NOBODY = "view", "edit", "admin", "no role"
NARROW = "Pod on node-a that may write statuses in its namespace"
AUTHOR, STATUS_WRITER = "create and update, no bind", "patch of status, no report"

OWN = f"{VMS}/virtualmachines?fieldSelector=spec.nodeName%3Dnode-a"
# `kubectl describe` asks for the former, `kubectl events` too; Events are one thing under two names.
TOLD = {"": f"/api/v1/namespaces/{TEAM}/events", "events.k8s.io": f"{EVENTS}/namespaces/{TEAM}/events"}
SPEC, LEASE, EVENT = ("virtsync-agent-spec", "virtsync-agent-lease", "virtsync-agent-events")
BIND, OWNER_ADDED = "virtsync-bind", "virtsync-owner"
LEASE_TIED = ("of node node-a", "finalizers", "owners", "virtsync-system/node-a")
EVENT_TIED = ("of node node-a", "finalizers", "owners", "Event")
STALE = {"conditions": [condition("Ready", "Unknown", "LibvirtUnreachable")]}
REMEMBERED = by_admin(report("a", observed_by("node-b")))
"""The VM was handed over from node-b to node-a, and the status still shows what node-b has observed."""


def what(metadata: Json) -> str:
    """`finalizers`, `ownerReferences`."""
    return " and ".join(metadata)


CASES = (
    # What an agent does all day.
    Case(A, "lists the VMs of its node", ALLOWED, get(OWN), reads=True),
    Case(A, "watches them", ALLOWED, get(f"{OWN}&watch=1&timeoutSeconds=1"), reads=True),
    Case(A, "reads its VM", ALLOWED, get(lambda s: s.vm("a")), reads=True),
    Case(A, "writes the status of its VM", ALLOWED, report("a")),
    Case(B, "writes the status of its VM", ALLOWED, report("b")),
    Case(A, "takes the Lease of its node", ALLOWED, take_lease("node-a")),
    Case(A, "renews the Lease of its node", ALLOWED, renew_lease("node-a"), first=with_lease("node-a")),
    Case(
        A,
        "renews its Lease, to which somebody has added a finalizer",
        ALLOWED,
        renew_lease("node-a"),
        first=with_lease("node-a", tied=KEPT),
    ),
    Case(A, "tells an Event about its VM", ALLOWED, tell("a", "node-a")),
    Case(A, "tells that it repeats", ALLOWED, tell_again("a"), first=told("a", "node-a")),
    Case(B, "writes the status of a VM handed over to it", ALLOWED, report("a"), first=hand_over("a", "node-b")),
    # What cannot be refused: see docs/security.md.
    Case(A, "reads a VM of node-b", ALLOWED, get(lambda s: s.vm("b")), reads=True),
    Case(A, "tells an Event about a VM of node-b, as itself", ALLOWED, tell("b", "node-a")),
    # Other nodes.
    Case(A, "writes the status of a VM of node-b", "virtsync-status", report("b"), ("node node-a", "node node-b")),
    Case(A, "writes the status of a VM of no node", "virtsync-status", report("free"), ("node node-a", "of no node")),
    Case(
        A,
        "writes the status of a VM that it has handed over",
        "virtsync-status",
        report("a"),
        ("node node-a", "node node-b"),
        first=hand_over("a", "node-b"),
    ),
    # Under the name of another node.
    Case(A, "reports as node-b", "virtsync-status", report("a", observed_by("node-b")), ("of node node-a", "node-b")),
    Case(
        A,
        "reports what no node has observed as node-b",
        "virtsync-status",
        report("a", {"status": {"nodeName": "node-b"}}),
        ("of node node-a", "node-b"),
        first=by_admin(report("a", observed_by("node-a"))),
    ),
    *(
        Case(
            A,
            f"changes status.{field} and keeps the name of node-b",
            "virtsync-status",
            report("a", {"status": {field: forgery}}),
            ("of node node-a", "node-b"),
            first=REMEMBERED,
        )
        for field, forgery in (FORGERIES | {"nodeBootID": None}).items()
    ),
    Case(
        A,
        "replaces the name of node-b by that of another node",
        "virtsync-status",
        report("a", {"status": {"nodeName": "node-c"}}),
        ("of node node-a", "node-c"),
        first=REMEMBERED,
    ),
    Case(
        A,
        "reports as itself on a VM that node-b has observed",
        ALLOWED,
        report("a", observed_by("node-a", **FORGERIES)),
        first=REMEMBERED,
    ),
    *(
        Case(A, what, ALLOWED, report("a", {"status": STALE | {"operation": operation}}), first=REMEMBERED)
        for what, operation in {
            "changes conditions and keeps the name of node-b": OPERATION,
            "removes the deadline of an operation and keeps the name of node-b": {"deadline": None},
            "removes an operation and keeps the name of node-b": None,
        }.items()
    ),
    Case(
        A,
        "adds an operation and keeps the name of node-b",
        "virtsync-status",
        report("a", {"status": {"operation": OPERATION}}),
        ("of node node-a", "node-b"),
        first=by_admin(report("a", observed_by("node-b", operation=None))),
    ),
    *(
        case
        for metadata in (KEPT, OWNED)
        for case in (
            Case(A, f"takes its Lease with {what(metadata)}", LEASE, take_lease("node-a", tied=metadata), LEASE_TIED),
            Case(
                A,
                f"adds {what(metadata)} to its Lease",
                LEASE,
                renew_lease("node-a", tied=metadata),
                LEASE_TIED,
                first=with_lease("node-a"),
            ),
            Case(
                A,
                f"removes {what(metadata)} from its Lease",
                LEASE,
                renew_lease("node-a", tied=dict.fromkeys(metadata)),
                LEASE_TIED,
                first=with_lease("node-a", tied=metadata),
            ),
            Case(A, f"writes an Event with {what(metadata)}", EVENT, tell_tied("node-a", metadata), EVENT_TIED),
            Case(
                A,
                f"adds {what(metadata)} to its Event",
                EVENT,
                tell_again("a", metadata=metadata),
                EVENT_TIED,
                first=told("a", "node-a"),
            ),
        )
    ),
    Case(A, "takes the Lease of node-b", LEASE, take_lease("node-b"), ("of node node-a", "virtsync-system/node-b")),
    Case(
        A,
        "renews the Lease of node-b",
        LEASE,
        renew_lease("node-b"),
        ("of node node-a", "virtsync-system/node-b"),
        first=with_lease("node-b"),
    ),
    Case(
        A,
        "takes a Lease of any other name",
        LEASE,
        take_lease("virtsync-monitor"),
        ("of node node-a", "virtsync-system/virtsync-monitor"),
    ),
    Case(A, "tells an Event as node-b", EVENT, tell("b", "node-b"), ("of node node-a",)),
    Case(
        A, "tells an Event as another program", EVENT, tell("a", "node-a", reportingController="kubelet"), ("node-a",)
    ),
    Case(A, "tells an Event about a Pod", EVENT, tell_about("v1", "Pod"), ("of node node-a",)),
    Case(A, "tells an Event about KubeVirt's VM", EVENT, tell_about("kubevirt.io/v1", "VirtualMachine"), ("node-a",)),
    Case(A, "tells an Event about a Hypervisor", EVENT, tell_about("virtsync.dev/v1", "Hypervisor"), ("node-a",)),
    Case(A, "changes an Event of node-b", EVENT, tell_again("b"), ("of node node-a",), first=told("b", "node-b")),
    # Through the status: the API server takes nothing but the status from such a write.
    Case(A, "takes a VM of its node along with a status", IGNORED, report("a", {"spec": {"powerState": "Stopped"}})),
    Case(A, "gives its VM to node-b along with a status", IGNORED, report("a", {"spec": {"nodeName": "node-b"}})),
    Case(
        A,
        "puts annotations, labels, a finalizer and an owner along with a status",
        IGNORED,
        report(
            "a",
            {
                "metadata": {
                    "annotations": {"hold.virtsync.dev/a": "me"},
                    "labels": {"a": "b"},
                    "finalizers": ["virtsync.dev/a"],
                    **OWNED,
                }
            },
        ),
    ),
    Case(
        A,
        "takes a VM of node-b along with a status",
        "virtsync-status",
        report("b", {"spec": {"nodeName": "node-a"}} | STATUS),
        ("node node-a", "node node-b"),
    ),
    # Everything else of a VM, and of the cluster.
    Case(A, "switches its VM by its spec", BY_RBAC, spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(A, "takes a VM of node-b", BY_RBAC, spec("b", nodeName="node-a"), ("patch", '"virtualmachines"')),
    Case(A, "gives its VM to node-b", BY_RBAC, spec("a", nodeName="node-b"), ("patch", '"virtualmachines"')),
    Case(
        A,
        "holds its VM",
        BY_RBAC,
        patch("a", {"metadata": {"annotations": {"hold.virtsync.dev/a": "me"}}}),
        ("patch", '"virtualmachines"'),
    ),
    Case(A, "makes a VM", BY_RBAC, create("new", nodeName="node-a"), ("create", '"virtualmachines"')),
    Case(A, "deletes its VM", BY_RBAC, delete("a"), ("delete", '"virtualmachines"')),
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
        take_lease("node-a", NODE_LEASES),
        ("create", '"leases"', NODE_LEASES),
    ),
    Case(
        A,
        "deletes the Lease of its node",
        BY_RBAC,
        lambda _s: Request("DELETE", lease_path("node-a")),
        ("delete", '"leases"'),
        first=with_lease("node-a"),
    ),
    Case(A, "reads secrets", BY_RBAC, get(f"/api/v1/namespaces/{AGENTS}/secrets"), ("list", '"secrets"')),
    Case(A, "reads config maps", BY_RBAC, get(f"/api/v1/namespaces/{AGENTS}/configmaps"), ("list", '"configmaps"')),
    Case(A, "reads Pods", BY_RBAC, get(f"/api/v1/namespaces/{AGENTS}/pods"), ("list", '"pods"')),
    Case(A, "reads its Node", BY_RBAC, get("/api/v1/nodes/node-a"), ("get", '"nodes"')),
    Case(
        A,
        "reads the CRD",
        BY_RBAC,
        get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/virtualmachines.virtsync.dev"),
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
    Case(UNBOUND, "writes the status of a VM", "virtsync-status", report("a"), ("names no node", "node node-a")),
    Case(UNBOUND, "takes a Lease", LEASE, take_lease("node-a"), ("of no node", "virtsync-system/node-a")),
    Case(UNBOUND, "tells an Event", EVENT, tell("a", "node-a"), ("of no node",)),
    Case(GONE, "reads a VM", UNKNOWN, get(lambda s: s.vm("a")), reads=True),
    Case(IMPERSONATOR, "writes the status of a VM", "virtsync-status", report("a"), ("names no node", "node node-a")),
    Case(IMPERSONATOR, "takes a Lease", LEASE, take_lease("node-a"), ("of no node", "virtsync-system/node-a")),
    Case(NEIGHBOUR, "writes the status of a VM of node-a", BY_RBAC, report("a"), ("patch", '"virtualmachines/status"')),
    Case(NEIGHBOUR, "reads a VM", BY_RBAC, get(lambda s: s.vm("a")), ("get", '"virtualmachines"')),
    # Should somebody give an agent every right there is, the policies hold by themselves.
    Case(ZEALOUS, "writes the status of its VM", ALLOWED, report("a")),
    Case(
        ZEALOUS, "writes the status of a VM of node-b", "virtsync-status", report("b"), ("node node-a", "node node-b")
    ),
    Case(
        ZEALOUS,
        "reports as node-b",
        "virtsync-status",
        report("a", observed_by("node-b")),
        ("of node node-a", "node-b"),
    ),
    Case(ZEALOUS, "switches its VM by its spec", SPEC, spec("a", powerState="Stopped"), ("of node node-a",)),
    Case(ZEALOUS, "takes a VM of node-b", SPEC, spec("b", nodeName="node-a"), ("of node node-a",)),
    Case(ZEALOUS, "gives its VM to node-b", SPEC, spec("a", nodeName="node-b"), ("of node node-a",)),
    Case(ZEALOUS, "makes a VM", SPEC, create("new", nodeName="node-a"), ("of node node-a",)),
    Case(ZEALOUS, "deletes its VM", SPEC, delete("a"), ("of node node-a",)),
    Case(
        ZEALOUS,
        "takes a Lease in the nodes' own namespace",
        LEASE,
        take_lease("node-a", NODE_LEASES),
        ("of node node-a", "kube-node-lease/node-a"),
    ),
    Case(
        ZEALOUS,
        "deletes the Lease of node-b",
        LEASE,
        lambda _s: Request("DELETE", lease_path("node-b", "zealous")),
        ("of node node-a", "zealous/node-b"),
        first=with_lease("node-b", "zealous"),
    ),
    # Should somebody install it under other names, which the policies do not know.
    Case(COPY, "writes the status of its VM", ALLOWED, report("a")),
    Case(
        COPY, "reports as node-b", "virtsync-status", report("a", observed_by("node-b")), ("of node node-a", "node-b")
    ),
    Case(COPY, "writes the status of a VM of node-b", "virtsync-status", report("b"), ("node node-a", "node node-b")),
    # Users.
    Case(ROOT, "reports as node-b", ALLOWED, report("a", observed_by("node-b"))),
    Case(OPERATOR, "switches a VM", ALLOWED, spec("a", powerState="Stopped")),
    Case(OPERATOR, "holds a VM", ALLOWED, patch("a", {"metadata": {"annotations": {"hold.virtsync.dev/me": "why"}}})),
    Case(OPERATOR, "gives a VM to another node", BIND, spec("a", nodeName="node-b"), ("bind", TEAM, OPERATOR)),
    Case(OPERATOR, "takes another domain", BIND, spec("a", domain={"name": "payroll"}), ("bind", TEAM, OPERATOR)),
    Case(OPERATOR, "binds a VM of no node", BIND, spec("free", nodeName="node-b"), ("bind", TEAM)),
    # The garbage collector deletes an object whose owner does not exist.
    Case(
        OPERATOR,
        "adds an owner to a VM",
        OWNER_ADDED,
        patch("a", {"metadata": OWNED}),
        (OPERATOR, "`delete` virtualmachines", TEAM),
    ),
    Case(
        OPERATOR,
        "adds a finalizer to a VM",
        OWNER_ADDED,
        patch("a", {"metadata": KEPT}),
        (OPERATOR, "finalizer", "`delete` virtualmachines", TEAM),
    ),
    Case(
        OPERATOR,
        "adds a finalizer to a VM that has one",
        OWNER_ADDED,
        patch("a", {"metadata": {"finalizers": [*KEPT["finalizers"], "example.com/another"]}}),
        ("`delete`",),
        first=by_admin(patch("a", {"metadata": KEPT})),
    ),
    Case(
        OPERATOR,
        "switches a VM that has a finalizer",
        ALLOWED,
        spec("a", powerState="Stopped"),
        first=by_admin(patch("a", {"metadata": KEPT})),
    ),
    Case(
        OPERATOR,
        "removes the finalizer of a VM",
        ALLOWED,
        patch("a", {"metadata": {"finalizers": None}}),
        first=by_admin(patch("a", {"metadata": KEPT})),
    ),
    *(
        Case(
            OPERATOR,
            f"renames {what}",
            OWNER_ADDED,
            patch("a", {"metadata": {"ownerReferences": [NO_OWNER | {field: "Other"}]}}),
            ("`delete`",),
            first=by_admin(patch("a", {"metadata": OWNED})),
        )
        for field, what in {"name": "an owner of a VM", "kind": "the kind of an owner of a VM"}.items()
    ),
    Case(
        OPERATOR,
        "adds an owner to a VM that has one",
        OWNER_ADDED,
        patch("a", {"metadata": {"ownerReferences": [NO_OWNER, NO_OWNER | {"uid": "another"}]}}),
        ("`delete`",),
        first=by_admin(patch("a", {"metadata": OWNED})),
    ),
    Case(
        OPERATOR,
        "switches a VM that has an owner",
        ALLOWED,
        spec("a", powerState="Stopped"),
        first=by_admin(patch("a", {"metadata": OWNED})),
    ),
    Case(
        OPERATOR,
        "removes the owner of a VM",
        ALLOWED,
        patch("a", {"metadata": {"ownerReferences": None}}),
        first=by_admin(patch("a", {"metadata": OWNED})),
    ),
    Case(OPERATOR, "makes a VM", BY_RBAC, create("new", nodeName="node-a"), ("create", '"virtualmachines"')),
    Case(OPERATOR, "deletes a VM", BY_RBAC, delete("a"), ("delete", '"virtualmachines"')),
    *(
        Case(who, f"reads Events of {group or 'the core'}", ALLOWED, get(path), first=told("a", "node-a"), reads=True)
        for who in (VM_VIEWER, OPERATOR, VM_ADMIN)
        for group, path in TOLD.items()
    ),
    Case(OPERATOR, "tells an Event", BY_RBAC, tell("a", "node-a"), ("create", '"events"')),
    Case(VM_VIEWER, "switches a VM", BY_RBAC, spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(OPERATOR, "writes a status", BY_RBAC, report("a"), ("patch", '"virtualmachines/status"')),
    Case(
        OPERATOR,
        "switches a VM of another team",
        BY_RBAC,
        patch("a", {"spec": {"powerState": "Stopped"}}, namespace=OTHER_TEAM),
        ("patch", '"virtualmachines"', OTHER_TEAM),
    ),
    Case(AUTHOR, "makes a VM that names no node and no domain", BIND, create("new"), ("create", "bind", TEAM)),
    Case(AUTHOR, "switches a VM", ALLOWED, spec("a", powerState="Stopped")),
    Case(AUTHOR, "makes a VM of a node", BIND, create("new", nodeName="node-a"), ("bind", TEAM)),
    Case(AUTHOR, "makes a VM of a domain", BIND, create("new", domain={"name": "payroll"}), ("bind", TEAM)),
    Case(AUTHOR, "takes a VM off its node", BIND, spec("a", nodeName=None), ("bind", TEAM)),
    Case(VM_ADMIN, "makes a VM of a node", ALLOWED, create("new", nodeName="node-a", domain={"name": "payroll"})),
    Case(VM_ADMIN, "gives a VM to another node", ALLOWED, spec("a", nodeName="node-b")),
    Case(VM_ADMIN, "takes another domain", ALLOWED, spec("a", domain={"name": "payroll"})),
    Case(VM_ADMIN, "deletes a VM", ALLOWED, delete("a")),
    Case(VM_ADMIN, "adds an owner to a VM", ALLOWED, patch("a", {"metadata": OWNED})),
    Case(VM_ADMIN, "adds a finalizer to a VM", ALLOWED, patch("a", {"metadata": KEPT})),
    Case(VM_ADMIN, "writes a status", BY_RBAC, report("a"), ("patch", '"virtualmachines/status"')),
    Case(
        VM_ADMIN,
        "makes a VM for another team",
        BY_RBAC,
        create("new", namespace=OTHER_TEAM, nodeName="node-a"),
        ("create", '"virtualmachines"', OTHER_TEAM),
    ),
    Case(VIEWER, "reads a VM", ALLOWED, get(lambda s: s.vm("a")), reads=True),
    Case(VIEWER, "switches a VM", BY_RBAC, spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(EDITOR, "reads a VM", ALLOWED, get(lambda s: s.vm("a")), reads=True),
    Case(EDITOR, "switches a VM", BY_RBAC, spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(EDITOR, "makes a VM", BY_RBAC, create("new", nodeName="node-a"), ("create", '"virtualmachines"')),
    Case(OWNER, "switches a VM", BY_RBAC, spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(OWNER, "lets everybody view", ALLOWED, bind_role("view")),
    Case(OWNER, "makes everybody a vm-operator", BY_RBAC, bind_role(OPERATOR), ("not currently held",)),
    Case(OWNER, "makes everybody a vm-admin", BY_RBAC, bind_role(VM_ADMIN), ("not currently held", "bind")),
    Case(NOBODY, "reads a VM", BY_RBAC, get(lambda s: s.vm("a")), ("get", '"virtualmachines"')),
    Case(STATUS_WRITER, "writes a status", "virtsync-status", report("a"), ("names no node", "node node-a")),
    Case(NARROW, "writes the status of a VM of node-a", "virtsync-status", report("a"), ("in all namespaces",)),
    Case(ROOT, "writes a status", ALLOWED, report("a")),
)

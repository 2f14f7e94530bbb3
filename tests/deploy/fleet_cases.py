"""More cases of the matrix: Hypervisors, and the manager."""

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.deploy.callers import AGENTS, REPOSITORY, Json, Request
from tests.deploy.cases import (
    COPY,
    EVENT,
    LEASE,
    OPERATOR,
    OWNER,
    OWNER_ADDED,
    REMEMBERED,
    ROOT,
    UNBOUND,
    VIEWER,
    VM_ADMIN,
    ZEALOUS,
    A,
    B,
    what,
)
from tests.deploy.stage import (
    ADORNMENTS,
    ALLOWED,
    BY_RBAC,
    EVENTS,
    HOSTS,
    IGNORED,
    KEPT,
    LEASES,
    NODE_LEASES,
    OWNED,
    STATUS,
    TEAM,
    VMS,
    Case,
    Stage,
    by_admin,
    condition,
    create,
    create_host,
    delete,
    delete_host,
    get,
    lease_path,
    patch,
    patch_host,
    renew_lease,
    report,
    report_host,
    spec,
    take_lease,
    tell,
    tell_of_host,
    tell_tied,
    told,
    with_lease,
)

NAMESAKE = "agent of a node with the name of the manager's Lease"
MANAGER = "manager"
ZEALOUS_MANAGER = "manager, made cluster-admin"
HOST_ADMIN, HOST_KEEPER = "virtsync-host-admin", "update of Hypervisors, no delete"
COLLECTOR = "garbage collector of Kubernetes"

HOST, HOST_DELETE = "virtsync-agent-hypervisor", "virtsync-hypervisor-delete"
MANAGED_VM, MANAGED_HOST = "virtsync-manager-vm", "virtsync-manager-hypervisor"
MANAGED_LEASE, MANAGED_EVENT = "virtsync-manager-lease", "virtsync-manager-events"

LEADER = "virtsync-manager"
MAINTENANCE = {"maintenance": {"mode": "Hold", "reason": "new RAM"}}
ELSEWHERE = [{"uuid": "00000000-0000-0000-0000-000000000001", "nodeName": "node-b"}]
UNMANAGED = {"uuid": ELSEWHERE[0]["uuid"], "name": "x" * 64, "powerState": "Running", "reason": "BOOTED"}
IN_SYNC = condition("Ready", "True", "InSync")
ACTIVE = condition("Ready", "True", "Active")
QUIESCED = condition("Quiesced", "True", "Quiet")
UNREACHABLE = condition("Ready", "Unknown", "AgentUnreachable")
QUIET_UNKNOWN = condition("Quiesced", "Unknown", "AgentUnreachable")
SIGNED = {"reportingController": "virtsync.dev/manager", "reportingInstance": "virtsync-manager-0"}

TIED = ("the manager", "finalizers", "owners")

HOST_LEFT = by_admin(delete_host("a"))
IN_MAINTENANCE = by_admin(patch_host("a", {"spec": MAINTENANCE}))
BEING_DELETED = by_admin(patch_host("a", {"metadata": KEPT}), delete_host("a"))
VM_REPORTED = by_admin(
    report("a", {"status": {"conditions": [IN_SYNC, condition("Reconciling", "True", "Starting")]} | STATUS["status"]})
)
HOST_REPORTED = by_admin(report_host("a", conditions=[ACTIVE, QUIESCED], agentVersion="1", runsElsewhere=ELSEWHERE))


def _mark(which: str, *conditions: Json) -> Callable[[Stage], Request]:
    return report(which, {"status": {"conditions": list(conditions)}})


def _manager_tells(which: str = "a", **changes: Any) -> Callable[[Stage], Request]:
    return tell(which, "", **SIGNED | changes)


def _all_hosts(_stage: Stage) -> Request:
    return Request("DELETE", HOSTS)


AGENTS_AND_HOSTS = (
    Case(A, "reads its Hypervisor", ALLOWED, get(lambda s: s.host("a")), reads=True),
    Case(
        A,
        "watches its Hypervisor",
        ALLOWED,
        get(f"{HOSTS}?fieldSelector=metadata.name%3Dnode-a&watch=1&timeoutSeconds=1"),
        reads=True,
    ),
    Case(A, "creates its Hypervisor", ALLOWED, create_host("node-a"), first=HOST_LEFT),
    Case(A, "writes the status of its Hypervisor", ALLOWED, report_host("a", agentVersion="1")),
    Case(
        A,
        "writes the status of its Hypervisor, which has a list of VMs that run elsewhere",
        ALLOWED,
        report_host("a", agentVersion="2", conditions=[ACTIVE]),
        first=HOST_REPORTED,
    ),
    Case(A, "writes an Event about its Hypervisor", ALLOWED, tell_of_host("node-a")),
    # What cannot be refused: see docs/security.md.
    Case(A, "reads the Hypervisor of node-b", ALLOWED, get(lambda s: s.host("b")), reads=True),
    Case(
        A,
        "writes the status of the Hypervisor of node-b",
        "virtsync-status",
        report_host("b", agentVersion="1"),
        ("node node-a", "Hypervisor node-b"),
    ),
    Case(
        B,
        "takes a VM out of the list of those that run elsewhere",
        HOST,
        report_host("b", runsElsewhere=[]),
        ("of node node-b", "runsElsewhere"),
        first=by_admin(report_host("b", runsElsewhere=ELSEWHERE)),
    ),
    Case(
        B,
        "puts a VM into the list of those that run elsewhere",
        HOST,
        report_host("b", runsElsewhere=ELSEWHERE),
        ("of node node-b", "runsElsewhere"),
    ),
    Case(A, "says that it has a Lease", ALLOWED, report_host("a", leaseNamespace=AGENTS)),
    Case(
        A,
        "says that it has no Lease",
        ALLOWED,
        report_host("a", leaseNamespace=""),
        first=by_admin(report_host("a", leaseNamespace=AGENTS)),
    ),
    Case(
        A,
        "says that it has its Lease in another namespace",
        HOST,
        report_host("a", leaseNamespace=TEAM),
        ("of node node-a", f"namespace {TEAM}"),
    ),
    Case(
        A,
        "creates the Hypervisor of node-b",
        HOST,
        create_host("node-b"),
        ("of node node-a",),
        first=by_admin(delete_host("b")),
    ),
    Case(A, "creates a Hypervisor of any other name", HOST, create_host("node-c"), ("of node node-a",)),
    Case(A, "creates its Hypervisor in maintenance", HOST, create_host("node-a", MAINTENANCE), first=HOST_LEFT),
    *(
        Case(
            A,
            f"creates its Hypervisor with {field}",
            HOST,
            create_host("node-a", **{field: value}),
            ("of node node-a", field.removesuffix("References")),
            first=HOST_LEFT,
        )
        for field, value in ADORNMENTS.items()
    ),
    Case(
        A,
        "declares a maintenance along with a status",
        IGNORED,
        lambda s: Request("PATCH", s.host("a", status=True), {"spec": MAINTENANCE}),
    ),
    Case(A, "declares a maintenance", BY_RBAC, patch_host("a", {"spec": MAINTENANCE}), ("patch", '"hypervisors"')),
    Case(A, "deletes its Hypervisor", BY_RBAC, delete_host("a"), ("delete", '"hypervisors"')),
    Case(A, "deletes all Hypervisors", BY_RBAC, _all_hosts, ("deletecollection", '"hypervisors"')),
    Case(A, "writes an Event about the Hypervisor of node-b", EVENT, tell_of_host("node-b"), ("of node node-a",)),
    Case(A, "takes the Lease of the manager", LEASE, take_lease(LEADER), ("of node node-a", LEADER)),
    Case(NAMESAKE, "takes the Lease of the manager", LEASE, take_lease(LEADER), ("of node virtsync-manager", LEADER)),
    Case(UNBOUND, "creates a Hypervisor", HOST, create_host("node-a"), ("of no node",), first=HOST_LEFT),
    Case(
        UNBOUND,
        "writes the status of a Hypervisor",
        "virtsync-status",
        report_host("a", agentVersion="1"),
        ("names no node", "Hypervisor node-a"),
    ),
    # With every right there is, by the policies alone.
    Case(
        ZEALOUS,
        "writes the status of the Hypervisor of node-b",
        "virtsync-status",
        report_host("b", agentVersion="1"),
        ("node node-a", "Hypervisor node-b"),
    ),
    Case(ZEALOUS, "declares a maintenance", HOST, patch_host("a", {"spec": MAINTENANCE}), ("of node node-a",)),
    Case(
        ZEALOUS,
        "ends a maintenance",
        HOST,
        patch_host("a", {"spec": {"maintenance": None}}),
        ("of node node-a",),
        first=IN_MAINTENANCE,
    ),
    Case(ZEALOUS, "deletes its Hypervisor", HOST, delete_host("a"), ("of node node-a",)),
    Case(ZEALOUS, "deletes all Hypervisors", HOST, _all_hosts, ("of node node-a",)),
    Case(COPY, "writes the status of its Hypervisor", ALLOWED, report_host("a", agentVersion="1")),
    Case(
        COPY,
        "writes the status of the Hypervisor of node-b",
        "virtsync-status",
        report_host("b", agentVersion="1"),
        ("node node-a", "Hypervisor node-b"),
    ),
)

USERS_AND_HOSTS = (
    Case(HOST_ADMIN, "reads a Hypervisor", ALLOWED, get(lambda s: s.host("a")), reads=True),
    Case(HOST_ADMIN, "declares a maintenance", ALLOWED, patch_host("a", {"spec": MAINTENANCE})),
    Case(
        HOST_ADMIN,
        "ends a maintenance",
        ALLOWED,
        patch_host("a", {"spec": {"maintenance": None}}),
        first=IN_MAINTENANCE,
    ),
    Case(HOST_ADMIN, "deletes a Hypervisor", ALLOWED, delete_host("a")),
    *(
        case
        for what, metadata in {"an owner": OWNED, "a finalizer": KEPT}.items()
        for case in (
            Case(HOST_ADMIN, f"adds {what} to a Hypervisor", ALLOWED, patch_host("a", {"metadata": metadata})),
            Case(
                HOST_KEEPER,
                f"adds {what} to a Hypervisor",
                OWNER_ADDED,
                patch_host("a", {"metadata": metadata}),
                ("node-a", "`delete` hypervisors"),
            ),
        )
    ),
    Case(
        HOST_ADMIN,
        "deletes a Hypervisor in maintenance",
        HOST_DELETE,
        delete_host("a"),
        ("node-a is in maintenance (new RAM)", "remove spec.maintenance"),
        first=IN_MAINTENANCE,
    ),
    Case(
        HOST_ADMIN,
        "declares a maintenance of a Hypervisor that is being deleted",
        HOST_DELETE,
        patch_host("a", {"spec": MAINTENANCE}),
        ("node-a is being deleted",),
        first=BEING_DELETED,
    ),
    Case(
        HOST_ADMIN,
        "removes the finalizer of a Hypervisor that is being deleted",
        ALLOWED,
        patch_host("a", {"metadata": {"finalizers": None}}),
        first=BEING_DELETED,
    ),
    Case(
        HOST_ADMIN,
        "changes a maintenance",
        ALLOWED,
        patch_host("a", {"spec": {"maintenance": {"mode": "Shutdown"}}}),
        first=IN_MAINTENANCE,
    ),
    Case(
        MANAGER,
        "marks a Hypervisor that is being deleted",
        ALLOWED,
        report_host("a", conditions=[UNREACHABLE]),
        first=BEING_DELETED,
    ),
    Case(COLLECTOR, "deletes a Hypervisor", ALLOWED, delete_host("a")),
    Case(COLLECTOR, "deletes a Hypervisor in maintenance", HOST_DELETE, delete_host("a"), first=IN_MAINTENANCE),
    Case(HOST_ADMIN, "writes a status", BY_RBAC, report_host("a", agentVersion="1"), ("patch", '"hypervisors/status"')),
    Case(HOST_ADMIN, "reads a VM", BY_RBAC, get(lambda s: s.vm("a")), ("get", '"virtualmachines"')),
    *(
        Case(who, "reads a Hypervisor", BY_RBAC, get(lambda s: s.host("a")), ("get", '"hypervisors"'))
        for who in (VIEWER, OWNER, OPERATOR, VM_ADMIN)
    ),
    Case(VM_ADMIN, "declares a maintenance", BY_RBAC, patch_host("a", {"spec": MAINTENANCE}), ("patch",)),
    Case(ROOT, "deletes a Hypervisor in maintenance", HOST_DELETE, delete_host("a"), ("node-a",), first=IN_MAINTENANCE),
    Case(
        ROOT, "deletes all Hypervisors, one in maintenance", HOST_DELETE, _all_hosts, ("node-a",), first=IN_MAINTENANCE
    ),
    Case(ROOT, "writes the status of a Hypervisor", ALLOWED, report_host("a", agentVersion="1")),
)

MANAGERS = (
    # What a manager does all day.
    Case(MANAGER, "lists VMs", ALLOWED, get(f"{VMS}/virtualmachines"), reads=True),
    Case(MANAGER, "watches Hypervisors", ALLOWED, get(f"{HOSTS}?watch=1&timeoutSeconds=1"), reads=True),
    Case(MANAGER, "lists Leases", ALLOWED, get(f"{LEASES}/namespaces/{AGENTS}/leases"), reads=True),
    Case(MANAGER, "takes its Lease", ALLOWED, take_lease(LEADER)),
    Case(MANAGER, "renews its Lease", ALLOWED, renew_lease(LEADER), first=with_lease(LEADER)),
    Case(MANAGER, "marks a VM", ALLOWED, _mark("a", UNREACHABLE), first=VM_REPORTED),
    Case(MANAGER, "marks a VM that another node has observed", ALLOWED, _mark("a", UNREACHABLE), first=REMEMBERED),
    Case(
        MANAGER,
        "marks a VM of no node",
        ALLOWED,
        _mark("free", condition("Ready", "Unknown", "Pending")),
        first=by_admin(_mark("free", IN_SYNC)),
    ),
    Case(MANAGER, "marks a Hypervisor", ALLOWED, report_host("a", conditions=[UNREACHABLE])),
    Case(
        MANAGER,
        "marks a Hypervisor that is quiet",
        ALLOWED,
        report_host("a", conditions=[UNREACHABLE, QUIESCED]),
        first=HOST_REPORTED,
    ),
    Case(
        MANAGER,
        "marks a Hypervisor with as many domains as a status can have",
        ALLOWED,
        report_host("a", conditions=[UNREACHABLE], runsElsewhere=ELSEWHERE * 512),
        first=by_admin(report_host("a", unmanaged={"domains": [UNMANAGED] * 512}, runsElsewhere=ELSEWHERE * 511)),
    ),
    Case(
        MANAGER,
        "marks a Hypervisor in maintenance",
        ALLOWED,
        report_host("a", conditions=[UNREACHABLE, QUIET_UNKNOWN]),
        first=HOST_REPORTED,
    ),
    Case(MANAGER, "lists a VM as running elsewhere", ALLOWED, report_host("a", runsElsewhere=ELSEWHERE)),
    Case(
        MANAGER,
        "takes a VM out of that list",
        ALLOWED,
        report_host("a", runsElsewhere=[]),
        first=HOST_REPORTED,
    ),
    Case(MANAGER, "writes an Event about a VM", ALLOWED, _manager_tells()),
    Case(MANAGER, "writes an Event about a Hypervisor", ALLOWED, tell_of_host("node-a", **SIGNED)),
    # Reports that are not the manager's.
    *(
        Case(MANAGER, what, MANAGED_VM, _mark("a", *conditions), ("Ready=Unknown",), first=VM_REPORTED)
        for what, conditions in {
            "reports a VM as in sync": (condition("Ready", "True", "Pending"),),
            "reports a VM as not in sync": (condition("Ready", "False", "AgentUnreachable"),),
            "reports that libvirt of a VM does not answer": (condition("Ready", "Unknown", "LibvirtUnreachable"),),
            "leaves a condition of the agent beside the mark": (
                UNREACHABLE,
                condition("Reconciling", "True", "Starting"),
            ),
            "takes all conditions from a VM": (),
        }.items()
    ),
    Case(
        MANAGER,
        "reports a Hypervisor as quiet or not that is in no maintenance",
        MANAGED_HOST,
        report_host("a", conditions=[UNREACHABLE, QUIET_UNKNOWN]),
        ("Ready",),
        first=by_admin(report_host("a", conditions=[ACTIVE], agentVersion="1")),
    ),
    *(
        Case(MANAGER, what, MANAGED_HOST, report_host("a", conditions=conditions), ("Ready",), first=HOST_REPORTED)
        for what, conditions in {
            "reports a Hypervisor as active": [condition("Ready", "True", "ObserveOnly"), QUIESCED],
            "reports that libvirt of a Hypervisor does not answer": [
                condition("Ready", "Unknown", "LibvirtUnreachable"),
                QUIESCED,
            ],
            "reports a Hypervisor as not quiet": [ACTIVE, condition("Quiesced", "False", "DomainsRunning")],
            "reports that libvirt of a quiet Hypervisor does not answer": [
                ACTIVE,
                condition("Quiesced", "Unknown", "LibvirtUnreachable"),
            ],
            "reports a Hypervisor as quiet itself": [
                ACTIVE,
                condition("Quiesced", "True", "AgentUnreachable"),
            ],
            "takes a condition from a Hypervisor": [UNREACHABLE],
            "adds a condition to a Hypervisor": [ACTIVE, QUIESCED, condition("Fenced", "True", "Fenced")],
        }.items()
    ),
    Case(
        MANAGER,
        "takes the power state from a VM",
        MANAGED_VM,
        report("a", {"status": {"powerState": None, "conditions": [UNREACHABLE]}}),
        ("nothing else",),
        first=VM_REPORTED,
    ),
    Case(
        MANAGER,
        "takes the version from a Hypervisor",
        MANAGED_HOST,
        report_host("a", agentVersion=None),
        ("nothing else",),
        first=HOST_REPORTED,
    ),
    *(
        case
        for metadata in (KEPT, OWNED)
        for case in (
            Case(
                MANAGER,
                f"takes its Lease with {what(metadata)}",
                MANAGED_LEASE,
                take_lease(LEADER, tied=metadata),
                TIED,
            ),
            Case(
                MANAGER,
                f"adds {what(metadata)} to its Lease",
                MANAGED_LEASE,
                renew_lease(LEADER, tied=metadata),
                TIED,
                first=with_lease(LEADER),
            ),
            Case(
                MANAGER,
                f"writes an Event with {what(metadata)}",
                MANAGED_EVENT,
                tell_tied("", metadata, **SIGNED),
                TIED,
            ),
        )
    ),
    Case(MANAGER, "takes the Lease of node-a", MANAGED_LEASE, take_lease("node-a"), (f"{AGENTS}/node-a",)),
    Case(
        MANAGER,
        "renews the Lease of node-a",
        MANAGED_LEASE,
        renew_lease("node-a"),
        (f"{AGENTS}/node-a",),
        first=with_lease("node-a"),
    ),
    Case(MANAGER, "writes an Event as an agent", MANAGED_EVENT, tell("a", "node-a"), ("virtsync.dev/manager",)),
    Case(
        MANAGER,
        "writes an Event about a Pod",
        MANAGED_EVENT,
        _manager_tells(regarding={"apiVersion": "v1", "kind": "Pod", "namespace": TEAM, "name": "web"}),
        ("VirtualMachines and Hypervisors",),
    ),
    Case(
        MANAGER,
        "changes an Event of an agent",
        MANAGED_EVENT,
        lambda s: Request(
            "PATCH",
            f"{EVENTS}/namespaces/{TEAM}/events/{s.name('a')}.1",
            {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}},
        ),
        ("virtsync.dev/manager",),
        first=told("a", "node-a"),
    ),
    # Everything else, of VMs, hosts and the cluster.
    Case(
        MANAGER,
        "switches a VM along with a mark",
        IGNORED,
        report("a", {"spec": {"powerState": "Stopped"}, "status": {"conditions": [UNREACHABLE]}}),
        first=by_admin(_mark("a", UNREACHABLE)),
    ),
    Case(MANAGER, "switches a VM", BY_RBAC, spec("a", powerState="Stopped"), ("patch", '"virtualmachines"')),
    Case(MANAGER, "creates a VM", BY_RBAC, create("new"), ("create", '"virtualmachines"')),
    Case(MANAGER, "deletes a VM", BY_RBAC, delete("a"), ("delete", '"virtualmachines"')),
    Case(
        MANAGER, "declares a maintenance", BY_RBAC, patch_host("a", {"spec": MAINTENANCE}), ("patch", '"hypervisors"')
    ),
    Case(MANAGER, "creates a Hypervisor", BY_RBAC, create_host("node-c"), ("create", '"hypervisors"')),
    Case(MANAGER, "deletes a Hypervisor", BY_RBAC, delete_host("a"), ("delete", '"hypervisors"')),
    Case(
        MANAGER,
        "deletes the Lease of node-a",
        BY_RBAC,
        lambda _s: Request("DELETE", lease_path("node-a")),
        ("delete", '"leases"'),
        first=with_lease("node-a"),
    ),
    Case(
        MANAGER,
        "takes a Lease in the nodes' own namespace",
        BY_RBAC,
        take_lease(LEADER, NODE_LEASES),
        ("create", '"leases"', NODE_LEASES),
    ),
    Case(MANAGER, "reads Secrets", BY_RBAC, get(f"/api/v1/namespaces/{AGENTS}/secrets"), ("list", '"secrets"')),
    Case(MANAGER, "reads Nodes", BY_RBAC, get("/api/v1/nodes"), ("list", '"nodes"')),
    # With every right there is, by the policies alone.
    *(
        Case(ZEALOUS_MANAGER, what, MANAGED_VM, request, ("nothing else",))
        for what, request in {
            "switches a VM": spec("a", powerState="Stopped"),
            "binds a VM": spec("free", nodeName="node-b"),
            "holds a VM": patch("a", {"metadata": {"annotations": {"hold.virtsync.dev/a": "me"}}}),
            "vouches for a VM": patch("a", {"metadata": {"annotations": {"virtsync.dev/confirmed-off": "node-a"}}}),
            "creates a VM": create("new", nodeName="node-a"),
            "deletes a VM": delete("a"),
        }.items()
    ),
    *(
        Case(ZEALOUS_MANAGER, what, MANAGED_HOST, request, ("nothing else",))
        for what, request in {
            "declares a maintenance": patch_host("a", {"spec": MAINTENANCE}),
            "creates a Hypervisor": create_host("node-c"),
            "deletes a Hypervisor": delete_host("a"),
        }.items()
    ),
    Case(
        ZEALOUS_MANAGER,
        "takes its Lease in another namespace",
        MANAGED_LEASE,
        take_lease(LEADER, NODE_LEASES),
        (f"{NODE_LEASES}/{LEADER}",),
    ),
    Case(
        ZEALOUS_MANAGER,
        "deletes the Lease of node-b",
        MANAGED_LEASE,
        lambda _s: Request("DELETE", lease_path("node-b", "zealous")),
        ("zealous/node-b",),
        first=with_lease("node-b", "zealous"),
    ),
)


def _sample(schema: Json) -> Any:
    """A value that a schema of the status accepts, and that no object of a case has."""
    match schema:
        case {"format": "date-time"}:
            return "2026-01-01T00:00:00Z"
        case {"type": "string"}:
            return "Sample"
        case {"type": "integer"}:
            return 7
        case {"type": "boolean"}:
            return True
        case {"type": "array"}:
            return [_sample(schema["items"])]
        case _:
            return {name: _sample(it) for name, it in schema["properties"].items()}


def _of_each_field(resource: str, policy: str, *writable: str) -> Iterator[Case]:
    """A manager tries to write each field of a status, also those that later versions of the CRD add."""
    crd = yaml.safe_load((REPOSITORY / f"deploy/crds/virtsync.dev_{resource}.yaml").read_text())
    fields = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    for name, schema in fields.items():
        if name not in writable:
            value = _sample(schema)
            request = (
                report("a", {"status": {name: value}})
                if resource == "virtualmachines"
                else report_host("a", **{name: value})
            )
            yield Case(MANAGER, f"writes status.{name} of {resource}", policy, request, ("nothing else",))


CASES = (
    *AGENTS_AND_HOSTS,
    *USERS_AND_HOSTS,
    *MANAGERS,
    *_of_each_field("virtualmachines", MANAGED_VM, "conditions"),
    *_of_each_field("hypervisors", MANAGED_HOST, "conditions", "runsElsewhere"),
)

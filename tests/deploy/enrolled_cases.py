"""More cases of the matrix: hosts that are not nodes, each with a ServiceAccount of its own."""

from collections.abc import Callable
from typing import Any

from tests.deploy.callers import AGENTS, Json, Request
from tests.deploy.cases import EVENT, LEASE, SPEC, STALE
from tests.deploy.fleet_cases import ELSEWHERE, HOST, MAINTENANCE
from tests.deploy.stage import (
    ADORNMENTS,
    ALLOWED,
    BY_RBAC,
    FORGERIES,
    HOSTS,
    NODE_LEASES,
    RBAC,
    UNKNOWN,
    VMS,
    Case,
    Stage,
    by_admin,
    create,
    create_host,
    delete,
    get,
    hand_over,
    lease_path,
    observed_by,
    renew_lease,
    report,
    report_host,
    spec,
    take_lease,
    tell,
    tell_about,
    tell_of_host,
    with_lease,
)

NAME, ACCOUNT = "kvm-a", "virtsync-agent.kvm-a"
"""An enrolled host, of which there is no Node, and its ServiceAccount."""
ENROLLED = "agent of the enrolled host kvm-a"
ZEALOUS_HOST = "agent of the enrolled host kvm-a, made cluster-admin"
OF_A_NODE = "agent of the enrolled host kvm-a, token bound to node-b"
REVOKED = "agent of a revoked host"
TWIN = "account with the name of kvm-a's in another namespace"
HOST_IMPERSONATOR = "somebody who impersonates the agent of kvm-a"

TOKENS = "virtsync-agent-token"
STATUS = "virtsync-status"
MONTH_S = 30 * 24 * 3600
OWN_VM = hand_over("a", NAME)
REMEMBERED = by_admin(report("a", observed_by("node-b")), spec("a", nodeName=NAME))
REPORTED = by_admin(create_host(NAME))
LISTED = f"{VMS}/virtualmachines?fieldSelector=spec.nodeName%3D{NAME}"


def _token(account: str = ACCOUNT, *, seconds: int = MONTH_S, **more: Any) -> Callable[[Stage], Request]:
    body: Json = {"spec": {"expirationSeconds": seconds, **more}}
    return lambda _s: Request("POST", f"/api/v1/namespaces/{AGENTS}/serviceaccounts/{account}/token", body)


def _report_host(**status: Any) -> Callable[[Stage], Request]:
    return lambda _s: Request("PATCH", f"{HOSTS}/{NAME}/status", {"status": status})


def _handed_over(stage: Stage) -> None:
    OWN_VM(stage)
    hand_over("a", "node-b")(stage)


def _bound(kind: str, name: str) -> Json:
    return {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}}


CASES = (
    Case(ENROLLED, "lists the VMs of its host", ALLOWED, get(LISTED), reads=True),
    Case(ENROLLED, "watches them", ALLOWED, get(f"{LISTED}&watch=1&timeoutSeconds=1"), reads=True),
    Case(ENROLLED, "writes the status of its VM", ALLOWED, report("a"), first=OWN_VM),
    Case(ENROLLED, "creates its Hypervisor", ALLOWED, create_host(NAME)),
    Case(ENROLLED, "writes the status of its Hypervisor", ALLOWED, _report_host(agentVersion="1"), first=REPORTED),
    Case(ENROLLED, "says that it has a Lease", ALLOWED, _report_host(leaseNamespace=AGENTS), first=REPORTED),
    Case(ENROLLED, "takes the Lease of its host", ALLOWED, take_lease(NAME)),
    Case(ENROLLED, "renews the Lease of its host", ALLOWED, renew_lease(NAME), first=with_lease(NAME)),
    Case(ENROLLED, "writes an Event about its VM", ALLOWED, tell("a", NAME)),
    Case(ENROLLED, "writes an Event about its Hypervisor", ALLOWED, tell_of_host(NAME, reportingInstance=NAME)),
    Case(ENROLLED, "requests its next token", ALLOWED, _token(), reads=True),
    # What cannot be refused: see docs/security.md.
    Case(ENROLLED, "reads a VM of node-b", ALLOWED, get(lambda s: s.vm("b")), reads=True),
    Case(ENROLLED, "reads the Hypervisor of node-b", ALLOWED, get(lambda s: s.host("b")), reads=True),
    # Other hosts and nodes.
    Case(ENROLLED, "writes the status of a VM of node-b", STATUS, report("b"), ("node kvm-a", "node node-b")),
    Case(ENROLLED, "writes the status of a VM of no node", STATUS, report("free"), ("node kvm-a", "of no node")),
    Case(
        ENROLLED,
        "writes the status of a VM that it has handed over",
        STATUS,
        report("a"),
        ("node kvm-a", "node node-b"),
        first=_handed_over,
    ),
    Case(
        ENROLLED,
        "reports as node-b",
        STATUS,
        report("a", observed_by("node-b")),
        ("node kvm-a", "node-b"),
        first=OWN_VM,
    ),
    *(
        Case(
            ENROLLED,
            f"changes status.{field} and keeps the name of node-b",
            STATUS,
            report("a", {"status": {field: forgery}}),
            ("node kvm-a", "node-b"),
            first=REMEMBERED,
        )
        for field, forgery in FORGERIES.items()
    ),
    Case(
        ENROLLED,
        "changes conditions and keeps the name of node-b",
        ALLOWED,
        report("a", {"status": STALE}),
        first=REMEMBERED,
    ),
    Case(ENROLLED, "reports as itself", ALLOWED, report("a", observed_by(NAME, **FORGERIES)), first=REMEMBERED),
    Case(
        ENROLLED,
        "writes the status of the Hypervisor of node-b",
        STATUS,
        report_host("b", agentVersion="1"),
        ("node kvm-a", "Hypervisor node-b"),
    ),
    Case(ENROLLED, "creates a Hypervisor of another name", HOST, create_host("kvm-b"), ("of node kvm-a",)),
    Case(ENROLLED, "creates its Hypervisor in maintenance", HOST, create_host(NAME, MAINTENANCE), ("of node kvm-a",)),
    *(
        Case(
            ENROLLED,
            f"creates its Hypervisor with {field}",
            HOST,
            create_host(NAME, **{field: value}),
            ("of node kvm-a", field.removesuffix("References")),
        )
        for field, value in ADORNMENTS.items()
    ),
    Case(
        ENROLLED,
        "writes which VMs run elsewhere",
        HOST,
        _report_host(runsElsewhere=ELSEWHERE),
        ("of node kvm-a", "runsElsewhere"),
        first=REPORTED,
    ),
    Case(
        ENROLLED,
        "says that it has its Lease in another namespace",
        HOST,
        _report_host(leaseNamespace=NODE_LEASES),
        ("of node kvm-a", f"namespace {NODE_LEASES}"),
        first=REPORTED,
    ),
    Case(ENROLLED, "takes the Lease of node-b", LEASE, take_lease("node-b"), ("of node kvm-a", f"{AGENTS}/node-b")),
    Case(ENROLLED, "takes the Lease of the manager", LEASE, take_lease("virtsync-manager"), ("of node kvm-a",)),
    Case(
        ENROLLED,
        "renews the Lease of node-b",
        LEASE,
        renew_lease("node-b"),
        ("of node kvm-a", f"{AGENTS}/node-b"),
        first=with_lease("node-b"),
    ),
    Case(ENROLLED, "writes an Event as node-b", EVENT, tell("b", "node-b"), ("of node kvm-a",)),
    Case(ENROLLED, "writes an Event about a Pod", EVENT, tell_about("v1", "Pod"), ("of node kvm-a",)),
    Case(
        ENROLLED,
        "writes an Event about the Hypervisor of node-b",
        EVENT,
        tell_of_host("node-b", reportingInstance=NAME),
        ("of node kvm-a",),
    ),
    # Tokens.
    Case(
        ENROLLED,
        "requests a token that names node-b",
        TOKENS,
        _token(**_bound("Node", "node-b")),
        ("of node kvm-a", "bound to an object"),
        reads=True,
    ),
    Case(
        ENROLLED,
        "requests a token that is valid for a year",
        TOKENS,
        _token(seconds=365 * 24 * 3600),
        ("of node kvm-a", "30 days"),
        reads=True,
    ),
    Case(
        ENROLLED,
        "requests a token that is valid for a second longer than 30 days",
        TOKENS,
        _token(seconds=MONTH_S + 1),
        ("of node kvm-a", "30 days"),
        reads=True,
    ),
    *(
        Case(
            ENROLLED, f"requests a token of {account}", BY_RBAC, _token(account), ("create", '"serviceaccounts/token"')
        )
        for account in ("virtsync-agent", "virtsync-manager", "virtsync-agent.kvm-b")
    ),
    Case(OF_A_NODE, "writes the status of its VM", ALLOWED, report("a"), first=OWN_VM),
    Case(OF_A_NODE, "writes the status of a VM of node-b", STATUS, report("b"), ("node kvm-a", "node node-b")),
    Case(
        OF_A_NODE,
        "reports as node-b",
        STATUS,
        report("a", observed_by("node-b")),
        ("node kvm-a", "node-b"),
        first=OWN_VM,
    ),
    Case(OF_A_NODE, "takes the Lease of node-b", LEASE, take_lease("node-b"), ("of node kvm-a", f"{AGENTS}/node-b")),
    # Everything else.
    Case(ENROLLED, "switches its VM by its spec", BY_RBAC, spec("a", powerState="Stopped"), ("patch",), first=OWN_VM),
    Case(ENROLLED, "takes a VM of node-b", BY_RBAC, spec("b", nodeName=NAME), ("patch", '"virtualmachines"')),
    Case(ENROLLED, "makes a VM", BY_RBAC, create("new", nodeName=NAME), ("create", '"virtualmachines"')),
    Case(ENROLLED, "deletes its VM", BY_RBAC, delete("a"), ("delete", '"virtualmachines"'), first=OWN_VM),
    Case(
        ENROLLED,
        "takes a Lease in the nodes' own namespace",
        BY_RBAC,
        take_lease(NAME, NODE_LEASES),
        ("create", '"leases"', NODE_LEASES),
    ),
    Case(
        ENROLLED,
        "deletes the Lease of its host",
        BY_RBAC,
        lambda _s: Request("DELETE", lease_path(NAME)),
        ("delete", '"leases"'),
        first=with_lease(NAME),
    ),
    Case(ENROLLED, "reads secrets", BY_RBAC, get(f"/api/v1/namespaces/{AGENTS}/secrets"), ("list", '"secrets"')),
    Case(
        ENROLLED,
        "widens its own Role",
        BY_RBAC,
        lambda _s: Request(
            "PATCH",
            f"{RBAC}/namespaces/{AGENTS}/roles/{ACCOUNT}",
            {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]},
        ),
        ("patch", '"roles"'),
    ),
    Case(
        ENROLLED,
        "enrolls another host",
        BY_RBAC,
        lambda _s: Request(
            "POST", f"/api/v1/namespaces/{AGENTS}/serviceaccounts", {"metadata": {"name": "virtsync-agent.kvm-b"}}
        ),
        ("create", '"serviceaccounts"'),
    ),
    Case(REVOKED, "reads a VM", UNKNOWN, get(lambda s: s.vm("a")), reads=True),
    Case(REVOKED, "requests a token", UNKNOWN, _token("virtsync-agent.kvm-gone"), reads=True),
    Case(HOST_IMPERSONATOR, "writes the status of its VM", STATUS, report("a"), ("names no node",), first=OWN_VM),
    Case(HOST_IMPERSONATOR, "takes the Lease", LEASE, take_lease(NAME), ("of no node", f"{AGENTS}/{NAME}")),
    Case(HOST_IMPERSONATOR, "writes an Event", EVENT, tell("a", NAME), ("of no node",)),
    Case(HOST_IMPERSONATOR, "creates its Hypervisor", HOST, create_host(NAME), ("of no node",)),
    Case(HOST_IMPERSONATOR, "requests a token", TOKENS, _token(), ("of no node", ACCOUNT), reads=True),
    Case(TWIN, "writes the status of a VM of kvm-a", STATUS, report("a"), ("in all namespaces",), first=OWN_VM),
    # Should somebody give it every right there is, the policies hold by themselves.
    Case(ZEALOUS_HOST, "writes the status of its VM", ALLOWED, report("a"), first=OWN_VM),
    Case(ZEALOUS_HOST, "writes the status of a VM of node-b", STATUS, report("b"), ("node kvm-a", "node node-b")),
    Case(ZEALOUS_HOST, "switches its VM by its spec", SPEC, spec("a", powerState="Stopped"), ("kvm-a",), first=OWN_VM),
    Case(ZEALOUS_HOST, "deletes its VM", SPEC, delete("a"), ("of node kvm-a",), first=OWN_VM),
    Case(
        ZEALOUS_HOST,
        "deletes the Lease of node-b",
        LEASE,
        lambda _s: Request("DELETE", lease_path("node-b", "zealous")),
        ("of node kvm-a", "zealous/node-b"),
        first=with_lease("node-b", "zealous"),
    ),
    Case(
        ZEALOUS_HOST,
        "requests a token of the manager",
        TOKENS,
        _token("virtsync-manager"),
        ("of node kvm-a", f"{AGENTS}/virtsync-manager"),
        reads=True,
    ),
    Case(
        ZEALOUS_HOST,
        "requests a token of the host of the same name in another namespace",
        TOKENS,
        _token(),
        ("of node kvm-a", f"{AGENTS}/{ACCOUNT}"),
        reads=True,
    ),
)

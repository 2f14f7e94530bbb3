"""Who may do what: real tokens, bound to Pods on two nodes or held by users, and everything they could try.

For each case the world is compared before and after. What a policy refuses is asked again with the policies gone, and
must then pass: so it is the policy that refuses, and the case could fail.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from controller.kube.hosts.enrollment import objects_of
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.manager import Manager
from lab.world import World, until
from tests.deploy.callers import AGENTS, REPOSITORY, Answer, Caller, Json, Request, pod_token, token
from tests.deploy.cases import (
    AUTHOR,
    COPY,
    EDITOR,
    GONE,
    IMPERSONATOR,
    NARROW,
    NEIGHBOUR,
    NOBODY,
    OPERATOR,
    OWNER,
    ROOT,
    STATUS_WRITER,
    UNBOUND,
    VIEWER,
    VM_ADMIN,
    VM_VIEWER,
    ZEALOUS,
    A,
    B,
)
from tests.deploy.cases import CASES as CASES_OF_VMS
from tests.deploy.enrolled_cases import (
    ACCOUNT,
    ENROLLED,
    HOST_IMPERSONATOR,
    NAME,
    OF_A_NODE,
    REVOKED,
    TWIN,
    ZEALOUS_HOST,
)
from tests.deploy.enrolled_cases import CASES as CASES_OF_ENROLLED_HOSTS
from tests.deploy.fleet_cases import (
    ACTIVE,
    COLLECTOR,
    ELSEWHERE,
    HOST_ADMIN,
    HOST_KEEPER,
    IN_SYNC,
    LEADER,
    MAINTENANCE,
    MANAGER,
    NAMESAKE,
    UNMANAGED,
    ZEALOUS_MANAGER,
)
from tests.deploy.fleet_cases import CASES as CASES_OF_THE_FLEET
from tests.deploy.stage import (
    ALLOWED,
    BY_RBAC,
    EVENTS,
    HOSTS,
    IGNORED,
    LEASES,
    OTHER_TEAM,
    OWNED,
    STATUS,
    TEAM,
    UNKNOWN,
    VMS,
    Case,
    Stage,
    event,
    host,
    lease,
    vm,
)

CASES = (*CASES_OF_VMS, *CASES_OF_THE_FLEET, *CASES_OF_ENROLLED_HOSTS)
POLICIES = (
    "virtsync-status",
    "virtsync-agent-spec",
    "virtsync-agent-hypervisor",
    "virtsync-agent-lease",
    "virtsync-agent-events",
    "virtsync-agent-token",
    "virtsync-bind",
    "virtsync-owner",
    "virtsync-hypervisor-delete",
    "virtsync-manager-vm",
    "virtsync-manager-hypervisor",
    "virtsync-manager-lease",
    "virtsync-manager-events",
)
NUMBERS = count()


@pytest.fixture(scope="module")
def cast(installed: ControlPlane) -> Iterator[dict[str, Caller]]:
    """Everybody, with a token."""
    for namespace in (TEAM, OTHER_TEAM, "zealous", "copy"):
        installed.kubectl("create", "namespace", namespace)
    _aggregate(installed)
    spec = _pod_spec(installed, "daemonset/virtsync-agent")
    tokens = {A: pod_token(installed, AGENTS, "virtsync-agent", "node-a", spec)}
    tokens[GONE] = pod_token(installed, AGENTS, "virtsync-agent", "node-gone", spec)
    installed.kubectl(
        "delete", "pod", "virtsync-agent-node-gone", f"--namespace={AGENTS}", "--force", "--grace-period=0"
    )
    tokens[B] = pod_token(installed, AGENTS, "virtsync-agent", "node-b", spec)
    tokens[NAMESAKE] = pod_token(installed, AGENTS, "virtsync-agent", "virtsync-manager", spec)
    tokens[UNBOUND] = token(installed, AGENTS, "virtsync-agent")
    spec = _pod_spec(installed, "deployment/virtsync-manager")
    tokens[MANAGER] = pod_token(installed, AGENTS, "virtsync-manager", "node-c", spec)
    _custom_role(installed, "host-keeper", ["hypervisors"], ["get", "update", "patch"])
    for who, namespace, account, role in (
        (ZEALOUS, "zealous", "virtsync-agent", "cluster-admin"),
        (ZEALOUS_MANAGER, "zealous", "virtsync-manager", "cluster-admin"),
        (HOST_ADMIN, TEAM, "host-admin", "virtsync-host-admin"),
        (HOST_KEEPER, TEAM, "host-keeper", "host-keeper"),
        (COPY, "copy", "acme-agent", "virtsync-agent"),
        (NEIGHBOUR, TEAM, "neighbour", "system:discovery"),
    ):
        installed.service_account(namespace, account, cluster_role=role)
        tokens[who] = pod_token(installed, namespace, account, "node-a")
    tokens |= _tokens_of_enrolled_hosts(installed)
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
            _bind(installed, account, role)
        tokens[who] = token(installed, TEAM, account)
    tokens[NARROW] = pod_token(installed, TEAM, "status-writer", "node-a")
    installed.kubectl("create", "serviceaccount", ACCOUNT, f"--namespace={TEAM}")
    _bind(installed, ACCOUNT, "status-writer")
    tokens[TWIN] = token(installed, TEAM, ACCOUNT)
    cast = {who: Caller(installed, it) for who, it in tokens.items()}
    name = f"system:serviceaccount:{AGENTS}:virtsync-agent"
    cast[ROOT] = Caller(installed, installed.token)
    cast[IMPERSONATOR] = Caller(installed, installed.token, {"Impersonate-User": name})
    name = f"system:serviceaccount:{AGENTS}:{ACCOUNT}"
    cast[HOST_IMPERSONATOR] = Caller(installed, installed.token, {"Impersonate-User": name})
    name = "system:serviceaccount:kube-system:generic-garbage-collector"
    cast[COLLECTOR] = Caller(installed, installed.token, {"Impersonate-User": name})
    with ExitStack() as ends:
        for caller in cast.values():
            ends.callback(caller.close)
        until(lambda: _in_force(cast) == set(POLICIES), "not all policies are in force")
        until(lambda: cast[REVOKED].ask(Request("GET", HOSTS)).code == 401, "the revoked host is still known")
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
    stage.do("POST", f"{EVENTS}/namespaces/{TEAM}/events", event("a", "node-a", regarding=about)(stage))
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
        # A token is no object.
        assert (stage.snapshot() != before) != case.reads


def test_the_matrix_is_as_large_as_it_says() -> None:
    by = {case.outcome for case in CASES}
    assert set(POLICIES) < by
    assert len(CASES) >= 300
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


@pytest.mark.usefixtures("cast")
def test_these_rights_are_enough_for_a_manager(installed: ControlPlane, stage: Stage, tmp_path: Path) -> None:
    """It leads, marks a silent node, its VMs, and a VM without a node, lists what runs elsewhere, and writes Events."""
    uuid = ELSEWHERE[0]["uuid"]
    reported = {"conditions": [IN_SYNC], "decidedReason": "InSync", "nodeName": "node-a", "domain": {"uuid": uuid}}
    for which in ("a", "free"):
        stage.do("PATCH", stage.vm(which, status=True), {"status": STATUS["status"] | reported})
    elsewhere = {"total": 1, "running": 1, "domains": [UNMANAGED]}
    host_status = {"conditions": [ACTIVE], "leaseNamespace": AGENTS}
    stage.do("PATCH", stage.host("a", status=True), {"status": host_status})
    stage.do("PATCH", stage.host("b", status=True), {"status": host_status | {"unmanaged": elsewhere}})
    silent = lease("node-a")
    silent["metadata"]["labels"] = {"app.kubernetes.io/component": "agent"}
    silent["spec"]["leaseDurationSeconds"] = 20
    stage.do("POST", f"{LEASES}/namespaces/{AGENTS}/leases", silent)
    kubeconfig = tmp_path / "kubeconfig"
    installed._write_kubeconfig(kubeconfig, pod_token(installed, AGENTS, "virtsync-manager", "node-d"))
    log = tmp_path / "manager.log"
    manager = Manager(installed, AGENTS, "its-uid", log=log, kubeconfig=kubeconfig)

    def status(path: str) -> Json:
        found: Json = stage.admin.ask(Request("GET", path)).body["status"]
        return found

    def ready(path: str) -> str:
        return " ".join(it["reason"] for it in status(path)["conditions"])

    def events() -> set[tuple[str, str]]:
        items = stage.admin.ask(Request("GET", f"{EVENTS}/events")).body["items"]
        return {(it["regarding"]["kind"], it["reason"]) for it in items}

    manager.start()
    until(lambda: _holder(installed, LEADER) == "its-uid", "the manager does not lead")
    until(lambda: ready(stage.host("a")) == "AgentUnreachable", "node-a is not marked", limit_s=120)
    until(lambda: ready(stage.vm("a")) == "AgentUnreachable", "its VM is not marked", limit_s=120)
    until(lambda: ready(stage.vm("free")) == "Pending", "the VM without a node is not marked", limit_s=120)
    until(lambda: "runsElsewhere" in status(stage.host("a")), "the VM is not listed as running elsewhere", limit_s=120)
    wanted = {("Hypervisor", "AgentUnreachable"), ("VirtualMachine", "RunsElsewhere")}
    until(lambda: wanted <= events(), "the Events are missing", limit_s=120)
    manager.stop()
    assert _holder(installed, LEADER) == ""
    assert "forbidden" not in log.read_text().lower()


def _tokens_of_enrolled_hosts(controlplane: ControlPlane) -> dict[str, str]:
    """Enroll hosts, of which there are no Nodes, and revoke one."""
    for name in (NAME, "kvm-b", "kvm-gone"):
        _enroll(controlplane, name)
    tokens = {
        ENROLLED: token(controlplane, AGENTS, ACCOUNT),
        OF_A_NODE: token(controlplane, AGENTS, ACCOUNT, "--bound-object-kind=Node", "--bound-object-name=node-b"),
        REVOKED: token(controlplane, AGENTS, "virtsync-agent.kvm-gone"),
    }
    controlplane.kubectl("delete", "serviceaccount", "virtsync-agent.kvm-gone", f"--namespace={AGENTS}")
    controlplane.service_account("zealous", ACCOUNT, cluster_role="cluster-admin")
    return tokens | {ZEALOUS_HOST: token(controlplane, "zealous", ACCOUNT)}


def _enroll(controlplane: ControlPlane, host: str) -> None:
    items = [place.manifest for place in objects_of(host, AGENTS)]
    controlplane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def _holder(controlplane: ControlPlane, node: str) -> str:
    words = ("get", "lease", node, f"--namespace={AGENTS}", "-o", "jsonpath={.spec.holderIdentity}")
    return controlplane.kubectl(*words).stdout


def _in_force(cast: dict[str, Caller]) -> set[str]:
    """The policies that refuse what they are to refuse, asked without a trace (dryRun)."""
    agent, zealous, free = cast[UNBOUND], cast[ZEALOUS_MANAGER], f"{VMS}/namespaces/{TEAM}/virtualmachines"
    leases, events = f"{LEASES}/namespaces/{AGENTS}/leases", f"{EVENTS}/namespaces/{TEAM}/events"
    stage = Stage(0, cast[ROOT])
    if not stage.admin.ask(Request("GET", f"{free}/probe")).granted:
        stage.do("POST", free, vm("probe", {"nodeName": "node-a"}))
    if not stage.admin.ask(Request("GET", f"{HOSTS}/probe")).granted:
        stage.do("POST", HOSTS, host("probe", MAINTENANCE))
    tries = {
        "virtsync-status": (agent, Request("PATCH", f"{free}/probe/status?dryRun=All", STATUS)),
        "virtsync-agent-spec": (cast[ZEALOUS], Request("DELETE", f"{free}/probe?dryRun=All")),
        "virtsync-agent-lease": (agent, Request("POST", f"{leases}?dryRun=All", lease("probe"))),
        "virtsync-agent-events": (agent, Request("POST", f"{events}?dryRun=All", event("x", "node-a")(stage))),
        "virtsync-agent-token": (
            cast[ZEALOUS_HOST],
            Request("POST", f"/api/v1/namespaces/{AGENTS}/serviceaccounts/virtsync-manager/token?dryRun=All", {}),
        ),
        "virtsync-bind": (cast[AUTHOR], Request("PATCH", f"{free}/probe?dryRun=All", {"spec": {"nodeName": "b"}})),
        "virtsync-owner": (cast[AUTHOR], Request("PATCH", f"{free}/probe?dryRun=All", {"metadata": OWNED})),
        "virtsync-agent-hypervisor": (agent, Request("POST", f"{HOSTS}?dryRun=All", host("new"))),
        "virtsync-hypervisor-delete": (cast[ROOT], Request("DELETE", f"{HOSTS}/probe?dryRun=All")),
        "virtsync-manager-vm": (zealous, Request("DELETE", f"{free}/probe?dryRun=All")),
        "virtsync-manager-hypervisor": (zealous, Request("POST", f"{HOSTS}?dryRun=All", host("new"))),
        "virtsync-manager-lease": (cast[MANAGER], Request("POST", f"{leases}?dryRun=All", lease("probe"))),
        "virtsync-manager-events": (
            cast[MANAGER],
            Request("POST", f"{events}?dryRun=All", event("x", "node-a")(stage)),
        ),
    }
    return {name for name, (who, request) in tries.items() if f"'{name}'" in who.ask(request).message}


def _verdict(outcome: str) -> str:
    return outcome if outcome in {ALLOWED, IGNORED, UNKNOWN} else f"refused by {outcome}"


def _why(answer: Answer) -> str:
    """What the API server says, without the names of what it was asked for and by which policy."""
    words = re.split(r"denied request: |is forbidden: ", answer.message)[-1]
    return "" if answer.granted else f" ({answer.code}): {' '.join(words.split())}"


def _pod_spec(controlplane: ControlPlane, workload: str) -> Json:
    """The spec of the Pods that the manifests install."""
    found: Json = json.loads(controlplane.kubectl("get", workload, f"--namespace={AGENTS}", "-o", "json").stdout)
    pod_spec: Json = found["spec"]["template"]["spec"]
    return pod_spec


def _bind(controlplane: ControlPlane, account: str, role: str) -> None:
    """Give a ServiceAccount of the team this role, in the namespace of the team."""
    words = (f"--clusterrole={role}", f"--serviceaccount={TEAM}:{account}", f"--namespace={TEAM}")
    controlplane.kubectl("create", "rolebinding", account, *words)


def _custom_role(controlplane: ControlPlane, name: str, resources: list[str], verbs: list[str]) -> None:
    named = (it.partition("/") for it in resources)
    resource = ",".join(f"{plural}.virtsync.dev{slash}{subresource}" for plural, slash, subresource in named)
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

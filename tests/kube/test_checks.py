"""What the checks of the API server say of clocks, Leases and rights."""

import json
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.hypervisor import HypervisorStatus
from controller.api.json_mapping import json_paths
from controller.api.virtualmachine import Status
from controller.kube.checks.access import SERVICE_ACCOUNT, User, grant
from controller.kube.checks.lease import Claimant, judge
from controller.kube.checks.rights import CLUSTER_RIGHTS, LEASE_RIGHTS, Right
from controller.kube.checks.server import CLOCK_LIMIT_S, ApiServer, check_clock
from controller.kube.lease_fields import LOCK
from controller.runtime.checks import State
from tests.api.documents import CRD, HYPERVISOR_CRD

RBAC = Path(__file__).parents[2] / "deploy/base/rbac.yaml"
OURS = Claimant("pod-uid", "boot 00:2a:7", lock_held=True)
STRANGER = Claimant(None, "other-boot 00:2a:7", lock_held=False)
CRASHED = Claimant(None, "boot 00:2a:7", lock_held=False)
TAKEN = "x; touch /tmp/taken"
NEVER, NOW, LONG_AGO = None, 3.0, 3600.0

Json = dict[str, Any]


@pytest.mark.parametrize("kind", ["ClusterRole", "Role"])
def test_the_rights_are_those_that_the_manifests_grant(kind: str) -> None:
    roles = [one for one in yaml.safe_load_all(RBAC.read_text()) if one["kind"] == kind]
    role = next(one for one in roles if one["metadata"]["name"] == "virtsync-agent")
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == _flat(CLUSTER_RIGHTS if kind == "ClusterRole" else LEASE_RIGHTS)


def _flat(rights: tuple[Right, ...]) -> set[tuple[str, str, str]]:
    return {(right.group, right.resource, verb) for right in rights for verb in right.verbs}


@pytest.mark.parametrize(("status", "crd"), [(Status, CRD), (HypervisorStatus, HYPERVISOR_CRD)])
def test_the_paths_of_a_status_are_in_its_definition(status: type, crd: Json) -> None:
    paths = list(json_paths(status))
    assert {"conditions", "conditions.lastTransitionTime"} < set(paths)
    for path in paths:
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        for key in path.split("."):
            schema = schema.get("items", schema)["properties"][key]


@pytest.mark.parametrize(
    ("ahead_s", "state", "detail"),
    [
        (0.4, State.OK, "as that of the API server, to 1 s"),
        (-3.0, State.OK, "3 s behind the API server"),
        (CLOCK_LIMIT_S, State.OK, "10 s ahead of the API server"),
        (-61.0, State.MISSING, "61 s behind the API server, more than 10 s"),
        (61.0, State.MISSING, "61 s ahead of the API server, more than 10 s"),
        (None, State.NOT_VISIBLE, "the API server, or a proxy before it, sends no date"),
    ],
)
def test_a_clock_is_compared_with_that_of_the_api_server(ahead_s: float | None, state: State, detail: str) -> None:
    finding = check_clock(ahead_s)
    assert (finding.state, finding.detail) == (state, detail)
    assert bool(finding.fix) is (state is State.MISSING)


def lease(holder: str, lock: str = "") -> Json:
    return {
        "metadata": {"annotations": {LOCK: lock} if lock else None},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40},
    }


@pytest.mark.parametrize(
    ("held", "claimant", "age_s", "state", "detail"),
    [
        (lease(""), OURS, LONG_AGO, State.OK, "is free"),
        (lease("pod-uid"), OURS, NOW, State.OK, "is held by this node's agent (pod-uid), renewed 3 s ago"),
        (lease("x", "x boot 00:2a:7"), CRASHED, NOW, State.OK, "is held by this node's agent (x), renewed 3 s ago"),
        (lease("x", "y boot 00:2a:7"), CRASHED, NOW, State.MISSING, "is held by another agent (x), renewed 3 s ago"),
        (lease("x", "x boot 00:2a:7"), STRANGER, NOW, State.MISSING, "is held by another agent (x), renewed 3 s ago"),
        (lease("x"), Claimant(None, "", lock_held=False), 39.9, State.MISSING, "is held by another agent (x)"),
        (lease("x"), OURS, -7.0, State.MISSING, "is held by another agent (x), renewed 0 s ago"),
        (lease("x"), OURS, 40.0, State.OK, "was left by x, renewed 40 s ago"),
        (lease("x"), OURS, NEVER, State.OK, "was left by x, never renewed"),
        (lease("pod-uid"), OURS, LONG_AGO, State.MISSING, "but renewed 3600 s ago: it does not work"),
        (lease("x", "x boot 00:2a:7"), CRASHED, LONG_AGO, State.OK, "the next agent takes it at once"),
    ],
)
def test_a_lease_is_ok_if_it_is_free_or_held_by_an_agent_of_this_host_that_renews_it(
    held: Json, claimant: Claimant, age_s: float | None, state: State, detail: str
) -> None:
    finding = judge(held, "virtsync-system/node-a", claimant, age_s)
    assert finding.state is state
    assert detail in finding.detail


def test_the_log_is_that_of_the_agent_of_this_node() -> None:
    held = lease("pod-uid")
    of_pod = judge(held, "virtsync-system/node-a", OURS, LONG_AGO).fix
    assert "-l app.kubernetes.io/component=agent --field-selector spec.nodeName=node-a)" in of_pod
    of_unit = judge(held, "virtsync-system/kvm-7", OURS, LONG_AGO, enrolled=True).fix
    assert of_unit.startswith("journalctl --unit virtsync-agent ")


def test_another_agent_of_an_enrolled_host_runs_in_no_pod() -> None:
    finding = judge(lease("x"), "virtsync-system/kvm-7", OURS, NOW, enrolled=True)
    assert finding.fix.startswith("systemctl stop virtsync-agent  # on the other machine with a kubeconfig of kvm-7")


class SomethingElse(BaseHTTPRequestHandler):
    """A web server that is no API server, and says 200 to everything."""

    text: bytes

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("text", [b"", b"<html>It works!</html>", b"{}", b'{"status": "ok"}', b"[]"])
def test_what_is_not_kubernetes_is_told_so(text: bytes, tmp_path: Path) -> None:
    """Such as a portal of a network, or the wrong port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Else", (SomethingElse,), {"text": text})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        finding = ApiServer(tmp_path / "kubeconfig", "node-a").check_server()
        server.shutdown()
    assert (finding.state, finding.detail) == (State.MISSING, f"{url} answered 200, and no version of Kubernetes")


@pytest.mark.parametrize("user", [User(TAKEN, ""), User(f"{SERVICE_ACCOUNT}{TAKEN}", ""), User("u", TAKEN, TAKEN)])
def test_the_name_of_a_user_cannot_put_a_command_into_the_fix(user: User) -> None:
    assert TAKEN in {word.rpartition("=")[2] for word in shlex.split(grant(user, None))}


def test_the_holder_of_a_lease_cannot_put_a_command_into_the_fix() -> None:
    finding = judge(lease("x'; touch /tmp/taken; '"), "virtsync-system/node-a", OURS, NOW)
    command, *_ = finding.fix.partition("  #")
    words = shlex.split(command)
    assert words[:4] == ["kubectl", "get", "pods", "-A"]
    assert len(words) == 6

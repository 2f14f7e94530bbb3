"""`virtsync check` on a real API server with virtsync installed, and a real libvirtd: it names what is missing.

The node, its Pod and its token are real objects; only the kubelet is not there. A command that fixes something in the
cluster is run as it is printed, and then nothing is missing.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from controller.agent.settings import Settings
from controller.cli.options import options_of
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.proxy import Proxy
from tests.chaos.relay import Relay
from tests.deploy.callers import AGENTS, REPOSITORY, pod_token, token

HANG_LIMIT_S = 120
OK, MISSING, NOT_VISIBLE = "ok", "missing", "not visible from here"

Json = dict[str, Any]


class Host:
    """A node with a libvirtd, and the check as somebody types it there."""

    def __init__(self, controlplane: ControlPlane, libvirtd: Libvirtd, node: str, folder: Path) -> None:
        self.controlplane, self.libvirtd, self.node, self.folder = controlplane, libvirtd, node, folder
        self.kubeconfig = self.kubeconfig_of(pod_token(controlplane, AGENTS, "virtsync-agent", node))

    def kubeconfig_of(self, bearer: str) -> Path:
        path = self.folder / f"kubeconfig-{uuid4()}"
        self.controlplane._write_kubeconfig(path, bearer)
        return path

    def run(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        flags = {
            "node-name": self.node,
            "libvirt-uri": self.libvirtd.uri,
            "kubeconfig": str(self.kubeconfig),
            "lease-namespace": AGENTS,
            "timeout": "60s",  # this machine may be busy
        } | {name.replace("_", "-"): value for name, value in changes.items()}
        named = [word for name, value in flags.items() for word in (f"--{name}", value)]
        known = {option.envvar for option in options_of(Settings)}
        return subprocess.run(
            [sys.executable, "-m", "controller", "check", *words, *named],
            capture_output=True,
            text=True,
            timeout=HANG_LIMIT_S,
            env={name: value for name, value in os.environ.items() if name not in known},
            check=False,
        )

    def check(self, **changes: str) -> dict[str, Json]:
        """The findings by name; the exit code must be what they say."""
        ended = self.run("--output", "json", **changes)
        assert ended.stderr == ""
        findings = {finding["name"]: finding for finding in json.loads(ended.stdout)}
        assert ended.returncode == (1 if missing(findings) else 0)
        assert [one for one in findings.values() if (one["state"] == MISSING) != bool(one.get("fix"))] == []
        return findings

    def fix(self, finding: Json) -> None:
        """Type the command that fixes this, as the administrator, in the folder of the repository."""
        env = os.environ | {
            "KUBECONFIG": str(self.controlplane.kubeconfig),
            "KUBECACHEDIR": str(self.folder),
            "PATH": f"{self.controlplane.assets}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-ec", finding["fix"]], env=env, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{finding}\n{done.stderr}"

    def lease(self, holder: str, renewed: datetime) -> None:
        """Write the Lease of the node as another agent does."""
        at = renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.node, "namespace": AGENTS},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": at},
        }
        self.controlplane.kubectl("apply", "-f", "-", input=json.dumps(lease))


def missing(findings: dict[str, Json]) -> list[str]:
    return [name for name, finding in findings.items() if finding["state"] == MISSING]


def until_none_is_missing(check: Callable[[], dict[str, Json]]) -> None:
    """A new definition is served a moment after it was applied."""
    deadline = time.monotonic() + HANG_LIMIT_S
    while lacking := missing(check()):
        assert time.monotonic() < deadline, lacking


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """One that tests may pause, and whose lock they may take."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


@pytest.fixture
def host(installed: ControlPlane, libvirtd: Libvirtd, request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:50].strip("-")
    return Host(installed, libvirtd, name, tmp_path)


def test_all_is_there_before_the_first_agent(host: Host) -> None:
    findings = host.check()
    assert {name: one["state"] for name, one in findings.items()} == dict.fromkeys(findings, OK)
    assert list(findings) == [
        "socket directory",
        "libvirt socket",
        "SELinux",
        "polkit",
        "libvirt",
        "host lock",
        "API server",
        "clock",
        "type virtualmachines",
        "type hypervisors",
        "node of the token",
        "rights: virtualmachines",
        "rights: virtualmachines/status",
        "rights: hypervisors",
        "rights: hypervisors/status",
        "rights: events",
        "rights: leases",
        "Lease",
        "Hypervisor",
    ]
    assert re.match(r"libvirt \d+\.\d+\.\d+, QEMU \d+\.\d+\.\d+, at qemu", findings["libvirt"]["detail"])
    assert re.match(r"Kubernetes v1\.\d+\.\d+ at https://127.0.0.1:\d+, as system:", findings["API server"]["detail"])


def test_it_writes_nothing(host: Host) -> None:
    paths = ["virtsync.dev/v1alpha1/hypervisors", "virtsync.dev/v1alpha1/virtualmachines"]
    paths += ["coordination.k8s.io/v1/leases", "events.k8s.io/v1/events", "rbac.authorization.k8s.io/v1/clusterroles"]

    def stored() -> list[list[Json]]:
        lists = [json.loads(host.controlplane.kubectl("get", "--raw", f"/apis/{path}").stdout) for path in paths]
        # The API server itself renews a Lease there.
        return [[one for one in of["items"] if one["metadata"].get("namespace") != "kube-system"] for of in lists]

    before, files = stored(), sorted(host.libvirtd.socket.parent.iterdir())
    assert missing(host.check()) == []
    assert stored() == before
    assert sorted(host.libvirtd.socket.parent.iterdir()) == files


def test_the_table_has_the_facts_of_the_json(host: Host) -> None:
    broken = {"libvirt_uri": "qemu+unix:///system?socket=/nonexistent/sock"}
    findings = host.check(**broken)
    table = host.run(**broken)
    assert table.returncode == 1
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["CHECK", "STATE", "DETAIL"]
    for name, finding in findings.items():
        row = next(number for number, line in enumerate(lines) if line.startswith(f"{name}  "))
        assert finding["state"] in lines[row]
        assert finding["detail"] in lines[row] or name == "clock"
        if "fix" in finding:
            assert lines[row + 1].strip() == f"fix: {finding['fix']}"
    assert lines[-1] == "1 missing: socket directory"


def test_what_a_running_agent_holds_is_ok(host: Host, tmp_path: Path) -> None:
    identity = str(uuid4())
    agent = Agent(
        host.controlplane,
        host.libvirtd.uri,
        host.node,
        log=tmp_path / "agent.log",
        settings={"lease-namespace": AGENTS, "identity": identity},
        kubeconfig=host.kubeconfig,
    )
    try:
        agent.start()
        in_its_pod, on_the_host = host.check(identity=identity), host.check()
    finally:
        agent.stop()
    for findings in (in_its_pod, on_the_host):
        assert missing(findings) == []
        assert findings["host lock"]["detail"].startswith(f"held by this node's agent: process {agent.pid} ")
        assert f"held by this node's agent ({identity}), renewed " in findings["Lease"]["detail"]


def test_a_socket_directory_that_is_not_there(host: Host) -> None:
    findings = host.check(libvirt_uri="qemu+unix:///system?socket=/nonexistent/sock")
    assert missing(findings) == ["socket directory"]
    assert findings["socket directory"]["detail"].startswith("/nonexistent does not exist")
    assert findings["socket directory"]["fix"].startswith("systemctl enable --now libvirtd")
    assert findings["libvirt"]["state"] == NOT_VISIBLE


def test_a_socket_that_is_not_there(host: Host, tmp_path: Path) -> None:
    findings = host.check(libvirt_uri=f"qemu+unix:///system?socket={tmp_path}/libvirt-sock")
    assert missing(findings) == ["libvirt socket"]
    assert findings["libvirt socket"]["detail"] == f"{tmp_path}/libvirt-sock: No such file or directory"
    assert findings["libvirt socket"]["fix"].startswith("systemctl enable --now libvirtd")


def test_a_host_lock_that_another_process_holds(host: Host) -> None:
    directory = host.libvirtd.socket.parent
    command = ["flock", "--no-fork", str(directory), "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin
        assert other.stdout
        other.stdin.write("locked\n")
        other.stdin.flush()
        assert other.stdout.readline() == "locked\n"
        findings = host.check()
        assert missing(findings) == ["host lock"]
        assert findings["host lock"]["detail"] == f"process {other.pid} (cat) holds the lock on {directory}"
        host.fix(findings["host lock"])
        assert other.wait(HANG_LIMIT_S) == -15
    assert missing(host.check()) == []


def test_a_definition_that_is_missing(host: Host) -> None:
    host.controlplane.kubectl("delete", "crd", "hypervisors.virtsync.dev", "--wait=true")
    try:
        findings = host.check()
    finally:
        host.controlplane.kubectl("apply", "-f", str(REPOSITORY / "deploy/crds"))
    assert missing(findings) == ["type hypervisors"]
    assert findings["type hypervisors"]["fix"] == "kubectl apply -f deploy/crds"
    assert findings["Hypervisor"]["state"] == NOT_VISIBLE
    host.fix(findings["type hypervisors"])
    until_none_is_missing(host.check)


def test_a_definition_that_is_older(host: Host) -> None:
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/decidedReason"
    remove = json.dumps([{"op": "remove", "path": path}])
    host.controlplane.kubectl("patch", "crd", "virtualmachines.virtsync.dev", "--type=json", "-p", remove)
    deadline = time.monotonic() + HANG_LIMIT_S
    while not missing(findings := host.check()):  # the schema is published a moment later
        assert time.monotonic() < deadline
    assert missing(findings) == ["type virtualmachines"]
    assert findings["type virtualmachines"]["detail"].endswith("it lacks status.decidedReason")
    host.fix(findings["type virtualmachines"])
    until_none_is_missing(host.check)


def test_a_token_without_a_right(host: Host) -> None:
    host.controlplane.kubectl("create", "serviceaccount", "stranger", f"--namespace={AGENTS}")
    host.kubeconfig = host.kubeconfig_of(pod_token(host.controlplane, AGENTS, "stranger", host.node))
    findings = host.check()
    lacking = [name for name in findings if name.startswith("rights: ")]
    assert missing(findings) == [*lacking, "Hypervisor"]
    assert findings["rights: hypervisors"]["detail"] == "not allowed: get, list, watch, create"
    assert findings["rights: leases"]["detail"] == f"not allowed in {AGENTS}: get, create, update"
    assert findings["Lease"]["state"] == NOT_VISIBLE
    host.fix(findings["rights: events"])
    host.fix(findings["rights: leases"])
    until_none_is_missing(host.check)


def test_one_verb_that_is_not_allowed_is_named(host: Host) -> None:
    rules = json.loads(host.controlplane.kubectl("get", "clusterrole", "virtsync-agent", "-o", "json").stdout)["rules"]
    index = next(number for number, rule in enumerate(rules) if rule["resources"] == ["events"])
    patch = json.dumps([{"op": "replace", "path": f"/rules/{index}/verbs", "value": ["create"]}])
    host.controlplane.kubectl("patch", "clusterrole", "virtsync-agent", "--type=json", "-p", patch)
    findings = host.check()
    assert missing(findings) == ["rights: events"]
    assert findings["rights: events"]["detail"] == "not allowed: patch"
    assert findings["rights: events"]["fix"] == "kubectl apply -f deploy/install.yaml"
    host.fix(findings["rights: events"])
    until_none_is_missing(host.check)


def test_a_token_that_names_no_node(host: Host) -> None:
    host.kubeconfig = host.kubeconfig_of(token(host.controlplane, AGENTS, "virtsync-agent"))
    findings = host.check()
    assert missing(findings) == ["node of the token"]
    assert "names no node" in findings["node of the token"]["detail"]
    host.fix(findings["node of the token"])
    until_none_is_missing(host.check)
    names = ("clusterrole/virtsync-agent-report", f"clusterrolebinding/virtsync-agent-report-{host.node}")
    host.controlplane.kubectl("delete", *names)


def test_a_token_of_another_node(host: Host) -> None:
    findings = host.check(node_name="node-of-another-name")
    assert missing(findings) == ["node of the token"]
    assert (
        f"is bound to {host.node}, and --node-name is node-of-another-name" in findings["node of the token"]["detail"]
    )


def test_a_lease_that_another_agent_renews(host: Host) -> None:
    host.lease("another-agent", datetime.now(UTC))
    findings = host.check()
    assert missing(findings) == ["Lease"]
    assert "is held by another agent (another-agent), renewed " in findings["Lease"]["detail"]
    assert findings["Lease"]["fix"].startswith("kubectl get pods -A ")
    host.fix(findings["Lease"])
    host.lease("another-agent", datetime.now(UTC) - timedelta(hours=1))
    findings = host.check()
    assert missing(findings) == []
    assert "was left by another-agent" in findings["Lease"]["detail"]


def test_a_clock_that_is_wrong(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def an_hour_ago(*_: object) -> str:
        return formatdate(time.time() - 3650, usegmt=True)

    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", an_hour_ago)
    with Relay(host.controlplane) as relay:
        host.kubeconfig = relay.kubeconfig()
        findings = host.check()
    assert missing(findings) == ["clock"]
    assert re.fullmatch(r"36\d\d s ahead of the API server, more than 10 s", findings["clock"]["detail"])
    assert findings["clock"]["fix"].startswith("timedatectl set-ntp true")


def test_a_maintenance_is_told_and_that_an_older_agent_does_not_obey_it(host: Host) -> None:
    hypervisor = {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "Hypervisor",
        "metadata": {"name": host.node},
        "spec": {"maintenance": {"mode": "Hold", "reason": "new RAM"}},
    }
    host.controlplane.kubectl("create", "-f", "-", input=json.dumps(hypervisor))
    findings = host.check()
    assert missing(findings) == []
    maintenance, _, warning = findings["Hypervisor"]["detail"].rpartition("; ")
    assert maintenance.endswith("Hold (new RAM)")
    assert (
        warning == "versions without the Hypervisor ignore the maintenance, so end it before you go back to one of them"
    )


def test_a_kubeconfig_that_is_refused(host: Host) -> None:
    host.kubeconfig = host.kubeconfig_of("no-token-of-anybody")
    findings = host.check()
    assert missing(findings) == ["API server"]
    assert findings["API server"]["detail"].endswith("does not accept the credentials (401)")


def test_an_api_server_that_hangs_ends_within_the_timeouts(host: Host) -> None:
    port = urlsplit(host.controlplane.url).port
    assert port
    with Proxy(port) as proxy:
        host.kubeconfig = proxy.kubeconfig(host.kubeconfig)
        proxy.stall()
        findings = host.check(timeout="15s")
    assert missing(findings) == ["API server"]
    assert findings["API server"]["fix"].startswith("kubectl --kubeconfig=")
    assert {one["state"] for name, one in findings.items() if name.startswith("rights: ")} == {NOT_VISIBLE}
    assert findings["libvirt"]["state"] == OK


def test_a_libvirtd_that_hangs_ends_within_the_timeouts(host: Host) -> None:
    host.libvirtd.pause()
    try:
        findings = host.check(timeout="15s")
    finally:
        host.libvirtd.resume()
    assert missing(findings) == ["libvirt"]
    assert findings["libvirt"]["detail"] == "no answer within 15 s"
    assert findings["libvirt"]["fix"].startswith("systemctl restart libvirtd")
    assert findings["API server"]["state"] == OK

"""The cluster is a real one, its nodes are apart from each other and the machine, and it leaves nothing behind."""

import base64
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster import cgroups
from cluster.cluster import NODES, Cluster
from cluster.image import BUSYBOX_IMAGE
from cluster.namespaces import run
from lab.daemon import DAEMON
from lab.world import Json, until
from tests.e2e.pods import Pods

pytestmark = pytest.mark.e2e

TOOLS = Path(__file__).parents[2] / "tools"
HANG_LIMIT_S = 120
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
)


def test_every_node_is_ready_and_of_the_version_asked_for(cluster: Cluster) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json").stdout)["items"]

    assert [node["metadata"]["name"] for node in nodes] == list(NODES)
    assert all(_condition(node, "Ready")["status"] == "True" for node in nodes)
    versions = json.loads(cluster.kubectl("version", "--output=json").stdout)
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes} == {
        versions["serverVersion"]["gitVersion"],
        versions["clientVersion"]["gitVersion"],
    }


def test_pods_of_two_nodes_reach_each_other_and_the_api_server(pods: Pods) -> None:
    for node in NODES:
        pods.run(f"on-{node}", node, "httpd", "-f", "-p", "8080", "-h", "/etc")

    for here, there in (NODES, NODES[::-1]):
        address = pods.get(f"on-{there}")["status"]["podIP"]
        assert pods.exec(f"on-{here}", "wget", "-qO-", f"http://{address}:8080/hostname").strip() == f"on-{there}"
        # The Service `kubernetes`: a plain request is answered, if only by what is wrong with it.
        assert "HTTPS" in pods.exec(
            f"on-{here}", "sh", "-c", "echo -e 'GET / HTTP/1.0\\n\\n' | busybox nc 10.96.0.1 443"
        )


def test_logs_of_a_pod_are_read_from_its_node(pods: Pods) -> None:
    for node in NODES:
        pods.run(f"on-{node}", node, "sh", "-c", f"echo hello from {node}; exec busybox sleep 100000")

    assert [pods.kubectl("logs", f"on-{node}").strip() for node in NODES] == [f"hello from {node}" for node in NODES]


def test_the_token_of_a_pod_names_its_node(cluster: Cluster, pods: Pods) -> None:
    for node in NODES:
        pods.run(f"on-{node}", node, "sleep", "100000")
        token = pods.exec(f"on-{node}", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token").strip()

        assert _claims(token)["kubernetes.io"]["node"]["name"] == node
        # and whoever shows it is known by that
        whoami = ("auth", "whoami", "--kubeconfig=/dev/null", f"--server={cluster.controlplane.url}")
        trust = (f"--certificate-authority={cluster.controlplane.ca}", f"--token={token}", "--output=json")
        user = json.loads(cluster.kubectl(*whoami, *trust).stdout)["status"]["userInfo"]
        assert user["extra"]["authentication.kubernetes.io/node-name"] == [node]


def test_a_kubelet_may_not_write_about_another_node(cluster: Cluster) -> None:
    kubeconfig = cluster.nodes["node-a"].folder / "config/node-a.kubeconfig"

    def label(node: str) -> subprocess.CompletedProcess[str]:
        program = str(cluster.controlplane.assets / "kubectl")
        command = (program, f"--kubeconfig={kubeconfig}", "label", "node", node, "example.com/by=node-a", "--overwrite")
        return subprocess.run([*cluster.network.enter, *command], capture_output=True, text=True, check=False)

    assert label("node-a").returncode == 0
    assert 'nodes "node-b" is forbidden' in label("node-b").stderr


def test_each_node_has_its_own_libvirt_at_the_one_path(cluster: Cluster, pods: Pods) -> None:
    for name, node in cluster.nodes.items():
        guest = node.define(f"only-on-{name}")
        guest.start()
        pods.run(f"on-{name}", name, "sleep", "100000", host_path=Path("/run/libvirt"))

        assert _names(node.run("virsh", "list", "--name")) == {guest.name}
        assert "libvirt-sock" in _names(pods.exec(f"on-{name}", "ls", "/host"))
        # The pod sees the socket go and come.
        node.libvirtd.halt()
        assert "libvirt-sock" not in _names(pods.exec(f"on-{name}", "ls", "/host"))
        node.libvirtd.start()
        assert "libvirt-sock" in _names(pods.exec(f"on-{name}", "ls", "/host"))
        assert _names(node.run("virsh", "list", "--name")) == {guest.name}
        guest.remove()


def test_pods_outlive_their_kubelet_and_their_containerd(cluster: Cluster, pods: Pods) -> None:
    pods.run("steady", "node-a", "sleep", "100000")
    before = pods.get("steady")["status"]["containerStatuses"]

    for daemon in ("containerd", "kubelet", "kube-proxy"):
        cluster.nodes["node-a"].restart(daemon)

    until(lambda: _execs(pods, "steady"), "The pod cannot be entered any more.")
    assert pods.get("steady")["status"]["containerStatuses"] == before


@pytest.mark.long
def test_a_node_that_loses_power_comes_back_under_its_name(cluster: Cluster, pods: Pods) -> None:
    node = cluster.nodes["node-b"]
    guest = node.define("lost")
    guest.start()
    pods.run("lost", "node-b", "sleep", "100000")
    identity = _uid(cluster, "node-b")
    qemu = guest.qemu_pid
    gateway = _gateway(cluster)

    node.power_off()
    assert not Path(f"/proc/{qemu}").exists()
    # The other nodes reach the API server as before.
    assert _gateway(cluster) == gateway
    assert DAEMON not in {_program(pid) for pid in _processes_of(node.folder)}

    node.power_on()
    node.join(cluster.watch_nodes)
    assert _uid(cluster, "node-b") == identity
    assert _names(node.run("virsh", "list", "--name", "--all")) == {guest.name}
    assert _names(node.run("virsh", "list", "--name")) == set()
    # The pod is another run of the same, and what it is called on the node is new.
    pods.kubectl(
        "wait", "pod/lost", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", f"--timeout={HANG_LIMIT_S}s"
    )
    pods.kubectl("wait", "pod/lost", "--for=condition=Ready", f"--timeout={HANG_LIMIT_S}s")
    until(lambda: _execs(pods, "lost"), "The pod cannot be entered.")
    guest.remove()


def test_this_machine_is_not_touched(cluster: Cluster) -> None:
    """Each node has its own settings of what a kubelet changes, and its own interfaces and packet filter."""
    node = cluster.nodes["node-a"]

    assert node.run("cat", "/proc/sys/kernel/panic").strip() == "10"
    assert "KUBE-SERVICES" in node.run("iptables-save")
    assert "KUBE-SERVICES" not in subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout


# --- the end


@pytest.fixture(params=[*(pytest.param(way, marks=pytest.mark.long) for way in ("Ctrl-C", "down")), "kill -9"])
def end(request: pytest.FixtureRequest) -> str:
    """How a cluster ends."""
    way: str = request.param
    return way


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a cluster of the test's own."""
    yield tmp_path
    subprocess.run([sys.executable, "-m", "cluster", "down", str(tmp_path)], env=_ENV, check=True)


def test_nothing_is_left_behind(end: str, folder: Path) -> None:
    before, interfaces = _settings(), _interfaces()
    command = [sys.executable, "-m", "cluster", "run", str(folder)]
    with subprocess.Popen(command, env=_ENV, stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout
            assert owner.stdout.readline() == b"ready\n"
            up = _settings()
            cluster = Cluster(folder)
            cluster.nodes["node-a"].libvirtd.virsh("start", "demo")
            cluster.kubectl("run", "left", f"--image={BUSYBOX_IMAGE}", "--", "sleep", "100000")
            cluster.kubectl("wait", "--for=condition=Ready", "pod/left", "--timeout=60s")
            ours = _processes_of(folder)
            namespaces = _namespaces(ours) - _namespaces({os.getpid()})
            assert len(ours) > 15
            assert len(namespaces) > 2 * 2 + 1  # the nodes', that of the network between them, the pod's
        except BaseException:
            owner.terminate()
            raise

        if end == "down":
            subprocess.run([sys.executable, "-m", "cluster", "down", str(folder)], env=_ENV, check=True)
        else:
            owner.send_signal(signal.SIGINT if end == "Ctrl-C" else signal.SIGKILL)
        _wait_until_gone(ours)

    assert _settings() == up == before
    assert _interfaces() == interfaces
    assert not namespaces & _namespaces(set(_processes()))
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    name = cgroups.group_name(folder.resolve())
    assert not [cgroup for cgroup in cgroups.folders(name) if cgroup.exists()]
    assert not _processes_of(folder)
    assert not list(folder.glob("node-*/disk/var/lib/*"))


_ENV = os.environ | {"PYTHONPATH": str(TOOLS)}


def _settings() -> list[str]:
    """What a kubelet would change for the whole machine."""
    return [Path("/proc/sys", name).read_text() for name in SYSCTLS]


def _interfaces() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _processes_of(folder: Path) -> set[int]:
    """All processes whose command line names a folder, or that see a mount from it."""
    found = set()
    for pid in _processes():
        with suppress(OSError):
            process = Path(f"/proc/{pid}")
            words = (process / "cmdline").read_text() + (process / "mountinfo").read_text()
            if str(folder) in words and pid != os.getpid():
                found.add(pid)
    return found


def _namespaces(pids: set[int]) -> set[str]:
    """The network and process namespaces of processes."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            found |= {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "pid")}
    return found


def _wait_until_gone(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            ended = select.select([process], [], [], HANG_LIMIT_S)[0]
            os.close(process)
            assert ended, f"process {pid} still runs"


def _program(pid: int) -> Path | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink()
    return None


def _gateway(cluster: Cluster) -> str:
    """The hardware address to which the nodes send what is for the API server."""
    found = run([*cluster.network.enter, "ip", "-json", "link", "show", "nodes"])
    address: str = json.loads(found)[0]["address"]
    return address


def _uid(cluster: Cluster, node: str) -> str:
    return cluster.kubectl("get", "node", node, "--output=jsonpath={.metadata.uid}").stdout


def _execs(pods: Pods, name: str) -> bool:
    with suppress(subprocess.CalledProcessError):
        return pods.exec(name, "echo", "here").strip() == "here"
    return False


def _names(listed: str) -> set[str]:
    return set(listed.split())


def _claims(token: str) -> Json:
    payload = token.split(".")[1]
    claims: Json = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def _condition(node: Json, kind: str) -> Json:
    condition: Json = next(c for c in node["status"]["conditions"] if c["type"] == kind)
    return condition

"""A node of a cluster: containerd, kubelet and kube-proxy, and a libvirtd with QEMU guests, in namespaces."""

import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from cluster import cgroups
from cluster.certificates import Authority
from cluster.controlplane import ADDRESS, ControlPlane
from cluster.image import PAUSE_IMAGE
from cluster.namespaces import Inside, Network, NodeNamespaces
from lab import LabError
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import children_of
from lab.world import Json, Watch

START_LIMIT_S = 60
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
POD_NETWORK = "10.244.0.0/16"

CONTAINERD_CONFIG = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Who may not raise its own priority could start no pod.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{folder}/container.json"
"""


class Node:
    """One node; its addresses are derived from `number`, which counts from 1.

    `libvirtd` is the node's own, with its socket in the node's /run/libvirt; it does not run without `has_libvirt`. The
    node's disk survives `power_off` and is removed with the cluster.
    """

    def __init__(
        self,
        name: str,
        number: int,
        folder: Path,
        *,
        cgroup: str,
        network: Network,
        authority: Authority,
        controlplane: ControlPlane,
        booted: Callable[[int], None],
        has_libvirt: bool = True,
    ) -> None:
        """`cgroup` is the path of the node's cgroup; `booted` is called with the node's first process at each start."""
        self.name = name
        self.folder = folder
        self.address = f"10.77.0.{10 + number}"
        self.pod_network = f"10.244.{number}.0/24"
        self.port = f"node{number}"
        self.cgroup = cgroup
        self.has_libvirt = has_libvirt
        self.namespaces = NodeNamespaces(name, folder)
        self.disk = folder / "disk/var/lib"
        self.libvirtd = NodeLibvirtd(folder / "libvirtd", self.namespaces)
        self._network = network
        self._authority = authority
        self._controlplane = controlplane
        self._booted = booted
        self._daemons: dict[str, Inside] = {}

    # --- start and stop

    def power_on(self) -> None:
        """Start everything that needs no API server: namespaces, network, libvirtd, containerd."""
        for name in ("log", "config"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        cgroups.make(self.cgroup)
        self.namespaces.start()
        self._booted(self.namespaces.pid)
        self._network.plug(self.namespaces, port=self.port, address=f"{self.address}/24")
        self.run("ip", "route", "add", "default", "via", ADDRESS)
        self._network.ip("route", "replace", self.pod_network, "via", self.address)
        if self.has_libvirt:
            self.libvirtd.start()
        self._configure_containerd()
        self.start("containerd")

    def join(self, watch: Watch) -> None:
        """Start kube-proxy and kubelet, and return when the node is Ready; `watch` watches all nodes."""
        before = _heartbeat(next(iter(watch.versions(self.name)[-1:]), {}))
        self._configure_kubelet()
        for name in ("kube-proxy", "kubelet"):
            self.start(name)
        ready = watch.until_any(lambda node: node["metadata"]["name"] == self.name and _heartbeat(node) > before)
        if ready is None:
            raise LabError(f"{self.name} is not Ready; see {self.folder / 'log'}.")

    def power_off(self) -> None:
        """End all processes of the node immediately, like a power failure: kubelet, pods, libvirtd, guests."""
        self.namespaces.kill()
        for daemon in self._daemons.values():
            daemon.kill()
        self.libvirtd.stop()
        self._network.unplug(self.port)

    def reboot(self, watch: Watch) -> None:
        """Power the node off and on; returns when it is Ready again."""
        with self.powered_off(watch):
            pass

    @contextmanager
    def powered_off(self, watch: Watch) -> Iterator[None]:
        """Power the node off for some time; at the end it is Ready again."""
        self.power_off()
        try:
            yield
        finally:
            self.power_on()
            self.join(watch)

    @contextmanager
    def partitioned(self) -> Iterator[None]:
        """Cut the node off from the other nodes and the API server for some time; what runs on it keeps running."""
        with self._network.disconnected(self.port):
            yield

    # --- the daemons: containerd, kubelet, kube-proxy

    def start(self, daemon: str) -> None:
        """Start a daemon, unless it runs; containerd listens when this returns."""
        self._daemons.setdefault(daemon, Inside(f"{daemon} of {self.name}", [], log=self._log(daemon)))
        process = self._daemons[daemon]
        process.command = [*self.namespaces.enter, *self._command(daemon)]
        process.start()
        process.wait_until(self._containerd_listens if daemon == "containerd" else _at_once, timeout_s=START_LIMIT_S)

    def stop(self, daemon: str) -> None:
        """Stop a daemon gracefully; pods keep running."""
        self._daemons[daemon].stop()

    def restart(self, daemon: str) -> None:
        """Kill a daemon with SIGKILL and start it again; pods keep running."""
        self._daemons[daemon].kill()
        self.start(daemon)

    # --- what a test does on the node

    def run(self, *command: str | Path) -> str:
        """Run a command on the node; its output. CalledProcessError with the error output if it fails."""
        return self.namespaces.run(*command)

    def define(self, name: str, **options: Any) -> Guest:
        """Define a domain (off) that runs the tiny guest; `options` as in `Libvirtd.define`."""
        return self.libvirtd.define(name, **options)

    def import_image(self, archive: Path) -> None:
        """Load an archive of images, in the format of `docker save` or of OCI."""
        self.run("ctr", "--namespace=k8s.io", "images", "import", archive)

    def tag_image(self, name: str, also: str) -> None:
        """Give a loaded image a second name; both are full names, such as `docker.io/library/web:1`."""
        self.run("ctr", "--namespace=k8s.io", "images", "tag", "--force", name, also)

    # --- configuration

    def _command(self, daemon: str) -> list[str]:
        config = self.folder / "config"
        if daemon == "containerd":
            return ["containerd", f"--config={config / 'containerd.toml'}"]
        command = [str(self._controlplane.assets / daemon), f"--config={config / daemon}.json"]
        if daemon == "kubelet":
            kubeconfig = config / f"{self.name}.kubeconfig"
            command += [f"--kubeconfig={kubeconfig}", f"--hostname-override={self.name}", f"--node-ip={self.address}"]
        return command

    def _configure_containerd(self) -> None:
        config = self.folder / "config"
        (config / "cni").mkdir(exist_ok=True)
        (config / "containerd.toml").write_text(CONTAINERD_CONFIG.format(pause=PAUSE_IMAGE, folder=config))
        # All nodes share the kernel's boot id, so this node's containers get a boot id of the node.
        container = json.loads(self.run("ctr", "oci", "spec"))
        container["process"]["env"] = [f"VIRTSYNC_BOOT_ID={uuid4()}"]
        (config / "container.json").write_text(json.dumps(container, indent=2))
        # On /run, because no address is in use after a reboot.
        addresses = {
            "type": "host-local",
            "dataDir": "/run/cni",
            "ranges": [[{"subnet": self.pod_network}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        plugins = [
            {"type": "ptp", "ipMasq": False, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}
        (config / "cni" / "10-pods.conflist").write_text(json.dumps(network, indent=2))

    def _configure_kubelet(self) -> None:
        config = self.folder / "config"
        certificate, key = self._authority.issue(
            self.name, self.name, self.address, common_name=f"system:node:{self.name}"
        )
        self._controlplane.kubeconfig_of(self.name, config)
        proxy_kubeconfig = self._controlplane.kubeconfig_of("kube-proxy", config)
        no_names = config / "resolv.conf"
        no_names.touch()
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            # There is no systemd on the node, and this machine might have cgroups of version 1.
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            # There is no DNS: with an empty file a lookup fails immediately.
            "resolvConf": str(no_names),
            # Images were loaded manually and cannot be pulled again.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "4s",
            "maxOpenFiles": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        }
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": str(proxy_kubeconfig)},
            "clusterCIDR": POD_NETWORK,
            # These cannot be written outside the initial network namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        for name, content in (("kubelet", kubelet), ("kube-proxy", proxy)):
            (config / f"{name}.json").write_text(json.dumps(content, indent=2))

    def _containerd_listens(self) -> bool:
        # Through the folder's descriptor, whose path is short enough for a socket.
        try:
            folder = os.open(self.namespaces.root(CONTAINERD_SOCKET).parent, os.O_PATH)
        except OSError:
            return False
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"/proc/self/fd/{folder}/{Path(CONTAINERD_SOCKET).name}")
        except OSError:
            return False
        finally:
            os.close(folder)
        return True

    def _log(self, daemon: str) -> Path:
        return self.folder / "log" / f"{daemon}.log"


class NodeLibvirtd(Libvirtd):
    """A node's libvirtd: a system libvirtd in the node's namespaces, at the standard paths for all processes there."""

    def __init__(self, folder: Path, namespaces: NodeNamespaces) -> None:
        super().__init__(folder)
        self._namespaces = namespaces

    def _enter(self) -> list[str]:
        return self._namespaces.enter

    @property
    def _reaper(self) -> int:
        # nsenter waits outside for the supervisor inside.
        return next(iter(children_of(super()._reaper)), 0)

    def _seen_from_here(self, pid: int) -> int:
        found = [child for child in children_of(self._reaper) if _number_inside(child) == pid]
        if not found:
            raise self._failure("ended before it was ready")
        return found[0]


def _number_inside(pid: int) -> int:
    """The process id that a process has in its own namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))


def _heartbeat(node: Json) -> str:
    """When a kubelet last reported the node as Ready; an empty string if the node is not Ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return next((c["lastHeartbeatTime"] for c in conditions if c["type"] == "Ready" and c["status"] == "True"), "")


def _at_once() -> bool:
    return True

"""A cluster in a folder: the control plane and its nodes, started and stopped together."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from cluster import cgroups
from cluster.certificates import Authority
from cluster.controlplane import ADDRESS, ControlPlane
from cluster.image import busybox_image, pause_image
from cluster.namespaces import Network
from cluster.node import Node
from lab import LabError
from lab.binaries import CACHE
from lab.processes import last_lines, sole_owner
from lab.world import Watch

JANITOR = Path(__file__).with_name("janitor.py")
PROGRAMS = ("containerd", "ctr", "runc", "iptables", "ip", "nsenter", "unshare")
UNPACKED = CACHE / "containerd" / "usr" / "bin"
"""Where `make cluster-setup` unpacks containerd and runc, without their services, on a machine that lacks them."""
CNI_PLUGIN = Path("/usr/lib/cni/ptp")
NODES = ("node-a", "node-b")
# A node has its own of each.
HIDDEN = tuple(map(Path, ("/run", "/var/run", "/var/lib", "/var/log")))
CLEAN_UP_LIMIT_S = 120


class Cluster:
    """A real cluster; use it as a context manager.

    `kubeconfig` has the rights of an administrator. Each node has the image `localhost/busybox:lab` and the images in
    the archives `images`. After the end of the cluster, or of the process that started it, only logs remain in the
    folder.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[str] = NODES,
        *,
        images: Sequence[Path] = (),
        without_libvirt: Collection[str] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.cgroup = cgroups.group_name(self.folder)
        self._images = [*images]
        authority = Authority(self.folder / "certificates")
        self._authority = authority
        self.network = Network(f"{ADDRESS}/24", log=self.folder / "network.log")
        self.controlplane = ControlPlane(self.folder / "controlplane", self.network, authority, nodes)
        self.nodes = {
            name: Node(
                name,
                number,
                self.folder / name,
                cgroup=f"{self.cgroup}/{name}",
                network=self.network,
                authority=authority,
                controlplane=self.controlplane,
                booted=self._tell_janitor,
                has_libvirt=name not in without_libvirt,
            )
            for number, name in enumerate(nodes, start=1)
        }
        self._janitor: subprocess.Popen[str] | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for use on this machine."""
        return self.controlplane.kubeconfig

    def start(self) -> None:
        """Start everything and return when each node is Ready; LabError that names what is missing or did not start."""
        self._check()
        try:
            self._ends.enter_context(sole_owner(self.folder))
            self._forget()
            self._janitor = self._start_janitor()
            self._ends.callback(self._dismiss_janitor, self._janitor)
            self._authority.found()
            self.network.start()
            self._ends.callback(self.network.stop)
            self._ends.callback(self.controlplane.stop)
            for node in self.nodes.values():
                self._ends.callback(node.power_off)
            self._at_once(self.controlplane.start, *(partial(self._boot, node) for node in self.nodes.values()))
            self.watch_nodes = self._ends.enter_context(Watch(self.controlplane, "/api/v1/nodes"))
            self._at_once(*(partial(node.join, self.watch_nodes) for node in self.nodes.values()))
            # No pod is admitted without the service account, which appears a moment after its namespace.
            self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything immediately; logs remain in the folder."""
        self._ends.close()

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002 - as subprocess.run has it
        """Run kubectl as the administrator; CalledProcessError with its output if it fails and `check` is set."""
        return self.controlplane.kubectl(*args, input=input, check=check)

    def import_image(self, archive: Path) -> None:
        """Load an archive of images into every node."""
        self._at_once(*(partial(node.import_image, archive) for node in self.nodes.values()))

    def _boot(self, node: Node) -> None:
        node.power_on()
        for archive in [self._pause_image, self._busybox_image, *self._images]:
            node.import_image(archive)

    def _at_once(self, *tasks: Callable[[], None]) -> None:
        """Run these tasks in parallel; if one fails, stop the cluster."""
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            try:
                for done in as_completed([pool.submit(task) for task in tasks]):
                    done.result()
            except BaseException:
                self.stop()  # which ends what the others wait for
                raise

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise LabError("A cluster needs root: its nodes have mounts, networks and cgroups of their own.")
        search_unpacked()
        missing = [name for name in PROGRAMS if not shutil.which(name)]
        missing += [] if CNI_PLUGIN.exists() else [str(CNI_PLUGIN)]
        if missing:
            raise LabError(f"{', '.join(missing)} not found: run `make cluster-setup`.")
        if any(self.folder.is_relative_to(hidden) for hidden in HIDDEN):
            raise LabError(f"{self.folder} is in a place that each node has of its own: take another.")

    def _forget(self) -> None:
        """Remove what an earlier cluster has left in the folder."""
        for part in (self._authority.folder, self.controlplane.folder, *(node.folder for node in self.nodes.values())):
            shutil.rmtree(part, ignore_errors=True)
        pause_image(self._pause_image)
        busybox_image(self._busybox_image)

    @property
    def _pause_image(self) -> Path:
        return self.folder / "pause.tar"

    @property
    def _busybox_image(self) -> Path:
        return self.folder / "busybox.tar"

    def _start_janitor(self) -> subprocess.Popen[str]:
        remains = {
            "cgroups": list(map(str, cgroups.folders(self.cgroup))),
            "folders": [str(self.controlplane.folder / "etcd"), *(str(node.disk) for node in self.nodes.values())],
        }
        with (self.folder / "janitor.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", JANITOR, json.dumps(remains)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def _tell_janitor(self, first_process: int) -> None:
        assert self._janitor  # noqa: S101 - nothing boots before it
        assert self._janitor.stdin  # noqa: S101 - a pipe was asked for
        # One write: nodes boot at the same time.
        os.write(self._janitor.stdin.fileno(), f"{first_process}\n".encode())

    def _dismiss_janitor(self, janitor: subprocess.Popen[str]) -> None:
        janitor.communicate(timeout=CLEAN_UP_LIMIT_S)
        if janitor.returncode:
            raise LabError(f"Something is left behind:\n{last_lines(self.folder / 'janitor.log')}")


def search_unpacked() -> None:
    """Append the folders where `make cluster-setup` unpacks programs to the search path."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*folders, str(UNPACKED)]))

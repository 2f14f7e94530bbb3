"""What the tests of a fleet in Git share: the engines as the documents name them, and hosts with VMs and an agent."""

import json
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import until

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "gitops"
NAMESPACES = ("databases", "shop")


@dataclass(frozen=True)
class Engine:
    """How an engine is told apart in the document, and how it is asked to look at Git at once."""

    name: str
    title: str
    namespace: str
    kinds: str
    roots: tuple[str, ...]
    refreshes: tuple[str, str]

    def refresh(self, controlplane: ControlPlane) -> None:
        """Let it look at Git at once."""
        kind, annotation = self.refreshes
        value = str(time.time_ns()) if annotation.endswith("requestedAt") else "normal"
        words = ("annotate", "--overwrite", kind, "--all", f"{annotation}={value}")
        controlplane.kubectl("-n", self.namespace, *words)

    def has_objects(self, controlplane: ControlPlane) -> bool:
        """Whether any object is left by which it applies a repository."""
        return bool(controlplane.kubectl("-n", self.namespace, "get", self.kinds, "-o", "name").stdout)

    def reads(self, section: str) -> bool:
        """Whether a user of this engine reads the section."""
        return not any(section.startswith(f"2. With {it.title}\n") for it in ENGINES if it is not self)

    def types(self, command: str) -> bool:
        """Whether a user of this engine types the command: those of the other one name its namespace."""
        return not any(f"-n {it.namespace} " in command for it in ENGINES if it is not self)


ENGINES = (
    Engine(
        "flux",
        "Flux",
        "flux-system",
        "kustomizations",
        roots=("fleet",),
        refreshes=("gitrepositories", "reconcile.fluxcd.io/requestedAt"),
    ),
    Engine(
        "argocd",
        "Argo CD",
        "argocd",
        "applications",
        roots=("fleet", "hosts", "databases", "shop"),
        refreshes=("applications", "argocd.argoproj.io/refresh"),
    ),
)


@contextmanager
def host_of(controlplane: ControlPlane, node: str, vms: Collection[str], log: Path) -> Iterator[Libvirtd]:
    """A host with these domains, which run, and an agent that has reported them."""
    with (
        tempfile.TemporaryDirectory(prefix="virtsync-") as folder,
        Libvirtd(Path(folder)) as libvirtd,
        ExitStack() as ends,
    ):
        for name in vms:
            guest = libvirtd.define(name)
            ends.callback(guest.remove)
            guest.start()
        settings = {"settle-power": "1s", "settle-pause": "1s", "start-interval": "0.1s"}
        agent = Agent(controlplane, libvirtd.uri, node, log=log, settings=settings)
        ends.callback(controlplane.kubectl, "delete", "kvmhost", node)
        ends.callback(agent.stop)
        agent.start()
        until(lambda: _unmanaged(controlplane, node) == len(vms), f"The agent of {node} has not reported its domains.")
        yield libvirtd


def _unmanaged(controlplane: ControlPlane, node: str) -> int:
    found = controlplane.kubectl("get", "kvmhost", node, "--ignore-not-found", "-o", "json").stdout
    return int(json.loads(found).get("status", {}).get("unmanaged", {}).get("total", 0)) if found else 0

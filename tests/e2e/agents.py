"""The agents on the cluster, installed as a user would, and what a test asks of them."""

import itertools
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path

from cluster.cluster import Cluster
from controller import __version__
from lab import LabError
from lab.world import Json, Watch, until

REPOSITORY = Path(__file__).parents[2]
IMAGE_ARCHIVE = REPOSITORY / "build/image.tar"
IMAGE = "docker.io/virtsync/virtsync"
VERSION = __version__
NAMESPACE = "virtsync-system"
DAEMONSET = "daemonset/virtsync-agent"
MANAGER = "deployment/virtsync-manager"
INSTALL = ("apply", "-f", "deploy/crds", "-f", "deploy/install.yaml")
ROLLOUT_LIMIT = "--timeout=120s"


class Agents:
    """The DaemonSet of agents on the nodes of a cluster that have the label."""

    def __init__(self, cluster: Cluster, nodes: Collection[str]) -> None:
        self.cluster = cluster
        self.nodes = nodes

    def install(self) -> None:
        """Install as the README says, on labelled nodes; return when each agent and both managers are ready."""
        self.cluster.kubectl("label", "--overwrite", "node", *self.nodes, "virtsync.dev/kvm=true")
        self.apply()
        self.until_ready()
        self.until_managers_ready()

    def apply(self) -> None:
        """What the README says, word by word."""
        words = [str(REPOSITORY / word) if word.startswith("deploy/") else word for word in INSTALL]
        self.cluster.kubectl(*words)

    def until_ready(self) -> None:
        """Wait until the agents of the newest template are ready on each node."""
        # That alone would be true with no node at all.
        self.kubectl("rollout", "status", DAEMONSET, ROLLOUT_LIMIT)
        until(lambda: self._ready() == len(self.nodes), "Not every node has an agent that is ready.", limit_s=120)

    def until_managers_ready(self) -> None:
        """Wait until both managers of the newest template are ready."""
        self.kubectl("rollout", "status", MANAGER, ROLLOUT_LIMIT)

    def _ready(self) -> int:
        return sum(
            condition["type"] == "Ready" and condition["status"] == "True"
            for node in self.nodes
            for pod in self.pods(node)
            for condition in pod["status"].get("conditions", [])
        )

    def pod(self, node: str) -> Json:
        """The agent's pod on a node; LabError if there is none that is to stay."""
        pods = self.pods(node)
        if not pods:
            raise LabError(f"{node} has no agent.")
        return pods[0]

    def pods(self, node: str) -> list[Json]:
        """The agent's pods on a node, but for one that is on its way out."""
        listed = self.kubectl(
            "get",
            "pods",
            "--selector=app.kubernetes.io/component=agent",
            f"--field-selector=spec.nodeName={node}",
            "--output=json",
        )
        return [pod for pod in json.loads(listed)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def until_pod(self, node: str, condition: str) -> None:
        """Wait until the agent's pod of a node is as told: `condition=Ready`, `condition=Ready=False`."""
        self.kubectl("wait", f"pod/{self.pod(node)['metadata']['name']}", f"--for={condition}", ROLLOUT_LIMIT)

    def restarts(self, node: str) -> int:
        """How often the container of a node's agent was started anew."""
        restarts: int = self.pod(node)["status"]["containerStatuses"][0]["restartCount"]
        return restarts

    def unready_because(self, node: str) -> str:
        """What /readyz of the agent of a node says that it lacks, as an administrator is told."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{self.pod(node)['metadata']['name']}:8080/proxy/readyz"
        return self.cluster.kubectl("get", "--raw", path, check=False).stderr

    def leading_node(self) -> str:
        """The node of the manager that leads."""
        leader = json.loads(self.kubectl("get", "lease", "virtsync-manager", "--output=json"))["spec"]["holderIdentity"]
        return next(node for node, uid in self.managers().items() if uid == leader)

    def managers(self) -> dict[str, str]:
        """The uid of the manager's pod on each node that has one."""
        words = ("get", "pods", "--selector=app.kubernetes.io/component=manager", "--output=json")
        pods = [pod for pod in json.loads(self.kubectl(*words))["items"] if "deletionTimestamp" not in pod["metadata"]]
        return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in pods}

    def set_image(self, tag: str) -> None:
        """Let the DaemonSet run another version; returns at once."""
        self.kubectl("set", "image", DAEMONSET, f"agent=virtsync/virtsync:{tag}")

    def log(self, node: str) -> str:
        """What the agent of a node has logged."""
        return self.kubectl("logs", self.pod(node)["metadata"]["name"])

    def kubectl(self, *args: str) -> str:
        """Run kubectl in the agents' namespace; what it printed."""
        return self.cluster.kubectl(f"--namespace={NAMESPACE}", *args).stdout


class TimedWatch(Watch):
    """A watch that knows when each version came, on our own clock."""

    def __init__(self, cluster: Cluster, path: str) -> None:
        super().__init__(cluster.controlplane, path)
        self.arrivals: list[tuple[float, Json]] = []

    def _take(self, change: Json) -> None:
        self.arrivals.append((time.monotonic(), change["object"]))
        super()._take(change)

    def arrived_s(self, version: Json) -> float:
        """When this version came."""
        number = version["metadata"]["resourceVersion"]
        return next(moment for moment, one in list(self.arrivals) if one["metadata"]["resourceVersion"] == number)

    def longest_gap_s(self, name: str, since_s: float, of: Callable[[Json], object]) -> float:
        """The longest time in which nothing new came of an object, from a moment on until now."""
        moments, last = [since_s], None
        for moment, version in list(self.arrivals):
            if version["metadata"]["name"] == name and moment >= since_s and of(version) != last:
                last = of(version)
                moments.append(moment)
        moments.append(time.monotonic())
        return max(after - before for before, after in itertools.pairwise(moments))

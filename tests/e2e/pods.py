"""Pods that a test runs on the cluster."""

import json
from pathlib import Path
from typing import Any

from cluster.cluster import Cluster
from cluster.image import BUSYBOX_IMAGE


class Pods:
    """Pods with busybox in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        cluster.kubectl("create", "namespace", namespace)
        self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")

    def kubectl(self, *args: str, manifest: Any = None) -> str:
        """Run kubectl in the namespace; what it printed."""
        body = None if manifest is None else json.dumps(manifest)
        return self.cluster.kubectl(f"--namespace={self.namespace}", *args, input=body).stdout

    def run(self, name: str, node: str, *command: str, host_path: Path | None = None) -> None:
        """Start a pod on a node, by way of the scheduler, and return when it is Ready; it sees the folder as /host."""
        container: dict[str, Any] = {"name": "main", "image": BUSYBOX_IMAGE, "args": command}
        spec: dict[str, Any] = {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        }
        if host_path:
            container["volumeMounts"] = [{"name": "host", "mountPath": "/host", "readOnly": True}]
            spec["volumes"] = [{"name": "host", "hostPath": {"path": str(host_path), "type": "Directory"}}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.kubectl("apply", "-f", "-", manifest=pod)
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")

    def get(self, name: str) -> Any:
        """A pod as the API has it."""
        return json.loads(self.kubectl("get", "pod", name, "--output=json"))

    def exec(self, name: str, *command: str) -> str:
        """Run a program of busybox in a pod; what it printed."""
        return self.kubectl("exec", name, "--", "busybox", *command)

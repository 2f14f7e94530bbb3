"""`kubectl virtsync page` on a real cluster: RBAC decides who sees the page, and nobody else reaches it."""

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.cluster import NODES, Cluster
from tests.e2e.agents import Agents
from tests.e2e.pods import Pods

pytestmark = pytest.mark.e2e

ADDRESS = re.compile(r"(http://127\.0\.0\.1:\d+/) is the page of (virtsync-manager-\S+), until Ctrl-C\.\n")


def environment(cluster: Cluster, kubeconfig: Path | None = None) -> dict[str, str]:
    path = f"{cluster.controlplane.assets}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "KUBECONFIG": str(kubeconfig or cluster.controlplane.kubeconfig)}


@contextmanager
def forwarded(cluster: Cluster, kubeconfig: Path | None = None) -> Iterator[tuple[str, str]]:
    """Run the command; the address of the page and the Pod that serves it. Ctrl-C ends it in order."""
    command = ["kubectl", "virtsync", "page", "--no-browser"]
    process = subprocess.Popen(command, env=environment(cluster, kubeconfig), stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout
            found = ADDRESS.fullmatch(process.stdout.readline())
            assert found
            yield found[1], found[2]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def get(page: str) -> str:
    with closing(http.client.HTTPConnection(urlsplit(page).netloc, timeout=60)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()


def test_the_page_comes_through_the_api_server(agents: Agents, cluster: Cluster) -> None:
    agents.until_managers_ready()
    with forwarded(cluster) as (page, pod):
        html = get(page)
        assert all(f'data-key="{node}"' in html for node in NODES)
        assert "Served by the manager" in html
        assert pod in agents.kubectl("get", "pods", "-o", "name")


def test_rbac_decides_who_sees_it(agents: Agents, cluster: Cluster) -> None:
    agents.until_managers_ready()
    nobody = cluster.controlplane.service_account("default", "page-nobody")
    words = ["kubectl", "virtsync", "page", "--no-browser"]
    refused = subprocess.run(
        words, env=environment(cluster, nobody), capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 2
    assert 'cannot list resource "pods"' in refused.stderr
    binding = ("create", "rolebinding", "page-viewer", "--role=virtsync-page-viewer")
    viewer = cluster.controlplane.service_account("default", "page-viewer")
    agents.kubectl(*binding, "--serviceaccount=default:page-viewer")
    try:
        with forwarded(cluster, viewer) as (page, _):
            assert "Read-only." in get(page)
    finally:
        agents.kubectl("delete", "rolebinding", "page-viewer")


def test_no_other_pod_reaches_it(agents: Agents, pods: Pods) -> None:
    agents.until_managers_ready()
    words = ("get", "pods", "-l", "app.kubernetes.io/component=manager", "-o", "jsonpath={.items[0].status.podIP}")
    address = agents.kubectl(*words)
    pods.run("other", "node-a", "sleep", "3600")
    assert "virtsync" in pods.exec("other", "wget", "-qO-", f"http://{address}:8080/metrics")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        pods.exec("other", "wget", "-qO-", f"http://{address}:8081/")
    assert "refused" in str(refused.value.stderr)

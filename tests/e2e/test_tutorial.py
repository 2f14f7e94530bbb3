"""docs/tutorial.md as written, on a real cluster; tests/gitops/test_tutorial.py types the part with Flux."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from tests.e2e.agents import Agents
from tests.tutorial import Terminal, sections

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.fixture
def terminal(
    agents: Agents,  # noqa: ARG001 - the nodes have their image
    cluster: Cluster,
    tmp_path: Path,
) -> Iterator[Terminal]:
    """The page begins with a VM `demo` on each node; what it leaves behind is removed."""
    guests = [node.define("demo") for node in cluster.nodes.values()]
    yield Terminal(cluster.kubeconfig, cluster.controlplane.assets, cluster.nodes["node-a"].libvirtd.uri, tmp_path)
    cluster.kubectl("delete", "kvm", "--all", "-n", "shop", "--ignore-not-found")
    cluster.kubectl("delete", "namespace", "shop", "--ignore-not-found")
    for guest in guests:
        guest.remove()


def test_the_tutorial_works_as_written_up_to_git(terminal: Terminal) -> None:
    for title in sections():
        if not title.startswith(("7.", "8.")):
            terminal.follow(title)

"""The cluster that the tests of this folder share, and what they run on it: agents, VMs, pods."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import NODES, Cluster
from lab.world import World
from tests.e2e.agents import IMAGE_ARCHIVE, Agents
from tests.e2e.pods import Pods
from tests.e2e.vms import OnEachNode


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real cluster of two nodes for the whole run: a test puts back what it takes away."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="session")
def agents(cluster: Cluster) -> Agents:
    """The agents on both nodes; a test leaves them ready."""
    assert IMAGE_ARCHIVE.exists(), f"{IMAGE_ARCHIVE} is missing: run `make image`."
    cluster.import_image(IMAGE_ARCHIVE)
    installed = Agents(cluster, NODES)
    installed.install()
    return installed


@pytest.fixture
def world(
    agents: Agents,  # noqa: ARG001 - they are what the test is about
    cluster: Cluster,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> Iterator[World]:
    """A namespace of the test's own and guests on the nodes; the agents are those of the cluster."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    with World(cluster.controlplane, cluster.nodes["node-a"].libvirtd, name, tmp_path) as entered:
        yield entered


@pytest.fixture
def vms(world: World, cluster: Cluster) -> OnEachNode:
    """One guest on each node, off, with no object yet."""
    return OnEachNode(world, cluster)


@pytest.fixture
def pods(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pods]:
    """Pods of the test's own, in a namespace named after it."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")
    entered = Pods(cluster, name)
    yield entered
    cluster.kubectl("delete", "namespace", name, "--wait=false")

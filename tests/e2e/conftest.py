"""The cluster that the tests of this folder share, and the pods that they run on it."""

from collections.abc import Iterator

import pytest

from cluster.cluster import Cluster
from tests.e2e.pods import Pods


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real cluster of two nodes for the whole run: a test puts back what it takes away."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def pods(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pods]:
    """Pods of the test's own, in a namespace named after it."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-")
    entered = Pods(cluster, name)
    yield entered
    cluster.kubectl("delete", "namespace", name, "--wait=false")

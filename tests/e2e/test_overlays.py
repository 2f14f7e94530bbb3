"""The variants of deploy/overlays do what they say, on real nodes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cluster.cluster import NODES, Cluster
from cluster.node import Node
from lab.world import power_of, runs
from tests.e2e.agents import REPOSITORY, Agents
from tests.e2e.vms import OnEachNode

pytestmark = [pytest.mark.e2e, pytest.mark.long]

UID = 65532
KNOWN = {
    Path("/etc/passwd"): f"virtsync:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin\n",
    Path("/etc/group"): f"virtsync:x:{UID}:\n",
}


@pytest.fixture
def overlay(agents: Agents, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[None]:
    """The agents as an overlay has them; afterwards again as they were."""
    cluster.kubectl("apply", "-k", str(REPOSITORY / "deploy/overlays" / request.param))
    try:
        agents.until_ready()
        yield
    finally:
        agents.apply()
        agents.until_ready()


@pytest.fixture
def known_user(cluster: Cluster, tmp_path: Path) -> Iterator[None]:
    """The user of the overlay, on each node, as its instructions say."""
    with ExitStack() as ends:
        for node in cluster.nodes.values():
            for file, line in KNOWN.items():
                ends.enter_context(_with_line(node, file, line, tmp_path / f"{node.name}-{file.name}"))
        yield


@pytest.mark.parametrize("overlay", ["observe-only"], indirect=True)
@pytest.mark.usefixtures("overlay")
def test_observe_only(agents: Agents, vms: OnEachNode) -> None:
    assert {_who(agents, node) for node in NODES} == {65534}
    vms.apply(powerState="Running")
    for guest in vms.guests.values():
        vms.world.until_ready(guest, "ObserveOnly")

    for guest in vms.guests.values():
        guest.start()
        vms.world.until(guest, lambda vm: power_of(vm) == "Running", "running")
        guest.poweroff()
        vms.world.until_off(guest, "Guest")
        vms.world.until_ready(guest, "ObserveOnly")
        assert guest.libvirtd.qemu_pid(guest.name) is None


@pytest.mark.parametrize("overlay", ["nonroot"], indirect=True)
@pytest.mark.usefixtures("known_user", "overlay")
def test_nonroot(agents: Agents, vms: OnEachNode) -> None:
    assert {_who(agents, node) for node in NODES} == {UID}
    vms.switch_on()
    for guest in vms.guests.values():
        guest.wait_until_booted()
        guest.poweroff()
        vms.world.until_off(guest, "Guest")
        vms.world.until(guest, runs, "running again")


@contextmanager
def _with_line(node: Node, file: Path, line: str, copy: Path) -> Iterator[None]:
    """One more line of a file, in the node's own mounts, which are no others'."""
    copy.write_text(f"{file.read_text()}{line}")
    node.run("mount", "--bind", copy, file)
    try:
        yield
    finally:
        node.run("umount", file)


def _who(agents: Agents, node: str) -> int:
    """The uid that an agent runs as."""
    pod = agents.pod(node)["metadata"]["name"]
    return int(agents.kubectl("exec", pod, "--", "python3", "-c", "import os; print(os.getuid())"))

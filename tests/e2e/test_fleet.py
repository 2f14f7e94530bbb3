"""A node dies, is cut off from the network, or is serviced: what users see of it with kubectl."""

import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from cluster.cluster import NODES, Cluster
from controller.api.names import MANAGER
from lab.guest import Guest
from lab.world import Json, cause_of, is_off, power_of, ready_of, reason_of, runs
from tests.documented import commands
from tests.e2e.agents import NAMESPACE, Agents, TimedWatch
from tests.e2e.vms import OnEachNode

pytestmark = [pytest.mark.e2e, pytest.mark.long]

HYPERVISORS = "/apis/virtsync.dev/v1alpha1/hypervisors"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
# Both are promises to users: docs/fleet.md.
MARKED_WITHIN_S = 50
RIGHT_WITHIN_S = 5
MORE_VMS = 49


class Watches(NamedTuple):
    """Every version of each object, and when it came."""

    hosts: TimedWatch
    vms: TimedWatch
    pods: TimedWatch

    def first(self, watch: TimedWatch, name: str, *, marked: bool, after: Json | None = None) -> Json:
        """Wait for a version of an object that has the mark of a silent agent or not, newer than another version."""
        newer_than = version_of(after) if after else 0
        version = watch.until(name, lambda one: version_of(one) > newer_than and is_marked(one) == marked, first=0)[1]
        assert version, f"no version of {name} with{'' if marked else 'out'} a mark"
        return version


@pytest.fixture
def watches(cluster: Cluster, vms: OnEachNode) -> Iterator[Watches]:
    """Those of all Hypervisors, the test's VMs, and the pods of agents and managers."""
    of_vms = f"/apis/virtsync.dev/v1alpha1/namespaces/{vms.world.name}/virtualmachines"
    with ExitStack() as ends:
        yield Watches(*(ends.enter_context(TimedWatch(cluster, path)) for path in (HYPERVISORS, of_vms, PODS)))


@pytest.fixture
def leading(agents: Agents) -> str:
    """The node of the manager that leads; the other node has the other manager."""
    agents.until_managers_ready()
    assert agents.managers().keys() == set(NODES)
    return agents.leading_node()


def test_the_vms_of_a_node_that_dies_are_marked_in_time(
    leading: str,
    agents: Agents,
    cluster: Cluster,
    vms: OnEachNode,
    watches: Watches,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = die(other_than(leading), agents, cluster, vms, watches)
    with capsys.disabled():
        sys.stdout.write(f"\n{figures}\n")


def test_a_leader_that_dies_with_the_node_delays_no_mark(
    leading: str,
    agents: Agents,
    cluster: Cluster,
    vms: OnEachNode,
    watches: Watches,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = die(leading, agents, cluster, vms, watches)
    with capsys.disabled():
        sys.stdout.write(f"\n{figures}, with the leader\n")
    assert agents.leading_node() == other_than(leading)
    agents.until_managers_ready()


def test_an_agent_that_is_cut_off_takes_no_action_and_takes_its_vms_back(
    agents: Agents, cluster: Cluster, vms: OnEachNode, watches: Watches
) -> None:
    world, node, restarts = vms.world, cluster.nodes["node-a"], agents.restarts("node-a")
    vms.switch_on()
    drifts, compared = vms.guests["node-a"], vms.guests["node-b"]
    steady = world.define("steady", libvirtd=node.libvirtd)
    world.apply(steady, nodeName="node-a", powerState="Running")
    world.until(steady, runs, "running")
    steady_run = world.run_id(steady)
    for guest in (drifts, compared):
        guest.wait_until_booted()

    with node.partitioned():
        # The mark comes later than 40 s after the last renewal, and the agent acts for 35 s at most.
        host = watches.first(watches.hosts, "node-a", marked=True)
        marks = [watches.first(watches.vms, guest.name, marked=True) for guest in (drifts, steady)]
        assert [power_of(mark) for mark in marks] == ["Running", "Running"]
        for guest in (drifts, compared):
            guest.poweroff()
        # On a node with a network, what this asks for has been done.
        world.until_off(compared, "Guest")
        world.until(compared, runs, "running again")
        assert drifts.libvirtd.qemu_pid(drifts.name) is None

    world.until_off(drifts, "Guest")
    world.until(drifts, runs, "running again")
    assert runs(watches.first(watches.vms, steady.name, marked=False, after=marks[1]))
    watches.first(watches.hosts, "node-a", marked=False, after=host)
    agents.until_ready()
    states = [state for state, _, _ in world.told(steady)]
    assert set(states[states.index("Running") :]) == {"Running"}
    assert world.run_id(steady) == steady_run
    assert agents.restarts("node-a") == restarts


def test_a_host_is_serviced_as_the_document_says(
    agents: Agents, cluster: Cluster, vms: OnEachNode, watches: Watches
) -> None:
    world, serviced, restarts = vms.world, cluster.nodes["node-b"], agents.restarts("node-b")
    vms.switch_on()
    second = world.define("second", libvirtd=serviced.libvirtd)
    world.apply(second, nodeName="node-b", powerState="Running")
    world.until(second, runs, "running")
    guests, elsewhere = [vms.guests["node-b"], second], vms.guests["node-a"]
    for guest in (*guests, elsewhere):
        guest.wait_until_booted()
    declare, wait, end = (shlex.split(command, comments=True)[1:] for command in commands("Service a host"))

    cluster.kubectl(*declare)
    try:
        cluster.kubectl(*wait)
        assert [guest.libvirtd.qemu_pid(guest.name) for guest in guests] == [None, None]
        for guest in guests:
            assert cause_of(world.until_ready(guest, "Held")) == "Agent"
        with serviced.powered_off(cluster.watch_nodes):
            pass
        until_agent_ready(watches, agents, "node-b", restarts)
        # A start that is due on the other node comes, so one that were due here would have come.
        elsewhere.poweroff()
        world.until_off(elsewhere, "Guest")
        world.until(elsewhere, runs, "running again")
        assert [guest.libvirtd.qemu_pid(guest.name) for guest in guests] == [None, None]
        assert {reason_of(world.get(guest)) for guest in guests} == {"Held"}
    finally:
        cluster.kubectl(*end)

    for guest in guests:
        world.until(guest, runs, "running")


# --- helpers


def die(node: str, agents: Agents, cluster: Cluster, vms: OnEachNode, watches: Watches) -> str:
    """Power off a node with VMs, and on again when all of them are marked; when the marks came, in one line."""
    world, restarts = vms.world, agents.restarts(node)
    lives = other_than(node)
    vms.switch_on()
    before = vms.run_of(lives)
    more = [world.define(f"vm-{number}", libvirtd=cluster.nodes[node].libvirtd) for number in range(MORE_VMS)]
    world.apply(*more, nodeName=node, powerState="Stopped")
    for guest in more:
        world.until(guest, is_off, "off")
    of_node: list[Guest] = [vms.guests[node], *more]

    off, off_s = datetime.now(UTC), time.monotonic()
    with cluster.nodes[node].powered_off(cluster.watch_nodes):
        host = watches.first(watches.hosts, node, marked=True)
        marks = {guest.name: watches.first(watches.vms, guest.name, marked=True) for guest in of_node}
    agent = until_agent_ready(watches, agents, node, restarts)
    host_back = watches.first(watches.hosts, node, marked=False, after=host)
    vms_back = [watches.first(watches.vms, name, marked=False, after=mark) for name, mark in marks.items()]
    world.until(vms.guests[node], runs, "running again")
    agents.until_ready()

    assert version_of(host) < min(map(version_of, marks.values()))
    assert max(marked_at(one) - off for one in (host, *marks.values())).total_seconds() <= MARKED_WITHIN_S
    assert power_of(marks[vms.guests[node].name]) == "Running"
    host_s, *vms_s = (moment - off_s for moment in arrivals(watches, host, marks.values()))
    back_s = max(arrivals(watches, host_back, vms_back)) - watches.pods.arrived_s(agent)
    assert back_s <= RIGHT_WITHIN_S
    untouched = [*watches.hosts.versions(lives), *watches.vms.versions(vms.guests[lives].name)]
    assert not any(map(is_marked, untouched))
    assert vms.run_of(lives) == before
    return (
        f"{node} off: its Hypervisor marked after {host_s:.1f} s, its {len(vms_s)} VMs after {min(vms_s):.1f}"
        f" to {max(vms_s):.1f} s; all right {back_s:+.1f} s from when the agent was ready again"
    )


def arrivals(watches: Watches, host: Json, vms: Iterable[Json]) -> list[float]:
    """When these versions of a Hypervisor and its VMs came."""
    return [watches.hosts.arrived_s(host), *map(watches.vms.arrived_s, vms)]


def until_agent_ready(watches: Watches, agents: Agents, node: str, restarts: int) -> Json:
    """Wait until the agent of a node that was off is ready again; its pod then."""
    name = agents.pod(node)["metadata"]["name"]

    def ready(pod: Json) -> bool:
        containers = pod["status"].get("containerStatuses", [])
        return any(one["restartCount"] > restarts and one["ready"] for one in containers)

    pod = watches.pods.until(name, ready, first=0)[1]
    assert pod, f"the agent of {node} is not ready"
    return pod


def other_than(node: str) -> str:
    """The other node."""
    return next(name for name in NODES if name != node)


def is_marked(thing: Json) -> bool:
    """Whether a VM or a Hypervisor has the mark of a silent agent."""
    ready = ready_of(thing)
    return (ready.get("status"), ready.get("reason")) == ("Unknown", "AgentUnreachable")


def version_of(thing: Json) -> int:
    """The number of its version, which grows with each write of any object."""
    return int(thing["metadata"]["resourceVersion"])


def marked_at(thing: Json) -> datetime:
    """When the API server took the manager's write, in whole seconds."""
    fields = [one for one in thing["metadata"]["managedFields"] if one["manager"] == MANAGER]
    return max(datetime.fromisoformat(one["time"]) for one in fields if one.get("subresource") == "status")

"""Real managers beside a real agent: who is silent is told, and no VM is touched.

The Lease of the agent has the shortest duration that a manager respects.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.api.names import MANAGER_CONTROLLER
from lab.agent import Agent
from lab.guest import Guest
from lab.manager import Manager
from lab.processes import paused
from lab.proxy import Proxy
from lab.world import Json, Watch, World, ready_of, runs, until

HYPERVISORS = "/apis/virtsync.dev/v1alpha1/hypervisors"
GRACE = "20s"


@pytest.fixture
def hypervisors(world: World) -> Iterator[Watch]:
    """Every version of all Hypervisors."""
    with Watch(world.controlplane, HYPERVISORS) as watch:
        yield watch


def looked_after(world: World, *names: str, proxy: Proxy | None = None) -> tuple[list[Guest], Agent]:
    """VMs that run, as their objects say, and their agent."""
    guests = [world.start(name) for name in names]
    world.apply(*guests, powerState="Running")
    kubeconfig = kubeconfig_of(world, proxy) if proxy else None
    agent = world.new_agent(lease_namespace=world.name, identity="pod-1", lease_duration=GRACE, kubeconfig=kubeconfig)
    agent.start()
    for guest in guests:
        world.until(guest, runs, "running")
    return guests, agent


def kubeconfig_of(world: World, proxy: Proxy) -> Path:
    """The administrator's, through the proxy."""
    return proxy.kubeconfig(world.controlplane.kubeconfig)


def marked(thing: Json) -> bool:
    ready = ready_of(thing)
    return (ready.get("status"), ready.get("reason")) == ("Unknown", "AgentUnreachable")


def active(thing: Json) -> bool:
    """Whether the agent of a host has reported that it acts."""
    ready = ready_of(thing)
    return (ready.get("status"), ready.get("reason")) == ("True", "Active")


def complete(number: int) -> Callable[[Json], bool]:
    """Whether the agent of a host acts, and its report has all VMs: so many run and are ready."""

    def holds(thing: Json) -> bool:
        status = thing.get("status", {})
        vms = {"total": number, "running": number, "notReady": 0}
        return active(thing) and status.get("virtualMachines") == vms and "libvirtVersion" in status

    return holds


def version_of(thing: Json) -> int:
    return int(thing["metadata"]["resourceVersion"])


def leads(manager: Manager) -> bool:
    return "virtsync_manager_leader 1.0\n" in manager.metrics()


def blind_s(manager: Manager) -> float:
    line = next(line for line in manager.metrics().splitlines() if line.startswith("virtsync_monitor_blind_seconds"))
    return float(line.split()[1])


def events(world: World) -> set[str]:
    """The reasons of the manager's Events about the world's Hypervisor."""
    words = ("get", "events.v1.events.k8s.io", "--namespace=default", "-o", "json")
    found = json.loads(world.controlplane.kubectl(*words).stdout)["items"]
    ours = [one for one in found if one["reportingController"] == MANAGER_CONTROLLER]
    return {one["reason"] for one in ours if one["regarding"]["name"] == world.node}


def test_a_dead_agent_is_told_first_of_the_host_and_its_return_corrects_all(world: World, hypervisors: Watch) -> None:
    guests, agent = looked_after(world, "web", "db", "mail")
    runs_before = [world.run_id(guest) for guest in guests]
    reported, before = hypervisors.until(world.node, complete(3), first=0)
    manager = world.start_manager()
    until(lambda: leads(manager), "it does not lead")
    agent.kill()
    of_vms = [world.until(guest, marked, "marked") for guest in guests]
    at, host = hypervisors.until(world.node, marked, first=reported)
    assert before
    assert host
    assert version_of(host) < min(map(version_of, of_vms))
    assert all(vm["status"]["powerState"] == "Running" for vm in of_vms)
    assert all("has not been heard since" in ready_of(vm)["message"] for vm in of_vms)
    agent.start()
    for guest in guests:
        world.until(guest, runs, "right again")
        assert world.nothing_done(guest)
    after = hypervisors.until(world.node, complete(3), first=at)[1]
    assert after
    before["status"]["conditions"] = after["status"]["conditions"]
    # A host that is itself a VM may have got memory meanwhile.
    before["status"]["capacity"]["memoryMiB"] = after["status"]["capacity"]["memoryMiB"]
    assert after["status"] == before["status"]
    assert [world.run_id(guest) for guest in guests] == runs_before
    until(lambda: events(world) == {"AgentUnreachable", "AgentReturned"}, "its return is not told")


def test_an_agent_that_left_in_order_is_told_as_that(world: World, hypervisors: Watch) -> None:
    (guest,), agent = looked_after(world, "web")
    assert hypervisors.until(world.node, active, first=0)[1]
    world.start_manager()
    agent.stop()
    vm = world.until(guest, marked, "marked")
    assert "was stopped at" in ready_of(vm)["message"]
    assert hypervisors.until(world.node, marked, first=0)[1]


def test_a_leader_that_was_suspended_writes_nothing_when_it_wakes_up(world: World) -> None:
    (guest,), agent = looked_after(world, "web")
    first = world.start_manager()
    until(lambda: leads(first), "the first does not lead")
    second = world.start_manager("manager-2")
    assert not leads(second)
    with paused(first.pid):
        agent.kill()
        vm = world.until(guest, marked, "marked")
        assert leads(second)
    until(lambda: "this manager no longer leads" in [line["event"] for line in first.log_lines()], "it leads on")
    assert (leads(first), leads(second)) == (False, True)
    second.stop()
    until(lambda: leads(first), "nobody leads")
    # The first one has now repeated the round: what is marked is not written again.
    until(lambda: "virtsync_monitor_marks_waiting 0.0\n" in first.metrics(), "it is not through")
    assert version_of(world.get(guest)) == version_of(vm)


def test_a_leader_that_ends_in_order_is_followed_at_once(world: World) -> None:
    first = world.start_manager()
    until(lambda: leads(first), "the first does not lead")
    second = world.start_manager("manager-2")
    first.stop()
    until(lambda: leads(second), "nobody leads")
    lease = world.kubectl("get", "lease", "virtsync-manager", "-o", "jsonpath={.spec.holderIdentity}")
    assert lease == "manager-2"
    assert "manager stopped" in [line["event"] for line in first.log_lines()]


@pytest.mark.long
def test_while_the_api_server_is_away_nobody_is_dead(world: World, proxy: Proxy) -> None:
    """A minute instead of an hour: that is longer than the grace, and after 15 s nothing is counted any more."""
    guest, agent, manager = watched_through(world, proxy)
    proxy.cut()
    until(lambda: blind_s(manager) > 30, "it is not blind")
    until(lambda: not agent.ready(), "the agent needs no API server")
    proxy.pass_on()
    only_the_dead_are_marked(world, guest, agent, manager)


@pytest.mark.long
def test_a_manager_that_was_suspended_over_an_outage_marks_nobody_who_lives(world: World, proxy: Proxy) -> None:
    guest, agent, manager = watched_through(world, proxy)
    witness = world.start_manager("manager-2", kubeconfig=kubeconfig_of(world, proxy))
    with paused(manager.pid):
        proxy.cut()
        until(lambda: blind_s(witness) > 10, "the other one is not blind")
        proxy.pass_on()
    until(lambda: blind_s(manager) > 10, "it has not noticed that it was suspended")
    only_the_dead_are_marked(world, guest, agent, manager, witness)


def watched_through(world: World, proxy: Proxy) -> tuple[Guest, Agent, Manager]:
    """A VM, its agent and a manager that leads; both reach the API server through the proxy."""
    (guest,), agent = looked_after(world, "web", proxy=proxy)
    manager = world.start_manager("manager-1", kubeconfig=kubeconfig_of(world, proxy))
    until(lambda: leads(manager), "it does not lead")
    return guest, agent, manager


def only_the_dead_are_marked(world: World, guest: Guest, agent: Agent, *managers: Manager) -> None:
    """The VM is marked after its agent was killed, and was not before."""
    agent.wait_until_ready()
    until(lambda: any(map(leads, managers)), "nobody leads again")
    before = len(world.told(guest))
    agent.kill()
    world.until(guest, marked, "marked in the end")
    reasons = [reason for _, reason, _ in world.told(guest)]
    assert "AgentUnreachable" not in reasons[:before]
    assert reasons.count("AgentUnreachable") == 1

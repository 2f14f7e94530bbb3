"""The Lease of a node: one agent acts under its name, and none that could not renew it.

The times are those that a Lease grants: where nothing may wait for it to run out it is granted for an hour.
"""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from chaos.judge import asked
from controller.agent.app import NON_HOLDER_DELAY_S
from controller.kube import client
from controller.kube.lease_fields import LOCK
from lab.agent import ACTION_FINISHED, Agent
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import paused
from lab.proxy import Proxy
from lab.world import HANG_LIMIT_S, Json, Watch, World, is_off, ready_of, reason_of, runs, until
from tests.chaos.relay import Relay
from tests.chaos.test_event_thread import end, listener, says_that_it_is_deaf

MERGE_PATCH = "application/merge-patch+json"
DURATION_S = 6
RENEWED_EVERY_S = 0.2
FOREVER = "300s"


class Leases:
    """The Lease of the world's node: every version of it, and somebody who writes to it without asking the agents."""

    def __init__(self, world: World, watch: Watch) -> None:
        self._node, self._watch = world.node, watch
        self._api = client.load(world.controlplane.kubeconfig)
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{world.name}/leases"
        self._path = f"{self._collection}/{self._node}"

    def versions(self) -> list[Json]:
        return self._watch.versions(self._node)

    def until(self, holds: Callable[[Json], bool]) -> Json:
        """The first version for which this holds."""
        found = self._watch.until(self._node, holds, first=0)[1]
        assert found, self.versions()
        return found

    def create(self, holder: str, duration_s: int) -> None:
        self._api.request("POST", self._collection, {"metadata": {"name": self._node}, **written(holder, duration_s)})

    def write(self, holder: str, duration_s: int) -> Json:
        return self._api.request("PATCH", self._path, written(holder, duration_s), content_type=MERGE_PATCH)

    @contextmanager
    def renewed_by(self, holder: str, duration_s: int) -> Iterator[Callable[[], int]]:
        """Somebody takes it and renews it all the time; gives how often so far."""
        self.write(holder, duration_s)
        over, count = threading.Event(), 0

        def renew() -> None:
            nonlocal count
            while not over.wait(RENEWED_EVERY_S):
                self.write(holder, duration_s)
                count += 1

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            yield lambda: count
        finally:
            over.set()
            thread.join()


def written(holder: str, duration_s: int) -> Json:
    """What somebody writes who is no agent of ours."""
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return {"spec": {"holderIdentity": holder, "leaseDurationSeconds": duration_s, "renewTime": at}}


def holder_of(lease: Json) -> str:
    return str(lease["spec"].get("holderIdentity", ""))


def version_of(thing: Json) -> int:
    """Of all that etcd keeps the newer has the greater one."""
    return int(thing["metadata"]["resourceVersion"])


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """One that keeps a record of what it is asked."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder), logged=True) as running:
        yield running


@pytest.fixture
def leases(world: World) -> Iterator[Leases]:
    with Watch(world.controlplane, f"/apis/coordination.k8s.io/v1/namespaces/{world.name}/leases") as watch:
        yield Leases(world, watch)


def new_agent(world: World, identity: str, duration: str = FOREVER, **settings: Any) -> Agent:
    return world.new_agent(lease_namespace=world.name, identity=identity, lease_duration=duration, **settings)


def looked_after(world: World, duration: str, **settings: Any) -> tuple[Guest, Agent]:
    """A VM that runs, as its object says, and pod-1, whose Lease it is."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = new_agent(world, "pod-1", duration, **settings)
    agent.start()
    world.until(guest, runs, "running")
    return guest, agent


def unready(agent: Agent) -> str:
    """What /readyz says of the Lease."""
    return next((line for line in agent.ask("/readyz")[1].splitlines() if line.startswith("lease: ")), "")


def held(agent: Agent) -> bool:
    return "virtsync_lease_held 1.0\n" in agent.metrics()


# --- what is kept


def test_the_lease_says_who_looks_after_the_node(world: World, leases: Leases) -> None:
    agent = world.start_agent(lease_namespace=world.name, identity="pod-1")
    first = leases.until(lambda _: True)
    assert first["metadata"]["labels"]["app.kubernetes.io/name"] == "virtsync"
    assert first["metadata"]["annotations"][LOCK].startswith("pod-1 first-boot ")
    spec = first["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("pod-1", 40, 0)
    assert spec["acquireTime"] == spec["renewTime"]
    renewed = leases.until(lambda lease: version_of(lease) > version_of(first))["spec"]
    assert renewed["renewTime"] > spec["renewTime"]
    assert renewed == spec | {"renewTime": renewed["renewTime"]}
    assert held(agent)


def test_without_a_namespace_there_is_none_and_the_lock_is_enough(world: World, leases: Leases) -> None:
    guest = world.define()
    world.apply(guest, powerState="Running")
    agent = world.start_agent()
    world.until(guest, runs, "running")
    assert leases.versions() == []
    assert not held(agent)


def test_a_lease_that_is_deleted_is_created_again(world: World, leases: Leases) -> None:
    guest, agent = looked_after(world, f"{DURATION_S}s")
    first = leases.until(lambda _: True)
    world.kubectl("delete", "lease", world.node)
    again = leases.until(lambda lease: lease["metadata"]["uid"] != first["metadata"]["uid"])
    assert holder_of(again) == "pod-1"
    world.patch(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    assert held(agent)


def test_nothing_is_reported_before_the_first_claim_is_answered(world: World) -> None:
    """Else each VM for which an act is due would be ActionBlocked for a moment whenever an agent starts."""
    guest = world.define()
    world.apply(guest, powerState="Running")
    claiming, answered = threading.Event(), threading.Event()

    def hold_up(_: str, path: str) -> None:
        if f"/leases/{world.node}" in path:
            claiming.set()
            answered.wait()

    with Relay(world.controlplane) as relay:
        relay.before = hold_up
        new_agent(world, "pod-1", kubeconfig=relay.kubeconfig()).launch()
        assert claiming.wait(HANG_LIMIT_S), "it asks for no Lease"
        time.sleep(1)  # An agent that does not wait for the Lease reports within milliseconds.
        answered.set()
        world.until(guest, runs, "running")
    assert "ActionBlocked" not in [reason for _, reason, _ in world.told(guest)]


# --- one agent ends, and another comes


def test_one_that_ends_in_order_frees_it(world: World, leases: Leases) -> None:
    guest, agent = looked_after(world, FOREVER)
    agent.stop()
    released = leases.until(lambda lease: not holder_of(lease))["spec"]
    assert released["leaseDurationSeconds"] == 1
    world.patch(guest, powerState="Stopped")
    agent.start(identity="pod-2", boot_id="second-boot")
    world.until(guest, is_off, "off")
    taken = leases.until(lambda lease: holder_of(lease) == "pod-2")["spec"]
    assert taken["leaseTransitions"] == 1
    assert taken["acquireTime"] == taken["renewTime"]


def test_it_is_freed_when_the_last_act_has_returned(world: World, leases: Leases) -> None:
    guest, agent = looked_after(world, FOREVER)
    with paused(guest.qemu_pid):
        world.patch(guest, powerState="Stopped")
        world.until_ready(guest, "HypervisorBusy")
        agent.signal(signal.SIGTERM)
        until(lambda: any("is stopping" in line["event"] for line in agent.log_lines()), "it has not heard the signal")
        assert holder_of(leases.versions()[-1]) == "pod-1"
    assert agent.wait_until_ended() == 0
    world.until_acts(guest, "SHUTDOWN done")
    acted = next(line["timestamp"] for line in agent.log_lines() if line["event"] == ACTION_FINISHED)
    freed = leases.until(lambda lease: not holder_of(lease))["spec"]["renewTime"]
    assert datetime.fromisoformat(freed) >= datetime.fromisoformat(acted)


def test_after_a_kill_the_lock_of_the_node_is_proof_enough(world: World, leases: Leases) -> None:
    guest, agent = looked_after(world, FOREVER)
    agent.kill()
    world.patch(guest, powerState="Stopped")
    agent.start(identity="pod-2")
    world.until(guest, is_off, "off")
    holders = [holder_of(lease) for lease in leases.versions()]
    assert list(dict.fromkeys(holders)) == ["pod-1", "pod-2"]


def test_a_container_that_is_started_anew_in_its_pod_goes_on_with_it(world: World, leases: Leases) -> None:
    guest, agent = looked_after(world, FOREVER)
    agent.kill()
    world.patch(guest, powerState="Stopped")
    agent.start(boot_id="second-boot")  # even over a reboot of the node: the Pod remains the same
    world.until(guest, is_off, "off")
    assert {holder_of(lease) for lease in leases.versions()} == {"pod-1"}
    assert leases.versions()[-1]["spec"]["leaseTransitions"] == 0


def test_another_libvirt_is_another_lock(world: World, leases: Leases) -> None:
    """Two agents that were given the name of one node: the second waits until the first is really gone."""
    first = new_agent(world, "pod-1", f"{DURATION_S}s")
    first.start()
    second = new_agent(world, "pod-2", f"{DURATION_S}s", uri="test:///default")
    second.launch()
    until(lambda: "pod-1 holds it" in unready_or_not_there(second), "it does not say who is in the way")
    first.kill()
    second.wait_until_ready()
    leases.until(lambda lease: holder_of(lease) == "pod-2")


def test_who_may_not_act_lets_stand_for_a_while_what_another_has_written(world: World) -> None:
    """One sees the domain, the other does not: each would put right what the other says, as fast as it can."""
    guest, _ = looked_after(world, FOREVER)
    second = new_agent(world, "pod-2", uri="test:///default")
    second.launch()
    told_s = []
    for _ in range(4):
        world.until_ready(guest, "DomainNotFound")
        told_s.append(time.monotonic())
        world.until(guest, runs, "put right by the one that acts")
    # What it has heard at its start may have it look once more.
    assert told_s[-1] - told_s[1] >= NON_HOLDER_DELAY_S


def unready_or_not_there(agent: Agent) -> str:
    try:
        return unready(agent)
    except OSError:
        return ""


# --- somebody else has it


def test_one_that_somebody_left_is_taken_when_it_has_run_out(world: World, leases: Leases) -> None:
    guest = world.define()
    leases.create("stranger", DURATION_S)
    world.apply(guest, powerState="Running")
    agent = new_agent(world, "pod-1")
    agent.launch()
    blocked = world.until_ready(guest, "ActionBlocked")
    assert ready_of(blocked)["status"] == "False"
    assert "stranger holds it" in ready_of(blocked)["message"]
    assert world.acts(guest) == []
    world.until(guest, runs, "running")
    assert {holder_of(lease) for lease in leases.versions()} == {"stranger", "pod-1"}
    assert agent.ready()


def test_one_that_somebody_renews_is_left_to_them(world: World, leases: Leases, libvirtd: Libvirtd) -> None:
    guest, agent = looked_after(world, f"{DURATION_S}s")
    with leases.renewed_by("stranger", DURATION_S) as renewals:
        taken = leases.until(lambda lease: holder_of(lease) == "stranger")
        until(lambda: "stranger holds it" in unready(agent), "it does not say who is in the way")
        assert not held(agent)
        world.patch(guest, powerState="Stopped")
        blocked = world.until_ready(guest, "ActionBlocked")
        assert "stranger holds it" in ready_of(blocked)["message"]
        enough = renewals() + 1.5 * DURATION_S / RENEWED_EVERY_S
        until(lambda: renewals() > enough, "it is not renewed")
        assert {holder_of(lease) for lease in leases.versions() if version_of(lease) >= version_of(taken)} == {
            "stranger"
        }
        assert asked(libvirtd.calls_log, guest.uuid) == ["START"], "which the test has asked for"
    world.until(guest, is_off, "off")
    world.until_acts(guest, "SHUTDOWN done")
    leases.until(lambda lease: version_of(lease) > version_of(taken) and holder_of(lease) == "pod-1")


# --- it cannot be renewed


@pytest.mark.parametrize("meanwhile", ["taken", "left alone"])
def test_who_could_not_renew_it_acts_no_more(
    world: World, leases: Leases, proxy: Proxy, libvirtd: Libvirtd, meanwhile: str
) -> None:
    guest, agent = looked_after(world, "2s", kubeconfig=proxy.kubeconfig(world.controlplane.kubeconfig))
    proxy.cut()
    until(lambda: "the API server does not answer" in unready(agent), "it does not say that it has run out")
    assert not held(agent)
    assert agent.ask("/livez")[0] == HTTPStatus.OK
    world.patch(guest, powerState="Stopped")
    if meanwhile == "taken":
        leases.write("stranger", 3600)
    last = leases.versions()[-1]
    proxy.pass_on()
    if meanwhile == "taken":
        blocked = world.until(guest, lambda vm: "stranger holds it" in ready_of(vm)["message"], "left to the stranger")
        assert reason_of(blocked) == "ActionBlocked"
        assert asked(libvirtd.calls_log, guest.uuid) == ["START"]
        world.kubectl("delete", "lease", world.node)
    told = world.until_ready(guest, "ShuttingDown")
    renewed = leases.until(lambda lease: version_of(lease) > version_of(last) and holder_of(lease) == "pod-1")
    assert version_of(renewed) < version_of(told)
    world.until(guest, is_off, "off")


def test_who_is_ill_does_not_renew_it(world: World, leases: Leases) -> None:
    guest, agent = looked_after(world, f"{DURATION_S}s")
    end(listener(agent))
    until(lambda: says_that_it_is_deaf(agent), "it does not know")
    until(lambda: "event loop" in unready(agent), "it renews the Lease all the same")
    last = leases.versions()[-1]
    world.patch(guest, powerState="Stopped")
    blocked = world.until_ready(guest, "ActionBlocked")
    assert "event loop" in ready_of(blocked)["message"]
    assert world.acts(guest) == []
    assert leases.versions()[-1] == last

"""The API server is away, its watch breaks, somebody else writes: no change is lost and nothing is done on a guess.

Which acts there were is read from libvirtd's own record.
"""

import http.client
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chaos.judge import asked
from controller.kube.watch import BURST
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import paused
from lab.proxy import Proxy
from lab.world import API, HANG_LIMIT_S, World, cause_of, is_off, moment, power_of, reason_of, runs, until
from tests.chaos.relay import Broken, Relay, ending, error_within, refused

API_SERVER = "kube-apiserver"
BY_TEST = ["START"]
"""What the tests have asked for themselves; the agent starts a domain in the same words."""
WATCHES_PER_S = 5
"""How often a broken watch may be begun anew, after the burst that kopf has; unguarded it is hundreds of times."""
CONNECTIONS_BURST, CONNECTIONS_PER_S = 20, 10
"""How many an agent may try while nobody answers it: the burst at first, then the rate; unguarded it is hundreds per s.

The burst: what happens to a VM is reported at once, for some of them twice, and each watch, the Lease, the host's
report and the probe are tried at once too. Measured: 10 to 14 within the first 1.2 to 2.4 s.
"""
INACTIVITY_LIMIT_S = 75
"""A watch that says nothing is given up within a minute; the rest is for what follows, on a machine that is busy."""
OUTAGE_S = 60
"""By then all waits of an agent have become as long as they can be."""
AFTER_OUTAGE_S = 15
"""What an agent promises after the first good answer."""
MARK = "mark.example/back"
CONFLICTS = re.compile(
    r'^apiserver_request_total\{code="409",.*resource="virtualmachines",.*subresource="status",.*\} (\S+)$',
    re.MULTILINE,
)


@pytest.fixture
def relay(crd: ControlPlane) -> Iterator[Relay]:
    """Passes requests on to the API server, and breaks watches."""
    with Relay(crd) as running:
        yield running


@contextmanager
def dead(world: World, proxy: Proxy, witness: Guest) -> Iterator[None]:
    """The API server is killed with -9; when it is back in the end the test itself is the first to hear of it."""
    world.controlplane.kill(API_SERVER)
    try:
        yield
    finally:
        proxy.cut()
        world.controlplane.start(API_SERVER)
    world.kubectl("annotate", "kvm", witness.name, f"{MARK}=yes")
    world.until(witness, lambda vm: MARK in vm["metadata"].get("annotations", {}), "marked")
    proxy.pass_on()


# --- apiserver_down


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("fault", "unanswered"),
    [
        pytest.param("dead", 5, id="dead"),
        pytest.param("hangs", 2, id="hangs"),
        pytest.param("dead", 15, id="dead-for-a-minute", marks=pytest.mark.long),
    ],
)
def test_apiserver_down(world: World, libvirtd: Libvirtd, proxy: Proxy, fault: str, unanswered: int) -> None:
    """`unanswered`: how many requests the agent has made in vain after each VM has failed to be reported."""
    names = ("paused", "powered-off", "killed", "destroyed", "stubborn", "same")
    paused_one, powered_off, killed, destroyed, stubborn, same = on = [world.start(name) for name in names]
    started = world.define("started")
    changed = (paused_one, powered_off, killed, destroyed, started)
    world.apply(*on, powerState="Running", shutdown={"gracePeriodSeconds": 5})
    world.apply(started, powerState="Stopped")
    agent = world.start_agent(kubeconfig=proxy.kubeconfig(world.controlplane.kubeconfig), force_wait="1s")
    for guest in on:
        world.until(guest, runs, "running")
    world.until(started, is_off, "off")
    stubborn.ignore_power_button()
    world.patch(stubborn, powerState="Stopped")
    world.until_act(stubborn, "SHUTDOWN done")

    with dead(world, proxy, same) if fault == "dead" else paused(world.controlplane.pid(API_SERVER)):
        began_s, accepted = time.monotonic(), proxy.accepted
        world.virsh("suspend", paused_one.name)
        powered_off.poweroff()
        killed.kill()
        world.virsh("destroy", destroyed.name)
        world.virsh("start", started.name)
        for guest in changed:
            until(partial(has_failed, world, guest), f"nobody wants to report {guest.name}")
        enough = proxy.accepted + unanswered
        until(lambda: proxy.accepted >= enough, "the agent does not ask any more", limit_s=HANG_LIMIT_S + unanswered)
        tried, passed_s = proxy.accepted - accepted, time.monotonic() - began_s
        assert tried <= CONNECTIONS_BURST + passed_s * CONNECTIONS_PER_S
        assert agent.ask("/livez")[0] == HTTPStatus.OK
        by_hand = {paused_one: ["START", "SUSPEND"], stubborn: ["START", "SHUTDOWN"]}
        for guest in (*on, started):
            assert asked(libvirtd.calls_log, guest.uuid) == by_hand.get(guest, BY_TEST)
        states = [world.virsh("domstate", guest.name) for guest in changed]
        assert states == ["paused", "shut off", "shut off", "shut off", "running"]

    world.until(paused_one, lambda vm: power_of(vm) == "Paused", "told to be paused")
    for guest, cause in ((powered_off, "Guest"), (killed, "Crash"), (destroyed, "External")):
        world.until_off(guest, cause)
    world.until(started, lambda vm: power_of(vm) == "Running", "told to run")
    for guest in (paused_one, powered_off, killed, destroyed):
        world.until(guest, runs, "running again")
    world.until(started, is_off, "off again")
    assert cause_of(world.until(stubborn, is_off, "off")) == "Agent"
    assert asked(libvirtd.calls_log, stubborn.uuid)[-1] == "DESTROY"
    assert asked(libvirtd.calls_log, same.uuid) == BY_TEST
    assert {power for power, *_ in world.told(same)} <= {"Unknown", "Running"}
    assert agent.running
    assert [line for line in agent.log_lines() if failed_inside(line)] == []


def has_failed(world: World, guest: Guest) -> bool:
    """Whether an agent has said that it could not report it."""
    key = f"{world.name}/{guest.name}"
    lines = [line for agent in world.agents for line in agent.log_lines()]
    return any(line.get("vm") == key and "will retry" in line["event"] for line in lines)


def failed_inside(line: dict[str, Any]) -> bool:
    return line["level"] == "error" and str(line.get("logger", "")).startswith("controller")


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        pytest.param(refused(HTTPStatus.TOO_MANY_REQUESTS, "TooManyRequests"), {"retry_after": "1"}, id="429"),
        pytest.param(refused(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError"), {}, id="500"),
        pytest.param(refused(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable"), {}, id="503"),
        pytest.param(refused(HTTPStatus.UNAUTHORIZED, "Unauthorized"), {}, id="401"),
    ],
)
def test_after_an_outage_all_is_right_soon(world: World, relay: Relay, answer: Broken, headers: dict[str, str]) -> None:
    """Each VM has its own backoff, and the watch has another: none of them is waited out."""
    paused_ones = [world.start(f"paused-{number}") for number in range(3)]
    changed = world.start("changed")
    world.apply(*paused_ones)
    world.apply(changed, powerState="Running")
    agent = world.start_agent(kubeconfig=relay.kubeconfig())
    for guest in paused_ones:
        world.until(guest, lambda vm: power_of(vm) == "Running", "seen")
    world.until(changed, runs, "running")

    relay.refuse_all(answer, **headers)
    for guest in paused_ones:
        world.virsh("suspend", guest.name)
    world.patch(changed, powerState="Stopped")
    until(lambda: all(has_failed(world, guest) for guest in paused_ones), "nobody wants to report them")
    time.sleep(OUTAGE_S)
    relay.mend()
    ended_s = time.monotonic()
    for guest in paused_ones:
        left_s = ended_s + AFTER_OUTAGE_S - time.monotonic()
        until(lambda guest=guest: power_of(world.get(guest)) == "Paused", f"{guest.name} is told late", limit_s=left_s)  # type: ignore[misc]
    left_s = ended_s + AFTER_OUTAGE_S - time.monotonic()
    until(lambda: is_off(world.get(changed)), "the change of spec is served late", limit_s=left_s)
    until(agent.ready, "it is not ready any more")


@pytest.mark.timeout(300)
def test_slow_is_not_away(world: World, relay: Relay) -> None:
    """Writes hang, and all else is answered: nothing is listed for that, and the watch is heeded."""
    guests = [world.start(f"slow-{number}") for number in range(6)]
    world.apply(*guests)
    agent = world.start_agent(kubeconfig=relay.kubeconfig())
    for guest in guests:
        world.until(guest, lambda vm: power_of(vm) == "Running", "seen")
    over, hung = threading.Event(), list[str]()

    def hang(method: str, path: str) -> None:
        if method == "PATCH":
            hung.append(path)
            over.wait()

    before = relay.lists
    relay.before = hang
    try:
        for guest in guests:
            world.virsh("suspend", guest.name)
        until(lambda: len(hung) >= 3 * len(guests), "it gives up", limit_s=3 * HANG_LIMIT_S)
        assert relay.lists == before
        assert agent.ready()
    finally:
        relay.before = lambda _method, _path: None
        over.set()
    for guest in guests:
        world.until(guest, lambda vm: power_of(vm) == "Paused", "told to be paused")


def test_apiserver_down_while_the_wish_changes(world: World, libvirtd: Libvirtd, proxy: Proxy) -> None:
    """An agent that could not hear of it does not act on the old wish."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(kubeconfig=proxy.kubeconfig(world.controlplane.kubeconfig))
    world.until(guest, runs, "running")
    proxy.cut()
    world.patch(guest, powerState="Stopped")
    guest.kill()
    until(lambda: has_failed(world, guest), "nobody wants to report it")
    enough = proxy.accepted + 5
    until(lambda: proxy.accepted >= enough, "the agent does not ask any more")
    proxy.pass_on()
    world.until(guest, lambda vm: power_of(vm) == "Crashed" and reason_of(vm) == "InSync", "told to be off")
    assert asked(libvirtd.calls_log, guest.uuid) == BY_TEST
    assert world.acts(guest) == []


# --- watch_broken


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        pytest.param(ending(), BURST + 6, id="ends-at-once"),
        pytest.param(error_within(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError"), 5, id="error-within"),
        pytest.param(refused(HTTPStatus.GONE, "Expired"), 5, id="gone"),
        pytest.param(error_within(HTTPStatus.GONE, "Expired"), 5, id="gone-within", marks=pytest.mark.long),
        pytest.param(ending(b'{"type": "MODIFIED", "obj'), 5, id="ends-within-a-word", marks=pytest.mark.long),
        pytest.param(refused(HTTPStatus.UNAUTHORIZED, "Unauthorized"), 5, id="unauthorized", marks=pytest.mark.long),
        pytest.param(refused(HTTPStatus.FORBIDDEN, "Forbidden"), 5, id="forbidden", marks=pytest.mark.long),
        pytest.param(
            refused(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable"), 5, id="unavailable", marks=pytest.mark.long
        ),
    ],
)
def test_watch_broken(world: World, relay: Relay, answer: Broken, times: int) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent(kubeconfig=relay.kubeconfig())
    world.until(guest, runs, "running")
    relay.break_watches(answer)
    world.patch(guest, powerState="Stopped")
    passed_s = relay.until_broken(times)
    burst = BURST if times > BURST else 0  # the others end kopf, and its restarts have a backoff
    assert times - 1 <= burst + passed_s * WATCHES_PER_S
    relay.mend()
    world.until(guest, is_off, "off")
    world.patch(guest, powerState="Running")
    world.until(guest, runs, "running again")
    assert agent.running


@pytest.mark.parametrize("broken", ["virtualmachines", "hypervisors"])
def test_an_error_in_one_watch(world: World, relay: Relay, broken: str) -> None:
    """The other watch must not be left behind by kopf when it restarts: such a watch never ended, nor did the agent."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent(kubeconfig=relay.kubeconfig())
    world.until(guest, runs, "running")
    relay.break_watches(error_within(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError"), of=broken)
    relay.until_broken(5)
    relay.mend()
    until(agent.ready, "one of the watches does not work again", limit_s=2 * HANG_LIMIT_S)
    world.patch(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    agent.stop()


@pytest.mark.long
@pytest.mark.timeout(400)
def test_watch_broken_silently(world: World, relay: Relay) -> None:
    """A connection over which nothing comes any more, not even a bookmark, is given up after a while."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(kubeconfig=relay.kubeconfig())
    world.until(guest, runs, "running")
    relay.silence_watches()
    world.patch(guest, powerState="Stopped")
    until(lambda: is_off(world.get(guest)), "it does not hear of the change", limit_s=INACTIVITY_LIMIT_S)
    world.patch(guest, powerState="Running")
    world.until(guest, runs, "running again")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_an_agent_that_may_not_watch_is_not_ready(world: World, relay: Relay) -> None:
    """Whatever the reason, rights included: users wait for it, and lists come rarely."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent(kubeconfig=relay.kubeconfig())
    world.until(guest, runs, "running")
    relay.break_watches(refused(HTTPStatus.FORBIDDEN, "Forbidden"))
    until(lambda: not agent.ready(), "it is ready, and deaf", limit_s=2 * HANG_LIMIT_S)
    told = agent.ask("/readyz")[1]
    assert "watch: changes of VirtualMachines have not been watched for" in told
    assert "the API server answers 403" in told
    assert agent.ask("/livez")[0] == HTTPStatus.OK
    relay.mend()
    until(agent.ready, "it is not ready again")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_kubeconfig_exchanged_for_one_that_is_refused(world: World, tmp_path: Path) -> None:
    """The agent goes on with what it had, and says so."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    good = world.controlplane.kubeconfig.read_text()
    mine = tmp_path / "kubeconfig"
    mine.write_text(good)
    agent = world.start_agent(kubeconfig=mine)
    world.until(guest, runs, "running")
    refused_one = json.loads(good)
    refused_one["users"][0]["user"]["as"] = "ann"
    mine.write_text(json.dumps(refused_one))
    until(lambda: not agent.ready(), "it does not look at it", limit_s=2 * HANG_LIMIT_S)
    told = agent.ask("/readyz")[1]
    assert told.startswith("credentials: the previous ones are still in use, because the kubeconfig ")
    assert "its as asks for impersonation" in told
    world.patch(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    mine.write_text(good)
    until(agent.ready, "it is not ready again", limit_s=2 * HANG_LIMIT_S)


@pytest.mark.long
def test_the_definition_is_deleted_and_comes_back(world: World) -> None:
    """One line says so, and the agent that was there all the time goes on."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent()
    world.until(guest, runs, "running")
    before = len(agent.log_lines())
    world.controlplane.kubectl("delete", "crd", "virtualmachines.virtsync.dev")
    try:
        until(lambda: said(agent, before, "does not know VirtualMachine"), "it says nothing")
        until(lambda: not agent.ready(), "it is ready, and has nothing to look at", limit_s=2 * HANG_LIMIT_S)
    finally:
        world.controlplane.install_crds()
    world.apply(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    until(agent.ready, "it is not ready again")
    assert "Traceback" not in agent.log.read_text()
    complaints = [line["event"] for line in agent.log_lines()[before:] if line["level"] in {"warning", "error"}]
    assert len(complaints) <= 4, complaints


def said(agent: Agent, before: int, words: str) -> bool:
    return any(words in sentence for sentence in agent.log_sentences()[before:])


def test_watch_broken_by_cuts(world: World, proxy: Proxy) -> None:
    """Each change comes just before or after the connections are reset."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(kubeconfig=proxy.kubeconfig(world.controlplane.kubeconfig))
    world.until(guest, runs, "running")
    for _ in range(5):
        proxy.cut_once()
        world.patch(guest, powerState="Paused")
        proxy.cut_once()
        world.until(guest, lambda vm: power_of(vm) == "Paused" and reason_of(vm) == "InSync", "paused")
        world.patch(guest, powerState="Running")
        proxy.cut_once()
        world.until(guest, runs, "running")


def test_watch_broken_by_a_new_api_server(world: World, libvirtd: Libvirtd, proxy: Proxy) -> None:
    """It no longer knows what happened while the agent was away, and says so: 410."""
    changed, deleted, same = (world.start(name) for name in ("changed", "deleted", "same"))
    world.apply(changed, deleted, same, powerState="Running")
    world.start_agent(kubeconfig=proxy.kubeconfig(world.controlplane.kubeconfig))
    for guest in (changed, deleted, same):
        world.until(guest, runs, "running")
    proxy.cut()
    version = world.get(same)["metadata"]["resourceVersion"]
    world.patch(changed, powerState="Stopped")
    world.kubectl("delete", "kvm", deleted.name)
    with dead(world, proxy, same):
        pass
    assert watched_from(world, version)["object"]["code"] == HTTPStatus.GONE
    world.until(changed, is_off, "off")
    deleted.kill()
    world.outlast_settling()
    assert asked(libvirtd.calls_log, deleted.uuid) == BY_TEST
    world.patch(same, powerState="Stopped")
    world.until(same, is_off, "off")


def watched_from(world: World, version: str) -> dict[str, Any]:
    """The first that a watch tells that goes on from a version."""
    address = urlsplit(world.controlplane.url).netloc
    connection = http.client.HTTPSConnection(
        address, context=ssl.create_default_context(cafile=world.controlplane.ca), timeout=HANG_LIMIT_S
    )
    try:
        path = f"/apis/{API}/virtualmachines?watch=true&resourceVersion={version}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {world.controlplane.token}"})
        told: dict[str, Any] = json.loads(connection.getresponse().readline())
        return told
    finally:
        connection.close()


# --- conflict

FOREIGN = {"state": "SHUTOFF", "reason": "FAILED"}


def write_status(world: World, guest: Guest) -> None:
    """Somebody else writes into its status: never the same twice, for that would be no write."""
    condition = {
        "type": "Foreign",
        "status": "True",
        "reason": "Foreign",
        "message": str(time.monotonic_ns()),
        "lastTransitionTime": moment(in_s=0),
    }
    patch = json.dumps({"status": {"powerState": "Absent", "libvirt": FOREIGN, "conditions": [condition]}})
    world.kubectl("patch", "kvm", guest.name, "--subresource=status", "--type=merge", "-p", patch)


def tells(vm: dict[str, Any], power: str, reason: str) -> bool:
    """Whether all that is the agent's is told as it saw it; a condition of another type is another's."""
    return vm["status"]["libvirt"] != FOREIGN and (power_of(vm), reason_of(vm)) == (power, reason)


def conflicts(world: World) -> float:
    """How many writes of a status the API server has refused because another came before."""
    return sum(map(float, CONFLICTS.findall(world.controlplane.kubectl("get", "--raw", "/metrics").stdout)))


def test_conflict(world: World, relay: Relay) -> None:
    """Somebody else writes just before the agent does, three times in a row, and no watch tells of it."""
    guest = world.start()
    world.apply(guest)
    agent = world.start_agent(kubeconfig=relay.kubeconfig())
    world.until(guest, lambda vm: power_of(vm) == "Running", "seen")
    before, left = conflicts(world), [1, 2, 3]

    def write_first(method: str, path: str) -> None:
        if method == "PATCH" and urlsplit(path).path.endswith(f"/{guest.name}/status") and left:
            left.pop()
            write_status(world, guest)

    relay.silence_watches()
    relay.before = write_first
    world.virsh("suspend", guest.name)
    world.until(guest, lambda vm: tells(vm, "Paused", "Observed"), "told to be paused")
    assert conflicts(world) - before == 3
    assert [line for line in agent.log_lines() if failed_inside(line)] == []


def test_conflict_without_end(world: World, libvirtd: Libvirtd) -> None:
    """Somebody else writes all the time: what is told is right again and again, and what is due is done once."""
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent(settle_pause="0s")
    world.until(guest, runs, "running")
    with writing(world, guest):
        for _ in range(3):
            world.virsh("suspend", guest.name)
            world.until(guest, lambda vm: power_of(vm) == "Paused", "told to be paused")
            world.until(guest, lambda vm: tells(vm, "Running", "InSync"), "running")
        world.patch(guest, powerState="Stopped")
        world.until(guest, lambda vm: tells(vm, "Stopped", "InSync"), "off")
    until(lambda: tells(world.get(guest), "Stopped", "InSync"), "the last word is somebody else's")
    assert asked(libvirtd.calls_log, guest.uuid) == [*BY_TEST, *(["SUSPEND", "RESUME"] * 3), "SHUTDOWN"]


@contextmanager
def writing(world: World, guest: Guest) -> Iterator[None]:
    """Somebody else writes into its status all the time."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            write_status(world, guest)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()

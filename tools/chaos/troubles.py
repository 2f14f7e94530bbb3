"""The faults: each is a context manager, and the fault lasts until it exits."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import urllib3
from kubernetes.client import ApiException

from chaos.deeds import HOLD, qemu_killed
from chaos.handovers import careless, in_order, migrated_unseen, power_cut, while_starting
from chaos.orders import LEASE_S
from chaos.relay import Refusal
from chaos.stage import DRIVERS, MANAGERS, QEMU_NODES, Stage
from chaos.stories import until
from lab.controlplane import COMPONENTS
from lab.processes import paused

CARELESS = "hand-over of a VM that runs"
UNSEEN = "migrated while its agent is away"
CLOCK_STEPS_S = (-1800, 7200)
AWAY_S = LEASE_S + 4, LEASE_S + 14
"""How long an agent is away so that its objects are marked."""
KILLED_NODES = QEMU_NODES
"""The agent of the third node is never ended, so that one agent lives as long as the run."""


@contextmanager
def libvirtd_dies(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A libvirtd is killed."""
    node = dice.choice(list(DRIVERS))
    stage.kill_libvirtd(node)
    try:
        yield
    finally:
        stage.start_libvirtd(node)


@contextmanager
def libvirtd_hangs(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A libvirtd hangs."""
    with stage.freezing(stage.libvirtds[dice.choice(list(DRIVERS))].pid):
        yield


@contextmanager
def qemus_hang(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A few QEMUs hang."""
    runs = stage.runs.alive()
    with paused(*(run.pid for run in dice.sample(runs, min(len(runs), dice.randint(1, 4))))):
        yield


@contextmanager
def libvirt_answers_lost(stage: Stage, _: random.Random) -> Iterator[None]:
    """libvirt executes the agents' calls, and the connection ends before the answer."""
    for wire in stage.wires.values():
        wire.losing = True
    try:
        yield
    finally:
        for wire in stage.wires.values():
            wire.losing = False


@contextmanager
def slow_starts(stage: Stage, dice: random.Random) -> Iterator[None]:
    """All starts on a node wait."""
    with stage.starts[dice.choice(QEMU_NODES)].slow():
        yield


@contextmanager
def hanging_start(stage: Stage, dice: random.Random) -> Iterator[None]:
    """The starts of two VMs hang, longer than the timeout of any other libvirt call; their QEMUs have just died."""
    vms = dice.sample([vm for vm in stage.vms if vm.guests], 2)
    with ExitStack() as hanging:
        for vm in vms:
            for node in vm.guests:
                hanging.enter_context(stage.starts[node].slow(vm.name))
            qemu_killed(stage, vm, dice)
        yield


@contextmanager
def agent_dies(stage: Stage, dice: random.Random) -> Iterator[None]:
    """An agent is killed."""
    node = dice.choice(KILLED_NODES)
    stage.agents[node].kill()
    try:
        yield
    finally:
        stage.launch(node)


@contextmanager
def agent_ends(stage: Stage, dice: random.Random) -> Iterator[None]:
    """An agent is asked to end, as in an upgrade."""
    node = dice.choice(KILLED_NODES)
    stage.agents[node].stop()
    try:
        yield
    finally:
        stage.launch(node)


@contextmanager
def agent_hangs(stage: Stage, dice: random.Random) -> Iterator[None]:
    """An agent is stopped (SIGSTOP)."""
    with stage.freezing(stage.agents[dice.choice(list(DRIVERS))].pid):
        yield


def managers_die(count: int) -> Callable[[Stage, random.Random], AbstractContextManager[None]]:
    """One of the managers is killed, or all are."""

    @contextmanager
    def begin(stage: Stage, dice: random.Random) -> Iterator[None]:
        names = dice.sample(MANAGERS, count)
        for name in names:
            stage.managers[name].kill()
        try:
            yield
        finally:
            for name in names:
                stage.launch(name)

    return begin


@contextmanager
def manager_ends(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A manager is asked to end."""
    name = dice.choice(MANAGERS)
    stage.managers[name].stop()
    try:
        yield
    finally:
        stage.launch(name)


@contextmanager
def manager_hangs(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A manager is stopped (SIGSTOP), also for longer than the leader's Lease lasts."""
    with stage.suspending(dice.choice(MANAGERS)):
        yield


def maintenance(mode: str) -> Callable[[Stage, random.Random], AbstractContextManager[None]]:
    """A node is in maintenance for a while."""

    @contextmanager
    def begin(stage: Stage, dice: random.Random) -> Iterator[None]:
        node = dice.choice(list(DRIVERS))
        stage.declare(node, {"mode": mode, "reason": "chaos"})
        try:
            yield
        finally:
            with suppress(ApiException, urllib3.exceptions.HTTPError):  # then it ends when the chaos does
                stage.declare(node, None)

    return begin


@contextmanager
def clock_jumps(stage: Stage, dice: random.Random) -> Iterator[None]:
    """The wall clock of an agent is half an hour behind, or hours ahead."""
    with stage.jumping(dice.choice(list(DRIVERS)), dice.choice(CLOCK_STEPS_S)):
        yield


@contextmanager
def clock_jumps_in_backoff(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A VM has crashed and waits for its next start; then the clock jumps, and stays wrong until the next round.

    Or the clock becomes correct just after a backoff was written with a wrong clock.
    """
    vm = dice.choice([vm for vm in stage.vms if vm.guests])
    steps_s = (0, dice.choice(CLOCK_STEPS_S))
    before_s, after_s = dice.choice([steps_s, steps_s[::-1]])

    def backing_off() -> bool:
        qemu_killed(stage, vm, dice)
        return "nextAttemptTime" in stage.get(vm).get("status", {}).get("backoff", {})

    with ExitStack() as undo:
        undo.callback(stage.set_clock, vm.node, 0)
        stage.set_clock(vm.node, before_s)
        released = {"annotations": {HOLD: None}}
        stage.patch(vm, {"metadata": released, "spec": {"powerState": "Running", "restartPolicy": "Always"}})
        until(backing_off, f"{vm.name} has no backoff")
        undo.pop_all()
    stage.set_clock(vm.node, after_s)
    yield


@contextmanager
def component_dies(stage: Stage, name: str) -> Iterator[None]:
    """A component of the control plane is killed."""
    stage.controlplane.kill(name)
    try:
        yield
    finally:
        stage.controlplane.start(name)


@contextmanager
def component_hangs(stage: Stage, name: str) -> Iterator[None]:
    """A component of the control plane is stopped (SIGSTOP)."""
    with paused(stage.controlplane.pid(name)):
        yield


@contextmanager
def etcd_restored(stage: Stage, dice: random.Random) -> Iterator[None]:
    """etcd is restored from a backup while the agents keep running."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        copy = Path(folder) / "copy"
        with paused(stage.controlplane.pid("etcd")):  # so the copy is of one moment
            stage.controlplane.back_up(copy)
        time.sleep(dice.uniform(3, 8))
        for name in reversed(COMPONENTS):
            stage.controlplane.kill(name)
        stage.controlplane.restore(copy)
        stage.controlplane.start()
    yield


@contextmanager
def network_stalls(stage: Stage, dice: random.Random) -> Iterator[None]:
    """The network between an agent or a manager and the API server drops everything silently."""
    with stage.stalling(dice.choice(list(stage.proxies))):
        yield


@contextmanager
def network_cut(stage: Stage, dice: random.Random) -> Iterator[None]:
    """The network between an agent or a manager and the API server is cut."""
    with _cut(stage, dice.choice(list(stage.proxies))):
        yield


@contextmanager
def agent_cut_off(stage: Stage, dice: random.Random) -> Iterator[None]:
    """The network between an agent and the API server is cut for longer than the agent's Lease lasts."""
    with _cut(stage, dice.choice(list(DRIVERS))):
        yield


@contextmanager
def _cut(stage: Stage, name: str) -> Iterator[None]:
    stage.proxies[name].cut()
    try:
        yield
    finally:
        stage.proxies[name].pass_on()


def storm(status: HTTPStatus, *, told: bool) -> Callable[[Stage, random.Random], AbstractContextManager[None]]:
    """Most requests of all agents are refused, with or without a Retry-After header."""

    @contextmanager
    def begin(stage: Stage, dice: random.Random) -> Iterator[None]:
        for relay in stage.relays.values():
            relay.refusal = Refusal(status, dice.randint(1, 5) if told else None)
        try:
            yield
        finally:
            for relay in stage.relays.values():
                relay.refusal = None

    return begin


@contextmanager
def status_answers_lost(stage: Stage, _: random.Random) -> Iterator[None]:
    """The API server writes the agents' reports, and its answers do not arrive."""
    for relay in stage.relays.values():
        relay.losing = True
    try:
        yield
    finally:
        for relay in stage.relays.values():
            relay.losing = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault; its target, which no other fault hits at the same time; and its maximum duration."""

    name: str
    hits: frozenset[str]
    shortest_s: float
    longest_s: float
    begin: Callable[[Stage, random.Random], AbstractContextManager[None]]
    share: int = 1
    """How many cards of this fault are in the deck."""
    rewrites: bool = False
    """It resets the objects to an earlier state: no VM moves in this round, because the move would be lost."""
    moves: bool = False
    """Whether the fault moves a VM to another node."""


def _hits(*what: str) -> frozenset[str]:
    return frozenset(what)


TROUBLES = (
    Trouble("libvirtd killed", _hits("libvirtd"), 0.1, 3, libvirtd_dies),
    Trouble("libvirtd hangs", _hits("libvirtd"), 0.1, 25, libvirtd_hangs),
    Trouble("libvirt's answers lost", _hits("wire"), 4, 12, libvirt_answers_lost),
    Trouble("slow starts", _hits("starts"), 2, 8, slow_starts),
    Trouble("hanging starts", _hits("starts"), 8, 20, hanging_start),
    Trouble("QEMUs hang", _hits("qemus"), 0.1, 15, qemus_hang),
    Trouble("agent killed", _hits("agents"), 0.1, 3, agent_dies, share=2),
    Trouble("agent ended", _hits("agents"), 0.1, 3, agent_ends),
    Trouble("agent hangs", _hits("agents"), 0.1, 5, agent_hangs),
    Trouble("agent stays away", _hits("agents"), *AWAY_S, agent_dies),
    Trouble("agent cut off for long", _hits("network"), *AWAY_S, agent_cut_off),
    Trouble("maintenance: Hold", _hits("maintenance"), 6, 20, maintenance("Hold"), share=2),
    Trouble("maintenance: Shutdown", _hits("maintenance"), 8, 25, maintenance("Shutdown"), share=2),
    Trouble("a manager killed", _hits("managers"), 0.1, 20, managers_die(1)),
    Trouble("all managers killed", _hits("managers"), 0.1, 10, managers_die(len(MANAGERS))),
    Trouble("a manager ended", _hits("managers"), 0.1, 5, manager_ends),
    Trouble("a manager hangs", _hits("managers"), 0.1, 20, manager_hangs),
    Trouble("clock jumps", _hits("clocks"), 0.1, 10, clock_jumps),
    Trouble("clock jumps in a backoff", _hits("clocks"), 0.1, 3, clock_jumps_in_backoff),
    Trouble("kube-apiserver killed", _hits("api"), 0.1, 4, lambda stage, _: component_dies(stage, "kube-apiserver")),
    Trouble("kube-apiserver hangs", _hits("api"), 0.1, 15, lambda stage, _: component_hangs(stage, "kube-apiserver")),
    Trouble("etcd killed", _hits("api"), 0.1, 3, lambda stage, _: component_dies(stage, "etcd")),
    Trouble("etcd hangs", _hits("api"), 0.1, 6, lambda stage, _: component_hangs(stage, "etcd")),
    Trouble("etcd restored from a backup", _hits("api"), 0, 0, etcd_restored, rewrites=True),
    Trouble("network cut", _hits("network"), 0.1, 8, network_cut),
    Trouble("network stalls", _hits("network"), 0.1, 15, network_stalls),
    Trouble("storm of 429", _hits("relay"), 1, 6, storm(HTTPStatus.TOO_MANY_REQUESTS, told=False)),
    Trouble("storm of 429 with Retry-After", _hits("relay"), 1, 6, storm(HTTPStatus.TOO_MANY_REQUESTS, told=True)),
    Trouble("storm of 503", _hits("relay"), 1, 6, storm(HTTPStatus.SERVICE_UNAVAILABLE, told=False)),
    Trouble("storm of 503 with Retry-After", _hits("relay"), 1, 6, storm(HTTPStatus.SERVICE_UNAVAILABLE, told=True)),
    Trouble("answers to reports lost", _hits("relay"), 3, 8, status_answers_lost, share=2),
    Trouble("hand-over in good order", _hits("moving"), 0, 1, in_order, share=2, moves=True),
    Trouble(CARELESS, _hits("moving"), 1, 5, careless, share=2, moves=True),
    Trouble(
        "hand-over with an open start", _hits("moving", "starts"), 1, 6, while_starting(cut=False), share=2, moves=True
    ),
    Trouble(
        "hand-over with an open start, network cut",
        _hits("moving", "starts", "network"),
        1,
        6,
        while_starting(cut=True),
        moves=True,
    ),
    Trouble(UNSEEN, _hits("moving", "agents", "libvirtd"), 0, 1, migrated_unseen, moves=True),
    Trouble(
        "node loses power, its VMs are vouched for", _hits("moving", "agents", "libvirtd"), 1, 6, power_cut, moves=True
    ),
)

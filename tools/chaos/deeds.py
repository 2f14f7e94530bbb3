"""What happens to VMs: what users write, what guests do, what somebody on the host does; and what goes wrong."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import libvirt

from chaos.stage import Stage, Vm
from lab.processes import paused

Deed = Callable[[Stage, Vm, random.Random], None]

FLICKER_S = 0.05


# --- users


def wants(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Another power state is wanted."""
    states = ["Running", "Running", "Running", "Stopped", "Stopped", None]
    if vm.guest:  # the test driver cannot start paused
        states.append("Paused")
    stage.patch(vm, {"spec": {"powerState": dice.choice(states)}})


def restart(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """A restart is asked for, now or in a moment."""
    at = datetime.fromtimestamp(time.time() + dice.choice([0, 0, 3]), UTC)
    stage.patch(vm, {"spec": {"restartRequestTime": f"{at:%Y-%m-%dT%H:%M:%SZ}"}})


def policy(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Another restart policy."""
    stage.patch(vm, {"spec": {"restartPolicy": dice.choice(["Always", "Always", "OnFailure", "Never"])}})


def way_of_shutdown(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Another way of shutdown."""
    mode = dice.choice(["GracefulThenForce", "GracefulThenForce", "Force", "Graceful"])
    stage.patch(vm, {"spec": {"shutdown": {"mode": mode, "gracePeriodSeconds": dice.randint(1, 6)}}})


def hold(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """It is held, or no longer."""
    why = dice.choice(["backup", None, None])
    stage.patch(vm, {"metadata": {"annotations": {"hold.virtsync.dev/chaos": why}}})


def recreate(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Its object is deleted and comes again."""
    stage.recreate(vm)


def give_away(stage: Stage, vm: Vm, _: random.Random) -> None:
    """It is bound to a node that nobody looks after."""
    stage.patch(vm, {"spec": {"nodeName": "elsewhere"}})


# --- guests


def guest_does(letter: str) -> Deed:
    """The guest is told to do something."""

    def deed(_stage: Stage, vm: Vm, _dice: random.Random) -> None:
        if vm.guest:
            vm.guest.whisper(letter)

    return deed


def qemu_killed(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Its QEMU dies."""
    if pid := stage.qemu.qemu_pid(vm.name):
        os.kill(pid, signal.SIGKILL)


# --- somebody on the host


def call(name: str, do: Callable[[libvirt.virDomain], object]) -> Deed:
    """A call of libvirt that bears this name in libvirtd's record."""

    def deed(stage: Stage, vm: Vm, _: random.Random) -> None:
        with stage.domain(vm) as domain, stage.own_call(name, vm):
            do(domain)

    return deed


start = call("virDomainCreateWithFlags", lambda domain: domain.createWithFlags(0))
destroy = call("virDomainDestroy", lambda domain: domain.destroy())
suspend = call("virDomainSuspend", lambda domain: domain.suspend())
resume = call("virDomainResume", lambda domain: domain.resume())
save = call("virDomainManagedSave", lambda domain: domain.managedSave(0))


def shutdown(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Somebody shuts it down, by another call than the agent's."""
    if vm.guest:
        call("virDomainShutdown", lambda domain: domain.shutdown())(stage, vm, dice)
    else:
        call("virDomainShutdownFlags", lambda domain: domain.shutdownFlags(0))(stage, vm, dice)


def bounce(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Somebody restarts it the hard way."""
    destroy(stage, vm, dice)
    time.sleep(FLICKER_S)
    start(stage, vm, dice)


def flicker(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Somebody pauses it for a moment."""
    suspend(stage, vm, dice)
    time.sleep(FLICKER_S)
    resume(stage, vm, dice)


DEEDS: dict[Deed, int] = {
    wants: 12,
    restart: 4,
    policy: 2,
    way_of_shutdown: 3,
    hold: 4,
    recreate: 2,
    give_away: 1,
    start: 4,
    destroy: 5,
    suspend: 4,
    resume: 3,
    save: 2,
    shutdown: 3,
    bounce: 2,
    flicker: 3,
}
GUEST_DEEDS: dict[Deed, int] = {
    guest_does("p"): 4,  # power off
    guest_does("r"): 2,  # reset
    guest_does("c"): 2,  # panic
    guest_does("s"): 2,  # sleep
    guest_does("i"): 3,  # ignore the power button
    guest_does("h"): 1,  # hang
    guest_does("w"): 2,  # fill the disk
    qemu_killed: 3,
}


# --- faults: context managers, that are over when they end


@contextmanager
def libvirtd_dies(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A libvirtd is killed; all that the test driver knew is lost, and defined anew."""
    libvirtd = stage.libvirtds[dice.choice(list(stage.libvirtds))]
    libvirtd.kill()
    try:
        yield
    finally:
        libvirtd.start()
        stage.define_test_domains()


@contextmanager
def libvirtd_hangs(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A libvirtd answers nobody."""
    with stage.freezing(stage.libvirtds[dice.choice(list(stage.libvirtds))].pid):
        yield


@contextmanager
def qemus_hang(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A few QEMUs answer nobody."""
    vms = dice.sample([vm for vm in stage.vms if vm.guest], dice.randint(1, 4))
    with paused(*(pid for vm in vms if (pid := stage.qemu.qemu_pid(vm.name)))):
        yield


@contextmanager
def agent_dies(stage: Stage, dice: random.Random) -> Iterator[None]:
    """An agent is killed."""
    agent = stage.agents[dice.choice(list(stage.agents))]
    agent.kill()
    try:
        yield
    finally:
        agent.launch()


@contextmanager
def agent_ends(stage: Stage, dice: random.Random) -> Iterator[None]:
    """An agent is asked to end, as an upgrade does."""
    agent = stage.agents[dice.choice(list(stage.agents))]
    agent.stop()
    try:
        yield
    finally:
        agent.launch()


@contextmanager
def agent_hangs(stage: Stage, dice: random.Random) -> Iterator[None]:
    """An agent stands still."""
    with stage.freezing(stage.agents[dice.choice(list(stage.agents))].pid):
        yield


@contextmanager
def clock_jumps(stage: Stage, dice: random.Random) -> Iterator[None]:
    """The wall clock of an agent is half an hour behind, or hours ahead."""
    with stage.jumping(dice.choice(list(stage.agents)), dice.choice([-1800, 7200])):
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
    """A component of the control plane stands still."""
    with paused(stage.controlplane.pid(name)):
        yield


@contextmanager
def network(stage: Stage, dice: random.Random, *, stalled: bool) -> Iterator[None]:
    """The network between an agent and the API server is cut, or swallows everything."""
    proxy = stage.proxies[dice.choice(list(stage.proxies))]
    if stalled:
        proxy.stall()
    else:
        proxy.cut()
    try:
        yield
    finally:
        proxy.pass_on()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault, what it hits (never twice at a time), how often it is chosen, and how long it may last."""

    name: str
    hits: str
    weight: int
    longest_s: float
    begin: Callable[[Stage, random.Random], AbstractContextManager[None]]


TROUBLES = (
    Trouble("libvirtd killed", "libvirtd", 3, 3, libvirtd_dies),
    Trouble("libvirtd hangs", "libvirtd", 2, 25, libvirtd_hangs),
    Trouble("QEMUs hang", "qemus", 3, 15, qemus_hang),
    Trouble("agent killed", "agents", 2, 3, agent_dies),
    Trouble("agent ended", "agents", 1, 3, agent_ends),
    Trouble("agent hangs", "agents", 2, 5, agent_hangs),
    Trouble("clock jumps", "clocks", 3, 15, clock_jumps),
    Trouble("kube-apiserver killed", "api", 2, 6, lambda stage, _: component_dies(stage, "kube-apiserver")),
    Trouble("kube-apiserver hangs", "api", 2, 15, lambda stage, _: component_hangs(stage, "kube-apiserver")),
    Trouble("etcd killed", "api", 1, 4, lambda stage, _: component_dies(stage, "etcd")),
    Trouble("etcd hangs", "api", 1, 10, lambda stage, _: component_hangs(stage, "etcd")),
    Trouble("network cut", "network", 3, 10, lambda stage, dice: network(stage, dice, stalled=False)),
    Trouble("network stalls", "network", 3, 15, lambda stage, dice: network(stage, dice, stalled=True)),
)

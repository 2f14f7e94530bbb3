"""What happens to VMs in a moment: what users write, what guests do, what somebody on the host does."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import libvirt

from chaos.stage import Stage, Vm

Doing = Callable[[Stage, Vm, random.Random], None]

FLICKER_S = 0.05
HOLD = "hold.virtsync.dev/chaos"


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done to a VM, and how often it is chosen among those that can be done to it."""

    name: str
    weight: int
    do: Doing
    real: bool = False
    """It needs a QEMU."""
    staying: bool = False
    """It is for VMs that never move: it starts a domain by hand, or lets an object forget where the VM runs."""

    def suits(self, vm: Vm) -> bool:
        """Whether it can be done to this VM."""
        return (bool(vm.guests) or not self.real) and not (self.staying and vm.moves)


# --- users


def wants(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Another power state is wanted."""
    states = ["Running", "Running", "Running", "Stopped", "Stopped", None]
    if vm.guests:  # the test driver cannot start paused
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
    stage.patch(vm, {"metadata": {"annotations": {HOLD: why}}})


def recreate(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Its object is deleted and comes again."""
    stage.recreate(vm)


def give_away(stage: Stage, vm: Vm, _: random.Random) -> None:
    """It is bound to a node that nobody looks after."""
    stage.patch(vm, {"spec": {"nodeName": "elsewhere"}})


# --- guests


def guest_does(letter: str) -> Doing:
    """The guest is told to do something."""

    def do(stage: Stage, vm: Vm, _dice: random.Random) -> None:
        vm.guests[stage.where(vm)].whisper(letter)

    return do


def qemu_killed(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Its QEMU dies."""
    for pid in stage.qemu_pids(vm):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- somebody on the host


def call(name: str, do: Callable[[libvirt.virDomain], object]) -> Doing:
    """A call of libvirt that bears this name in libvirtd's record."""

    def doing(stage: Stage, vm: Vm, _: random.Random) -> None:
        node = stage.where(vm)
        with stage.domain(vm, node) as domain, stage.own_call(name, vm, node):
            do(domain)

    return doing


start = call("virDomainCreateWithFlags", lambda domain: domain.createWithFlags(0))
destroy = call("virDomainDestroy", lambda domain: domain.destroy())
suspend = call("virDomainSuspend", lambda domain: domain.suspend())
resume = call("virDomainResume", lambda domain: domain.resume())
save = call("virDomainManagedSave", lambda domain: domain.managedSave(0))


def shutdown(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Somebody shuts it down, by another call than the agent's."""
    if vm.guests:
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


DEEDS = (
    Deed("another power state is wanted", 12, wants),
    Deed("a restart is asked for", 4, restart),
    Deed("another restart policy", 2, policy),
    Deed("another way of shutdown", 3, way_of_shutdown),
    Deed("held, or no longer", 4, hold),
    Deed("object deleted and made anew", 2, recreate, staying=True),
    Deed("bound to no agent's node", 1, give_away, staying=True),
    Deed("virsh start", 4, start, staying=True),
    Deed("virsh destroy", 5, destroy),
    Deed("virsh suspend", 4, suspend),
    Deed("virsh resume", 8, resume),
    Deed("virsh managedsave", 2, save),
    Deed("virsh shutdown", 3, shutdown),
    Deed("virsh destroy and start", 2, bounce, staying=True),
    Deed("virsh suspend and resume", 3, flicker),
    Deed("guest powers itself off", 4, guest_does("p"), real=True),
    Deed("guest resets", 2, guest_does("r"), real=True),
    Deed("guest panics", 2, guest_does("c"), real=True),
    Deed("guest sleeps", 2, guest_does("s"), real=True),
    Deed("guest ignores the power button", 3, guest_does("i"), real=True),
    Deed("guest hangs", 1, guest_does("h"), real=True),
    Deed("guest fills its disk", 2, guest_does("w"), real=True),
    Deed("QEMU killed", 3, qemu_killed, real=True),
)

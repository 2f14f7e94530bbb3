"""Deeds, the short events of the chaos: changes by users, by guests, and by an administrator on the host."""

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
    """A deed on a VM, and its weight in the choice among the possible deeds."""

    name: str
    weight: int
    do: Doing
    real: bool = False
    """Whether the deed needs a QEMU."""
    staying: bool = False
    """Only for VMs that never move: it starts a domain manually, or makes an object forget where the VM runs."""

    def suits(self, vm: Vm) -> bool:
        """Whether the deed is possible for this VM."""
        return (bool(vm.guests) or not self.real) and not (self.staying and vm.moves)


# --- users


def wants(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Change the desired power state."""
    states = ["Running", "Running", "Running", "Stopped", "Stopped", None]
    if vm.guests:  # the test driver cannot start paused
        states.append("Paused")
    stage.patch(vm, {"spec": {"powerState": dice.choice(states)}})


def restart(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Request a restart, now or in a moment."""
    at = datetime.fromtimestamp(time.time() + dice.choice([0, 0, 3]), UTC)
    stage.patch(vm, {"spec": {"restartRequestTime": f"{at:%Y-%m-%dT%H:%M:%SZ}"}})


def policy(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Change the restart policy."""
    stage.patch(vm, {"spec": {"restartPolicy": dice.choice(["Always", "Always", "OnFailure", "Never"])}})


def way_of_shutdown(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Change the shutdown settings."""
    mode = dice.choice(["GracefulThenForce", "GracefulThenForce", "Force", "Graceful"])
    stage.patch(vm, {"spec": {"shutdown": {"mode": mode, "gracePeriodSeconds": dice.randint(1, 6)}}})


def hold(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Hold the VM, or release it."""
    why = dice.choice(["backup", None, None])
    stage.patch(vm, {"metadata": {"annotations": {HOLD: why}}})


def recreate(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Delete the object and create it again."""
    stage.recreate(vm)


def give_away(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Bind the object to a node without an agent."""
    stage.patch(vm, {"spec": {"nodeName": "elsewhere"}})


# --- guests


def guest_does(letter: str) -> Doing:
    """Send the guest a command."""

    def do(stage: Stage, vm: Vm, _dice: random.Random) -> None:
        vm.guests[stage.where(vm)].whisper(letter)

    return do


def qemu_killed(stage: Stage, vm: Vm, _: random.Random) -> None:
    """Kill the QEMU."""
    for pid in stage.qemu_pids(vm):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- an administrator on the host


def call(name: str, do: Callable[[libvirt.virDomain], object]) -> Doing:
    """Make the libvirt call that has this name in libvirtd's log."""

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
    """Shut the domain down, by a different call than the agent's."""
    if vm.guests:
        call("virDomainShutdown", lambda domain: domain.shutdown())(stage, vm, dice)
    else:
        call("virDomainShutdownFlags", lambda domain: domain.shutdownFlags(0))(stage, vm, dice)


def bounce(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Destroy the domain and start it again."""
    destroy(stage, vm, dice)
    time.sleep(FLICKER_S)
    start(stage, vm, dice)


def flicker(stage: Stage, vm: Vm, dice: random.Random) -> None:
    """Pause the domain for a moment."""
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

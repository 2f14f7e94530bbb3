"""Handovers of VMs that are defined on two nodes with the same UUID, as on shared storage."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import urllib3
from kubernetes.client import ApiException

from chaos.deeds import HOLD
from chaos.orders import CONFIRMED_OFF
from chaos.stage import Stage, Vm
from chaos.stories import POLL_S, NotReachedError, until

LISTED_LIMIT_S = 30.0
"""How long a migration can stay unlisted: the managers might be away. Then an administrator binds the VM."""
OFF = {"Stopped", "Saved", "Crashed"}


@contextmanager
def in_order(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A VM is stopped, handed over and started again; preferably back to a node that was confirmed off before."""
    vm = _choose(stage, dice, lambda vm: vm.vouched not in {"", vm.node})
    _stop(stage, vm)
    _hand_over(stage, vm, powerState="Running")
    yield


@contextmanager
def careless(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A running VM is handed over; preferably one whose node was confirmed off before and still has the annotation."""
    vm = _choose(stage, dice, lambda vm: vm.vouched == vm.node)
    stage.patch(vm, {"spec": {"powerState": "Running"}})
    until(lambda: bool(stage.qemu_pids(vm)), f"{vm.name} does not run")
    vouched = vm.vouched == vm.node
    _hand_over(stage, vm)
    stage.old_vouchings += vouched
    yield


def while_starting(*, cut: bool) -> Callable[[Stage, random.Random], AbstractContextManager[None]]:
    """A VM is handed over while its start takes long; sometimes the agent is cut off before it can report."""

    @contextmanager
    def begin(stage: Stage, dice: random.Random) -> Iterator[None]:
        vm = _choose(stage, dice, lambda _: True)
        _stop(stage, vm)
        node, proxy = vm.node, stage.proxies[vm.node]
        try:
            with stage.starts[node].slow(vm.name):
                stage.patch(vm, {"spec": {"powerState": "Running"}})
                until(lambda: vm.name in stage.starts[node].waiting(), f"{vm.name} is not being started")
                if cut:
                    proxy.cut()
                _hand_over(stage, vm)
                yield
        finally:
            if cut:
                proxy.pass_on()

    return begin


@contextmanager
def power_cut(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A node loses power; an administrator confirms its VMs as off and hands them over; the node comes back later."""
    node = dice.choice([vm.node for vm in stage.vms if vm.moves])
    stage.cut_power(node)
    try:
        vms = [vm for vm in stage.vms if vm.moves and vm.node == node]
        for vm in dice.sample(vms, min(2, len(vms))):
            if not stage.qemu_pids(vm):
                _vouch_and_hand_over(stage, vm)
        yield
    finally:
        stage.boot(node)


@contextmanager
def migrated_unseen(stage: Stage, dice: random.Random) -> Iterator[None]:
    """A VM is migrated while its agent is away, and its libvirtd forgets this; nobody changes the object.

    The agent returns when the manager has listed the VM as running elsewhere, or when somebody has changed the object.
    """
    vm = _choose(stage, dice, lambda _: True)
    source, target = vm.node, vm.other_node
    stage.patch(vm, {"spec": {"powerState": "Running"}})
    until(lambda: bool(stage.qemu_pids(vm)), f"{vm.name} does not run")
    stage.agents[source].kill()
    try:
        stage.migrate(vm, source, target)
        stage.kill_libvirtd(source)
        stage.start_libvirtd(source)
        yield
    finally:
        _wait_until_known(stage, vm, source, target)
        stage.launch(source)


def _wait_until_known(stage: Stage, vm: Vm, source: str, target: str) -> None:
    deadline_s = time.monotonic() + LISTED_LIMIT_S
    while any(run.node == target for run in stage.runs.of(vm.uuid)):
        with suppress(ApiException, urllib3.exceptions.HTTPError):
            if stage.runs_elsewhere(vm, source):
                stage.unseen_migrations += 1
                return
            if time.monotonic() > deadline_s:
                stage.patch(vm, {"spec": {"nodeName": target}})
                vm.node = target
                return
        time.sleep(POLL_S)


def _vouch_and_hand_over(stage: Stage, vm: Vm) -> None:
    status = stage.get(vm).get("status", {})
    if status.get("nodeName") != vm.node:
        raise NotReachedError(f"{vm.node} has not reported {vm.name}")
    # The node, and the time of its last report that is confirmed, from the agents' message.
    words = " ".join(word for word in (vm.node, status.get("runTransitionTime")) if word)
    node, vm.vouched = vm.other_node, vm.node
    vouched = {"annotations": {CONFIRMED_OFF: words}}
    stage.patch(vm, {"metadata": vouched, "spec": {"nodeName": node, "powerState": "Running"}})
    vm.node = node


def _choose(stage: Stage, dice: random.Random, best: Callable[[Vm], bool]) -> Vm:
    vms = [vm for vm in stage.vms if vm.moves and stage.where(vm) == vm.node]
    if not vms:
        raise NotReachedError("each VM that moves runs elsewhere than it is bound to")
    return dice.choice([vm for vm in vms if best(vm)] or vms)


def _stop(stage: Stage, vm: Vm) -> None:
    """Stop the VM by its spec, and wait until its node reports it as off."""
    by_force = {"powerState": "Stopped", "shutdown": {"mode": "Force"}}
    stage.patch(vm, {"metadata": {"annotations": {HOLD: None}}, "spec": by_force})

    def off() -> bool:
        status = stage.get(vm).get("status", {})
        return status.get("nodeName") == vm.node and status["powerState"] in OFF and not stage.qemu_pids(vm)

    until(off, f"{vm.name} is not off")


def _hand_over(stage: Stage, vm: Vm, **spec: str) -> None:
    node = vm.other_node
    stage.patch(vm, {"spec": {"nodeName": node} | spec})
    vm.node = node

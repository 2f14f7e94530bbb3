"""Two hundred VMs in one commit."""

from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from bench.parts import start_on_test_driver
from gitops.engine import Delivery
from gitops.ledger import Row
from lab.world import World, is_off, runs, until
from tests.gitops.conftest import Git

Json = dict[str, Any]
COUNT = 200


@pytest.mark.timeout(600)
def test_one_commit_switches_two_hundred_vms(
    world: World, git: Git, delivery: Delivery, row: Callable[[str], Row]
) -> None:
    names = [f"vm-{number:03}" for number in range(COUNT)]
    # The test driver forgets all when its last connection closes.
    books = libvirt.open(world.libvirtd.test_uri)
    try:
        # Its only domain at first.
        books.lookupByName("test").destroy()
        start_on_test_driver(books, names)
        world.start_agent(uri=world.libvirtd.test_uri)

        def commit(power: str) -> str:
            return git.commit({f"{name}.yaml": manifest(world, name, power) for name in names})

        first = commit("Running")
        told = row(f"{COUNT} VMs, which run, in one commit")
        delivery.create()
        delivery.until_healthy(first)
        told.engine_did("healthy")
        for power, done in (("Stopped", is_off), ("Running", runs)):
            revision = commit(power)
            told = row(f"one commit: powerState {power} of {COUNT} VMs")
            until_all(world, done)
            told.vm_did("all as asked")
            delivery.until_healthy(revision)
            told.engine_did("healthy")
            on = books.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            assert len(on) == (COUNT if power == "Running" else 0)
    finally:
        books.close()


def manifest(world: World, name: str, power: str) -> Json:
    spec = {"nodeName": world.node, "powerState": power}
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": spec}


def until_all(world: World, done: Callable[[Json], bool]) -> None:
    until(lambda: sum(map(done, world.objects())) == COUNT, "Not all are as asked.", limit_s=300)

"""The Hypervisor of a node, which its agent keeps on a real API server: what it shows, and what it is told."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from controller import __version__
from lab import LabError
from lab.world import Json, Watch, World

HYPERVISORS = "/apis/virtsync.dev/v1alpha1/hypervisors"


class Host:
    """The Hypervisor of a world's node, with each of its versions."""

    def __init__(self, world: World, watch: Watch) -> None:
        self.world, self.name, self._watch = world, world.node, watch
        self._first = 0

    def until(self, holds: Callable[[Json], bool], what: str) -> Json:
        """The first version for which this holds, from where the last wait ended."""
        self._first, found = self._watch.until(self.name, holds, first=self._first)
        if found is None:
            told = "\n".join(json.dumps(version.get("status")) for version in self.versions()[-5:])
            raise LabError(f"{self.name}: not {what}; the last versions:\n{told}\n{self.world._told_by_agents()}")
        return found

    def until_ready(self, reason: str) -> Json:
        return self.until(lambda host: condition(host).get("reason") == reason, f"Ready with reason {reason}")

    def until_quiesced(self, status: str) -> Json:
        return self.until(
            lambda host: condition(host, "Quiesced").get("status") == status and acknowledged(host),
            f"Quiesced {status}",
        )

    def until_acknowledged(self) -> Json:
        return self.until(acknowledged, "acknowledged")

    def versions(self) -> list[Json]:
        return self._watch.versions(self.name)

    def get(self) -> Json:
        found: Json = json.loads(self.world.controlplane.kubectl("get", "kvmhost", self.name, "-o=json").stdout)
        return found

    def maintain(self, mode: str, reason: str = "new RAM") -> None:
        """Declare a maintenance, as docs/operations.md says."""
        self.patch({"maintenance": {"mode": mode, "reason": reason}})

    def end(self) -> None:
        """End the maintenance."""
        self.patch({"maintenance": None})

    def patch(self, spec: Json) -> None:
        words = ("patch", "kvmhost", self.name, "--type=merge", "-o=json", "-p", json.dumps({"spec": spec}))
        patched = json.loads(self.world.controlplane.kubectl(*words).stdout)["metadata"]["resourceVersion"]
        self.until(lambda host: bool(host["metadata"]["resourceVersion"] == patched), "patched")

    def events(self) -> list[str]:
        listed = self.world.controlplane.kubectl("get", "events.events.k8s.io", "-n=default", "-o=json").stdout
        return [one["reason"] for one in json.loads(listed)["items"] if one["regarding"]["name"] == self.name]


def condition(host: Json, kind: str = "Ready") -> Json:
    found = host.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})


def acknowledged(host: Json) -> bool:
    return bool(host["status"].get("observedGeneration") == host["metadata"]["generation"])


@contextmanager
def watched(world: World) -> Iterator[Host]:
    with Watch(world.controlplane, HYPERVISORS) as watch:
        yield Host(world, watch)


@pytest.fixture
def host(world: World) -> Iterator[Host]:
    with watched(world) as found:
        yield found


# --- what it shows


def test_an_agent_creates_its_hypervisor_and_says_what_its_host_has(world: World, host: Host) -> None:
    managed, unmanaged = world.start("managed"), world.start("unmanaged")
    world.apply(managed, powerState="Running")
    world.start_agent(lease_namespace=world.name)
    found = host.until(
        lambda one: bool(condition(one).get("reason") == "Active" and one["status"].get("libvirtVersion")), "ready"
    )
    assert found["spec"] == {}
    status = found["status"]
    assert status["observedGeneration"] == found["metadata"]["generation"]
    assert (status["leaseNamespace"], status["nodeBootID"], status["agentVersion"]) == (
        world.name,
        "first-boot",
        __version__,
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+", status["qemuVersion"])
    assert status["capacity"]["cpus"] > 0
    found = host.until(
        lambda one: one["status"].get("virtualMachines") == {"total": 1, "running": 1, "notReady": 0}, "counted"
    )
    names = {one["name"]: one for one in found["status"]["unmanaged"]["domains"]}
    assert names[unmanaged.name]["powerState"] == "Running"
    assert names[unmanaged.name]["reason"] == "BOOTED"
    assert managed.name not in names

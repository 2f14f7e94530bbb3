"""What the store of an agent may expect of an API server, asked of a real one and of the simulation of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import pytest

from controller.api.names import GROUP, KIND, VERSION
from controller.api.virtualmachine import Condition, DesiredPowerState, Hold, PowerState, Status, VmKey
from controller.kube import paths
from controller.kube.client import Api, load
from controller.kube.store import KubeStore, key_of
from controller.runtime.errors import Behind, Conflicted, Vanished
from lab.controlplane import ControlPlane
from tests.sim.api import SimulatedApi

Json = dict[str, Any]
RUNNING, STOPPED, _ = DesiredPowerState
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class User(Protocol):
    """Whoever has VirtualMachines there."""

    def create(self, key: VmKey, spec: Json) -> None: ...
    def edit(self, key: VmKey, spec: Json, annotations: Json | None = None) -> None: ...
    def delete(self, key: VmKey) -> object: ...
    def write_status(self, key: VmKey, status: Json) -> None: ...
    def status(self, key: VmKey) -> Json: ...


class Kubectl:
    """The same with kubectl.

    After each write it lists without a version, because then the API server waits for its watch cache. Otherwise the
    next list of a store might be older than the write.
    """

    def __init__(self, controlplane: ControlPlane) -> None:
        self._controlplane = controlplane

    def _write(self, *words: str, namespace: str = "", input_: str | None = None) -> None:
        self._controlplane.kubectl(*([f"--namespace={namespace}"] if namespace else []), *words, input=input_)
        self._controlplane.kubectl("get", "kvm", "--all-namespaces")

    def create(self, key: VmKey, spec: Json) -> None:
        meta = {"namespace": key.namespace, "name": key.name}
        vm = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": meta, "spec": spec}
        self._write("create", "-f", "-", input_=json.dumps(vm))

    def edit(self, key: VmKey, spec: Json, annotations: Json | None = None) -> None:
        patch = json.dumps({"spec": spec, "metadata": {"annotations": annotations or {}}})
        self._write("patch", "kvm", key.name, "--type=merge", "-p", patch, namespace=key.namespace)

    def delete(self, key: VmKey) -> None:
        self._write("delete", "kvm", key.name, namespace=key.namespace)

    def write_status(self, key: VmKey, status: Json) -> None:
        patch = json.dumps({"status": status})
        words = ("patch", "kvm", key.name, "--subresource=status", "--type=merge", "-p", patch)
        self._write(*words, namespace=key.namespace)

    def status(self, key: VmKey) -> Json:
        words = (f"--namespace={key.namespace}", "get", "kvm", key.name, "-o=json")
        vm: Json = json.loads(self._controlplane.kubectl(*words).stdout)
        return cast("Json", vm["status"])


class Place:
    """An API server, a user of it, and the stores of agents."""

    def __init__(self, api: Callable[[], Api], user: User, key: VmKey) -> None:
        self.api, self.user, self.key = api, user, key

    def store(self, node: str) -> KubeStore:
        store = KubeStore(
            self.api(), node, on_rewound=lambda: None, on_kept=lambda _raw: None, on_absent=lambda _key: None
        )
        store.relist()
        return store


@pytest.fixture(params=["simulated", "apiserver"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:50].strip("-")
    key = VmKey(name, "vm")
    with ExitStack() as ends:
        if request.param == "simulated":
            api = SimulatedApi(lambda: datetime.now(UTC))
            yield Place(lambda: cast("Api", api), api, key)
        else:
            controlplane: ControlPlane = request.getfixturevalue("crd")
            controlplane.kubectl("create", "namespace", name)
            ends.callback(controlplane.kubectl, "delete", "namespace", name, "--wait=false")
            yield Place(lambda: load(controlplane.kubeconfig), Kubectl(controlplane), key)


def test_a_report_is_there_for_everybody_and_changes_no_generation(place: Place) -> None:
    place.user.create(place.key, {"nodeName": "a", "powerState": "Running"})
    store = place.store("a")
    vm = store.read(place.key)
    assert vm
    assert (vm.desired, vm.generation, vm.status.reason) == (RUNNING, 1, "Pending")
    full = Status(observed_generation=1, node_name="a", power_state=PowerState.STOPPED, completion_time=MOMENT)
    reported = store.report(vm, full)
    assert (reported.status, reported.generation) == (full, 1)
    assert store.read(place.key) == reported == place.store("a").read(place.key)
    assert store.report(reported, full) is reported
    less = store.report(reported, replace(full, completion_time=None, node_name="b"))
    assert less.status == replace(full, completion_time=None, node_name="b")


def test_a_report_on_what_has_changed_meanwhile_is_refused(place: Place) -> None:
    place.user.create(place.key, {"nodeName": "a", "powerState": "Running"})
    store = place.store("a")
    fresh = store.read(place.key)
    for spec, annotations in (({"powerState": "Stopped"}, {}), ({}, {"hold.virtsync.dev/ann": "work"})):
        old = fresh
        assert old
        place.user.edit(place.key, spec, annotations)
        with pytest.raises(Conflicted):
            store.report(old, Status(node_name="a"))
        fresh = store.refresh(place.key)
        assert fresh
        assert fresh.status == old.status
    assert fresh
    assert (fresh.desired, fresh.generation, fresh.holds) == (STOPPED, 2, (Hold("ann", "work"),))
    place.user.edit(place.key, {"powerState": None}, {"hold.virtsync.dev/ann": None})
    fresh = store.refresh(place.key)
    assert fresh
    assert (fresh.desired, fresh.generation, fresh.holds) == (None, 3, ())


def test_what_is_gone_is_gone_and_what_comes_after_it_is_another(place: Place) -> None:
    place.user.create(place.key, {"nodeName": "a"})
    store = place.store("a")
    old = store.read(place.key)
    assert old
    first = old.status
    old = store.report(old, Status(node_name="a"))
    place.user.delete(place.key)
    with pytest.raises(Vanished):
        store.report(old, Status(node_name="b"))
    assert store.refresh(place.key) is None
    assert store.read(place.key) is None
    place.user.create(place.key, {"nodeName": "a"})
    new = store.refresh(place.key)
    assert new
    assert (new.generation, new.status) == (1, first)
    assert new.uid != old.uid
    with pytest.raises(Conflicted):
        store.report(old, Status(node_name="a"))


def test_a_node_is_shown_its_own(place: Place) -> None:
    place.user.create(place.key, {"nodeName": place.key.namespace})
    here, there = place.store(place.key.namespace), place.store("there")
    assert here.known() == [place.key]
    assert place.key not in there.known()
    place.user.edit(place.key, {"nodeName": "there"})
    assert here.relist() == (set(), {place.key})
    assert place.key in there.relist()[0]
    assert here.refresh(place.key) is None
    assert here.known() == []
    place.user.edit(place.key, {"nodeName": place.key.namespace})
    assert there.refresh(place.key) is None
    assert place.key not in there.known()


def test_a_version_that_is_not_there_yet_is_said_to_be_so(place: Place) -> None:
    place.user.create(place.key, {"nodeName": "a"})
    vm = place.store("a").read(place.key)
    assert vm
    future = str(int(vm.resource_version) + 10_000)
    for version, answered in (("0", True), (vm.resource_version, True), (future, False)):
        with nullcontext() if answered else pytest.raises(Behind):
            listed = place.api().request(
                "GET",
                paths.VIRTUAL_MACHINES,
                fieldSelector="spec.nodeName=a",
                resourceVersion=version,
                resourceVersionMatch="NotOlderThan",
            )
            assert place.key in map(key_of, listed["items"])
            assert int(listed["metadata"]["resourceVersion"]) >= int(version)


def test_the_status_of_others_is_left_alone(place: Place) -> None:
    place.user.create(place.key, {"nodeName": "a"})
    theirs = {
        "type": "fleet.example/Placed",
        "status": "True",
        "reason": "Ok",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    store = place.store("a")
    vm = store.read(place.key)
    assert vm
    place.user.write_status(place.key, {"conditions": [theirs], "domain": {"name": "web"}})
    vm = store.refresh(place.key)
    assert vm
    first = Condition("Ready", "True", "InSync", "", MOMENT, 1)
    vm = store.report(vm, Status(node_name="a", conditions=(first,)))
    vm = store.report(vm, Status(node_name="a", conditions=(replace(first, reason="Observed"),)))
    told = place.user.status(place.key)["conditions"]
    assert theirs in told
    assert [c["reason"] for c in told if c["type"] == "Ready"] == ["Observed"]
    assert store.report(vm, vm.status) is vm

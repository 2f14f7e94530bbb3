"""Events as the real API server takes them, whatever VMs are called and whatever libvirt says."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from controller.api.codec import parse
from controller.api.hypervisor import Hypervisor
from controller.api.names import GROUP, HYPERVISOR_KIND, KIND, VERSION
from controller.api.notice import Notice
from controller.api.virtualmachine import VirtualMachine
from controller.kube.client import Api, load
from controller.kube.events import BURST, RATE_PER_S, EventRecorder
from controller.runtime.errors import Rejected
from lab.controlplane import ControlPlane

NAMESPACE = "events-of-vms"
HANG_LIMIT_S = 60

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api(crd: ControlPlane) -> Api:
    crd.kubectl("create", "namespace", NAMESPACE)
    return load(crd.kubeconfig)


@pytest.fixture
def told(api: Api, crd: ControlPlane) -> Callable[..., list[Json]]:
    """Record notices about a VM of this name, and return the Events about it."""

    def record(name: str, *notices: Notice) -> list[Json]:
        vm = created(crd, name)
        dropped: list[None] = []
        recorder = EventRecorder(api, "node-a", dropped=lambda: dropped.append(None))
        for notice in notices:
            recorder.record(vm, notice)
        recorder.start()
        recorder.close(HANG_LIMIT_S)
        assert not dropped
        listed = json.loads(crd.kubectl("get", "events.events.k8s.io", "-n", NAMESPACE, "-o=json").stdout)
        return [event for event in listed["items"] if event["regarding"]["name"] == name]

    return record


def created(crd: ControlPlane, name: str) -> VirtualMachine:
    meta = {"namespace": NAMESPACE, "name": name}
    vm = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": meta, "spec": {"nodeName": "node-a"}}
    return parse(json.loads(crd.kubectl("create", "-f", "-", "-o=json", input=json.dumps(vm)).stdout))


@pytest.mark.parametrize(
    "name",
    ["a" * 199 + "-b" + "c" * 52, "a" * 198 + "--" + "b" * 53, "a" * 199 + ".b" + "c" * 52],
    ids=["-", "--", "."],
)
def test_a_long_name_is_cut_where_a_name_may_end(told: Callable[..., list[Json]], name: str) -> None:
    assert len(told(name, Notice("Stopped", "It went off."))) == 1


def test_the_api_server_refuses_a_name_that_ends_wrongly(api: Api) -> None:
    """What cutting alone would do."""
    event = {"metadata": {"name": "a-.18eb"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal"}
    with pytest.raises(Rejected, match="RFC 1123"):
        api.request("POST", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events", event)


def test_a_repeated_failure_is_one_event_with_a_count(told: Callable[..., list[Json]]) -> None:
    words = "libvirt refused: process {} died: 2026-01-01T00:00:0{}.123456Z qemu-system-x86_64: no disk"
    notices = [Notice("StartFailed", words.format(4710 + n, n), warning=True, action="Start") for n in range(3)]
    (event,) = told("repeated", *notices)
    assert event["series"]["count"] == 3
    assert event["note"] == "libvirt refused: process 4710 died: qemu-system-x86_64: no disk"


def test_failures_that_differ_are_told_apart(told: Callable[..., list[Json]]) -> None:
    notices = [Notice("StartFailed", f"libvirt refused: no disk {name}", warning=True) for name in ("a", "b")]
    assert len(told("different", *notices)) == 2


@pytest.mark.parametrize(
    "words",
    ["a\n\x1b[31mred\x1b[0m\x00", "half \ud83d", "ü" * 1000, "x" * 5000],
    ids=["wild", "half", "umlauts", "long"],
)
def test_any_words_make_an_event(told: Callable[..., list[Json]], words: str, request: pytest.FixtureRequest) -> None:
    (event,) = told(f"words-{request.node.callspec.id}", Notice("StartFailed", words))
    assert event["note"].isprintable()


def test_an_event_can_be_about_a_host(api: Api, crd: ControlPlane) -> None:
    """A Hypervisor has no namespace, and an Event needs one."""
    meta = {"name": "events-of-hosts"}
    raw = {"apiVersion": f"{GROUP}/{VERSION}", "kind": HYPERVISOR_KIND, "metadata": meta}
    created = json.loads(crd.kubectl("create", "-f", "-", "-o=json", input=json.dumps(raw)).stdout)["metadata"]
    host = Hypervisor(created["name"], created["uid"], 1, created["resourceVersion"], datetime.now(UTC))
    recorder = EventRecorder(api, "node-a", dropped=lambda: pytest.fail("dropped"))
    recorder.record(host, Notice("MaintenanceBegun", "It begins."))
    recorder.start()
    recorder.close(HANG_LIMIT_S)
    listed = crd.kubectl("get", "events.events.k8s.io", "-A", "-o=json").stdout
    (event,) = (one for one in json.loads(listed)["items"] if one["regarding"]["name"] == host.name)
    assert (event["regarding"]["kind"], event["regarding"]["uid"]) == (HYPERVISOR_KIND, host.uid)
    assert "MaintenanceBegun" in crd.kubectl("describe", "kvmhost", host.name).stdout
    crd.kubectl("delete", "kvmhost", host.name)


class Taking:
    """An API server that takes each Event, and counts."""

    def __init__(self) -> None:
        self.taken = 0

    def request(self, *_: object, **__: object) -> Json:
        self.taken += 1
        return {}


def test_what_is_more_than_a_burst_is_dropped_and_counted() -> None:
    dropped: list[None] = []
    api = Taking()
    recorder = EventRecorder(cast("Api", api), "node-a", dropped=lambda: dropped.append(None))
    vms = [
        parse({"metadata": {"namespace": "n", "name": "n", "uid": str(n), "resourceVersion": "1"}}) for n in range(90)
    ]
    for vm in vms:
        recorder.record(vm, Notice("Stopped", "It went off."))
    recorder.start()
    recorder.close(HANG_LIMIT_S)
    assert BURST <= api.taken <= BURST + HANG_LIMIT_S * RATE_PER_S
    assert api.taken + len(dropped) == len(vms)


class Refusing:
    """An API server that takes no Event."""

    def request(self, *_: object, **__: object) -> Json:
        raise Rejected("no")


def test_what_is_not_taken_is_counted() -> None:
    dropped: list[None] = []
    recorder = EventRecorder(cast("Api", Refusing()), "node-a", dropped=lambda: dropped.append(None))
    meta = {"namespace": "n", "name": "n", "uid": "u", "resourceVersion": "1"}
    vm = parse({"metadata": meta})
    for _ in range(1001):
        recorder.record(vm, Notice("Stopped", "It went off."))
    assert len(dropped) == 1, "more than may wait"
    recorder.start()
    recorder.close(HANG_LIMIT_S)
    assert len(dropped) == 1001, "refused"

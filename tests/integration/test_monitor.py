"""The monitor on a real API server: time passes only when a test says so, and agents are what they write."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from typing import Any

import pytest

from controller.api.clock import Now, micro_time
from controller.api.names import MANAGER
from controller.api.notice import Notice
from controller.fleet.mass import MASS_WAITS_S
from controller.kube import client
from controller.kube.client import Api
from controller.kube.lists import FleetRequests
from controller.manager.metrics import Metrics
from controller.manager.monitor import HOSTS_EVERY_S, VMS_EVERY_S, Monitor
from controller.runtime.buckets import TokenBucket
from controller.runtime.errors import Forbidden, Rejected, Transient, Vanished
from lab.controlplane import ControlPlane
from lab.world import Json, ready_of

GROUP = "/apis/virtsync.dev/v1alpha1"
LEASES = "/apis/coordination.k8s.io/v1"
MERGE_PATCH = "application/merge-patch+json"
T0 = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
LIST_S = 2.0


class Clock:
    """Stands still unless told to go on."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> Now:
        return Now(T0 + timedelta(seconds=self.at_s - 1000), self.at_s)


class Wire(Api):
    """The API server as the monitor sees it: away, or with somebody else who writes in between."""

    def __init__(self, api: Api, clock: Clock) -> None:
        super().__init__(api.credentials)
        self._clock = clock
        self.away = False
        self.list_takes_s = 0.0
        """How long a list of Leases is on its way."""
        self.refuses: Callable[[str, str], bool] = lambda _method, _path: False
        self.before: dict[str, Callable[[], object]] = {}
        """What happens just before the first request with this method and the end of this path."""
        self.writes: list[str] = []

    def request(self, method: str, path: str, body: Json | None = None, **how: Any) -> Json:
        if happens := self.before.pop(f"{method} {path.removeprefix(GROUP)}", None):
            happens()
        if self.away or self.refuses(method, path):
            raise Transient("the API server does not answer")
        answer = super().request(method, path, body, **how)
        if path.endswith("/leases"):
            self._clock.at_s += self.list_takes_s
        if method == "PATCH":
            self.writes.append(path.removeprefix(GROUP))
        return answer


class Notices:
    """Stands in for the thread that writes Events: keeps what would be written."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, of: Any, notice: Notice) -> None:
        self.told.append((of.name, notice.reason))


class Stage:
    """One namespace of Leases and VMs, nodes that have a prefix of their own, and one monitor."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.clock, self.notices = Clock(), Notices()
        self.wire = Wire(api, self.clock)
        self.leads = True
        self.metrics = Metrics()
        self.monitor = self.new_monitor()
        self._renewal = count()

    def new_monitor(self) -> Monitor:
        return Monitor(
            FleetRequests(self.wire),
            self.notices,
            self.metrics,
            namespace=self.name,
            leads=lambda: self.leads,
            clock=self.clock,
        )

    def node(self, letter: str) -> str:
        return f"{self.name}-{letter}"

    # --- what agents and users do

    def renew(self, letter: str, *, holder: str = "pod-1", duration_s: int = 40) -> None:
        """The agent of this node renews its Lease, or creates it."""
        renewed = micro_time(T0 + timedelta(microseconds=next(self._renewal)))
        spec = {"holderIdentity": holder, "leaseDurationSeconds": duration_s, "renewTime": renewed}
        path = f"{LEASES}/namespaces/{self.name}/leases"
        labels = {"app.kubernetes.io/component": "agent"}
        try:
            self.api.request("PATCH", f"{path}/{self.node(letter)}", {"spec": spec}, content_type=MERGE_PATCH)
        except Vanished:
            self.api.request("POST", path, {"metadata": {"name": self.node(letter), "labels": labels}, "spec": spec})

    def delete_lease(self, letter: str) -> None:
        self.api.request("DELETE", f"{LEASES}/namespaces/{self.name}/leases/{self.node(letter)}")

    def host(self, letter: str, *, lease_namespace: str | None = None, vms: int = 0) -> None:
        """The agent of this node creates its Hypervisor, and reports."""
        name = self.node(letter)
        kind = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor"}
        self.api.request("POST", f"{GROUP}/hypervisors", kind | {"metadata": {"name": name}})
        status = {
            "observedGeneration": 1,
            "leaseNamespace": self.name if lease_namespace is None else lease_namespace,
            "virtualMachines": {"total": vms, "running": vms, "notReady": 0},
            "conditions": [condition("Active"), condition("Quiet", kind="Quiesced")],
        }
        self.patch(f"/hypervisors/{name}/status", {"status": status})

    def vm(self, name: str, letter: str, *, reported: bool = True, **status: Any) -> str:
        """A VM that is bound to this node, and that its agent has reported; its path."""
        path = f"/namespaces/{self.name}/virtualmachines"
        kind = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine"}
        spec = {"nodeName": self.node(letter), "powerState": "Running"}
        self.api.request("POST", GROUP + path, kind | {"metadata": {"name": name}, "spec": spec})
        if reported:
            self.report(f"{path}/{name}", letter, **status)
        return f"{path}/{name}"

    def report(self, path: str, letter: str, **status: Any) -> None:
        """The agent of this node reports that the VM runs."""
        told = {
            "observedGeneration": 1,
            "nodeName": self.node(letter),
            "powerState": "Running",
            "decidedReason": "InSync",
            "conditions": [condition("InSync"), condition("Starting", kind="Reconciling")],
        }
        self.patch(f"{path}/status", {"status": told | status})

    def patch(self, path: str, body: Json) -> None:
        self.api.request("PATCH", GROUP + path, body, content_type=MERGE_PATCH)

    def get(self, path: str) -> Json:
        return self.api.request("GET", GROUP + path)

    def of_host(self, letter: str) -> Json:
        return self.get(f"/hypervisors/{self.node(letter)}")

    # --- what the monitor does

    def look(self, *alive: str, monitor: Monitor | None = None) -> None:
        """The agents that live renew; the monitor lists, and marks all that is due."""
        monitor = monitor or self.monitor
        for letter in alive:
            self.renew(letter)
        monitor._list()
        while monitor._marker._step() is not None:
            pass

    def pass_s(self, seconds: float, *alive: str, monitor: Monitor | None = None) -> None:
        """This time passes, in which the monitor lists every 2 s."""
        for _ in range(int(seconds / LIST_S)):
            self.clock.at_s += LIST_S
            self.look(*alive, monitor=monitor)

    def count(self, monitor: Monitor | None = None) -> None:
        """The monitor finds out what there should be: all VMs are due."""
        monitor = monitor or self.monitor
        monitor._vms_due_s = 0.0
        monitor._count()


def condition(reason: str, *, kind: str = "Ready", status: str = "True") -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": f"It is {reason}.",
        "lastTransitionTime": "2026-11-27T07:00:00Z",
        "observedGeneration": 1,
    }


def marked(thing: Json) -> bool:
    ready = ready_of(thing)
    return (ready.get("status"), ready.get("reason")) == ("Unknown", "AgentUnreachable")


@pytest.fixture(scope="module")
def crd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of this module's own: the monitor counts the VMs and the nodes of the whole cluster."""
    with ControlPlane(tmp_path_factory.mktemp("monitored")) as running:
        running.install_crds()
        yield running


@pytest.fixture
def stage(crd: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[-50:].strip("-")
    crd.kubectl("create", "namespace", name)
    api = client.load(crd.kubeconfig, program=MANAGER)
    stage = Stage(api, name)
    yield stage
    for host in api.request("GET", f"{GROUP}/hypervisors")["items"]:
        with suppress(Vanished):
            if host["metadata"]["name"].startswith(f"{name}-"):
                api.request("DELETE", f"{GROUP}/hypervisors/{host['metadata']['name']}")
    crd.kubectl("delete", "kvm", "--all", f"--namespace={name}", "--wait=false")
    crd.kubectl("delete", "namespace", name, "--wait=false")


def lost(stage: Stage) -> tuple[str, str]:
    """Node a with two VMs, whose agent has died a moment before it counts as silent; node b lives."""
    stage.host("a")
    stage.host("b")
    paths = stage.vm("web", "a"), stage.vm("db", "b")
    stage.count()
    stage.look("a", "b")
    stage.pass_s(38, "b")
    return paths


# --- who is marked


def test_a_node_that_died_is_marked_and_others_are_not(stage: Stage) -> None:
    web, db = lost(stage)
    before = stage.get(web)
    assert stage.wire.writes == []
    stage.pass_s(2, "b")
    assert stage.wire.writes == [f"/hypervisors/{stage.node('a')}/status", f"{web}/status"]
    after = stage.get(web)
    assert marked(stage.of_host("a"))
    assert marked(after)
    assert [one["type"] for one in after["status"]["conditions"]] == ["Ready"]
    assert after["status"] | {"conditions": []} == before["status"] | {"conditions": []}
    assert (after["metadata"]["generation"], after["spec"]) == (before["metadata"]["generation"], before["spec"])
    assert {entry["manager"] for entry in after["metadata"]["managedFields"]} >= {MANAGER}
    assert [(one["type"], one["status"], one["reason"]) for one in stage.of_host("a")["status"]["conditions"]] == [
        ("Ready", "Unknown", "AgentUnreachable"),
        ("Quiesced", "Unknown", "AgentUnreachable"),
    ]
    assert not marked(stage.get(db))
    assert not marked(stage.of_host("b"))
    assert stage.notices.told == [(stage.node("a"), "AgentUnreachable")]


def test_an_agent_that_left_in_order_is_marked_after_the_default_grace(stage: Stage) -> None:
    stage.host("a")
    web = stage.vm("web", "a")
    stage.count()
    stage.look("a")
    stage.renew("a", holder="", duration_s=1)
    stage.look()
    stage.pass_s(38)
    assert not marked(stage.get(web))
    stage.pass_s(2)
    assert "was stopped at" in ready_of(stage.get(web))["message"]
    assert "was stopped at" in ready_of(stage.of_host("a"))["message"]


def test_a_rollout_marks_nothing(stage: Stage) -> None:
    stage.host("a")
    web = stage.vm("web", "a")
    stage.count()
    stage.look("a")
    stage.renew("a", holder="", duration_s=1)
    stage.pass_s(38)
    stage.renew("a", holder="pod-2")
    stage.pass_s(30)
    assert not marked(stage.get(web))
    assert stage.wire.writes == []


def test_a_node_name_that_no_agent_has(stage: Stage) -> None:
    """It was reported by an agent before its nodeName was changed; another never was."""
    moved, new = stage.vm("moved", "mistyped"), stage.vm("new", "mistyped", reported=False)
    stage.report(moved, "a")
    stage.count()
    stage.pass_s(60)
    assert marked(stage.get(moved))
    assert "the node has no Lease" in ready_of(stage.get(moved))["message"]
    assert ready_of(stage.get(new))["reason"] == "Pending"
    assert stage.wire.writes == [f"{moved}/status"]


def test_the_nodes_of_a_second_installation_are_not_touched(stage: Stage) -> None:
    stage.host("b", lease_namespace="another-namespace")
    stage.host("c", lease_namespace="")
    theirs = stage.vm("theirs", "b"), stage.vm("without-lease", "c")
    ours = stage.vm("ours", "mistyped")
    stage.count()
    stage.pass_s(60)
    assert marked(stage.get(ours))
    assert not any(marked(stage.get(path)) for path in theirs)
    assert not marked(stage.of_host("b"))
    assert not marked(stage.of_host("c"))


def test_a_node_that_moved_to_a_second_installation_leaves_a_lease_behind_and_is_not_touched(stage: Stage) -> None:
    stage.host("a", lease_namespace="another-namespace")
    web = stage.vm("web", "a")
    stage.count()
    stage.look("a")
    stage.pass_s(60)
    assert stage.monitor.sight.silence(stage.node("a"))
    assert not marked(stage.get(web))
    assert not marked(stage.of_host("a"))
    assert stage.metrics.registry.get_sample_value("virtsync_monitor_silent_nodes", {"maintenance": ""}) == 0


def test_a_lease_that_is_deleted_and_not_created_again(stage: Stage) -> None:
    web, _ = lost(stage)
    stage.delete_lease("a")
    stage.pass_s(38, "b")
    assert not marked(stage.get(web))
    stage.pass_s(4, "b")
    assert marked(stage.get(web))


def test_vms_of_an_old_agent_are_not_marked(stage: Stage) -> None:
    """Its memory of the last decision is in Ready alone."""
    stage.host("a")
    old, new = stage.vm("old", "a", decidedReason=""), stage.vm("new", "a")
    stage.count()
    stage.look("a")
    stage.pass_s(42)
    assert marked(stage.get(new))
    assert ready_of(stage.get(old))["reason"] == "InSync"


@pytest.mark.parametrize("error", [Rejected, Forbidden])
def test_the_vms_of_a_host_that_cannot_be_marked_are_marked(stage: Stage, error: type[Exception]) -> None:
    mark = f"PATCH /hypervisors/{stage.node('a')}/status"

    def refuse() -> None:
        stage.wire.before[mark] = refuse  # also the mark of Ready alone
        raise error("a policy refuses it")

    web, _ = lost(stage)
    stage.wire.before[mark] = refuse
    stage.pass_s(4, "b")
    assert marked(stage.get(web))
    assert not marked(stage.of_host("a"))


def test_a_hypervisor_that_only_a_finalizer_keeps_is_marked(stage: Stage) -> None:
    lost(stage)
    host = f"/hypervisors/{stage.node('a')}"
    stage.patch(host, {"metadata": {"finalizers": ["example.com/keep"]}})
    stage.api.request("DELETE", GROUP + host)
    stage.pass_s(4, "b")
    assert marked(stage.of_host("a"))
    stage.patch(host, {"metadata": {"finalizers": None}})


# --- once in a silence


def test_a_vm_that_another_node_has_reported_off_is_not_put_in_doubt(stage: Stage) -> None:
    """It was moved while the agent of its new node is silent. What was on has its mark, and needs a person anyway."""
    stage.host("a")
    off = stage.vm("off", "a", nodeName=stage.node("b"), powerState="Stopped")
    on = stage.vm("on", "a", nodeName=stage.node("b"))
    before = stage.get(off)
    stage.count()
    stage.look("a")
    stage.pass_s(60)
    assert marked(stage.of_host("a"))
    assert marked(stage.get(on))
    assert stage.get(off) == before


def test_an_agent_that_reports_and_cannot_renew_is_contradicted_once(stage: Stage) -> None:
    web, _ = lost(stage)
    stage.pass_s(2, "b")
    assert marked(stage.get(web))
    stage.report(web, "a")
    for _ in range(3):
        stage.pass_s(60, "b")
        stage.count()
    assert not marked(stage.get(web))
    assert stage.wire.writes.count(f"{web}/status") == 1
    stage.renew("a")
    stage.pass_s(44, "b")
    assert marked(stage.get(web)), "the next silence is another"


def test_a_vm_that_is_bound_to_a_silent_node_later_is_found(stage: Stage) -> None:
    lost(stage)
    stage.pass_s(10, "b")
    late = stage.vm("late", "a")
    stage.pass_s(10, "b")
    assert not marked(stage.get(late))
    stage.count()
    stage.pass_s(2, "b")
    assert marked(stage.get(late))


def test_a_new_leader_repeats_the_round_and_writes_nothing_twice(stage: Stage) -> None:
    lost(stage)
    standby = stage.new_monitor()
    stage.leads = False
    stage.count(standby)
    stage.pass_s(44, "b", monitor=standby)
    assert stage.wire.writes == [], "it does not lead"
    stage.leads = True
    stage.look("b", monitor=standby)
    assert len(stage.wire.writes) == 2, "and has observed all the same"
    another = stage.new_monitor()
    stage.count(another)
    stage.pass_s(60, "b", monitor=another)
    assert len(stage.wire.writes) == 2


# --- who comes back


def test_who_is_back_before_its_turn_is_not_marked(stage: Stage) -> None:
    web, _ = lost(stage)
    stage.wire.refuses = lambda method, path: method == "GET" and path.endswith(f"hypervisors/{stage.node('a')}")
    stage.pass_s(20, "b")
    stage.wire.refuses = lambda _method, _path: False
    stage.renew("a")
    stage.pass_s(10, "b")
    assert stage.wire.writes == []
    assert not marked(stage.get(web))


@pytest.mark.parametrize("read", ["/hypervisors/{node}", "/virtualmachines"], ids=["host", "vms"])
def test_who_is_back_while_its_objects_are_read_is_not_marked(stage: Stage, read: str) -> None:
    """The monitor lists on another thread than the one that marks."""
    web, _ = lost(stage)

    def back() -> None:
        stage.renew("a")
        stage.monitor._list()

    stage.wire.before[f"GET {read.format(node=stage.node('a'))}"] = back
    stage.pass_s(2, "b")
    assert not marked(stage.get(web))
    assert marked(stage.of_host("a")) is (read == "/virtualmachines"), "its Hypervisor was marked before"


def test_the_return_of_an_agent_is_told(stage: Stage) -> None:
    lost(stage)
    stage.pass_s(4, "b")
    stage.pass_s(4, "a", "b")
    assert stage.notices.told == [(stage.node("a"), "AgentUnreachable"), (stage.node("a"), "AgentReturned")]


# --- conflicts


def test_what_an_agent_reports_in_between_stays(stage: Stage) -> None:
    web, _ = lost(stage)
    host = f"/hypervisors/{stage.node('a')}/status"
    stage.wire.before[f"PATCH {web}/status"] = lambda: stage.report(web, "a", powerState="Stopped")
    stage.wire.before[f"PATCH {host}"] = lambda: stage.patch(host, {"status": {"libvirtVersion": "9.0.0"}})
    stage.pass_s(10, "b")
    assert not marked(stage.get(web))
    assert not marked(stage.of_host("a"))


def test_a_change_of_the_spec_in_between_does_not_keep_it_from_being_marked(stage: Stage) -> None:
    web, _ = lost(stage)
    host = f"/hypervisors/{stage.node('a')}"
    maintenance = {"maintenance": {"mode": "Hold", "reason": "new RAM"}}
    stage.wire.before[f"PATCH {web}/status"] = lambda: stage.patch(web, {"spec": {"powerState": "Stopped"}})
    stage.wire.before[f"PATCH {host}/status"] = lambda: stage.patch(host, {"spec": maintenance})
    stage.pass_s(2, "b")
    assert marked(stage.get(web))
    assert marked(stage.of_host("a"))
    assert stage.get(web)["spec"]["powerState"] == "Stopped"


def test_an_object_whose_spec_changes_at_each_attempt_is_marked_once_the_changes_end(stage: Stage) -> None:
    web, _ = lost(stage)
    host = f"/hypervisors/{stage.node('a')}"
    reasons = map(str, count())

    def change(path: str, spec: Callable[[], Json]) -> None:
        stage.patch(path, {"spec": spec()})
        if changing:
            stage.wire.before[f"PATCH {path}/status"] = lambda: change(path, spec)

    changing, policies = True, cycle(["Never", "Always"])
    change(web, lambda: {"restartPolicy": next(policies)})
    change(host, lambda: {"maintenance": {"mode": "Hold", "reason": next(reasons)}})
    stage.pass_s(10, "b")
    assert not marked(stage.get(web))
    assert not marked(stage.of_host("a"))
    changing = False
    stage.pass_s(40, "b")
    assert marked(stage.get(web))
    assert marked(stage.of_host("a"))


def test_a_vm_that_is_handed_over_in_between_is_not_marked(stage: Stage) -> None:
    web, _ = lost(stage)
    moved = {"spec": {"nodeName": stage.node("b")}}
    stage.wire.before[f"PATCH {web}/status"] = lambda: stage.patch(web, moved)
    stage.pass_s(10, "b")
    assert not marked(stage.get(web))


def test_a_vm_that_cannot_be_marked_does_not_keep_others_waiting_and_is_tried_again(stage: Stage) -> None:
    stage.host("a")
    first, second = stage.vm("first", "a"), stage.vm("second", "a")
    stage.count()
    stage.look("a")
    stage.wire.refuses = lambda method, path: method == "PATCH" and path.endswith(f"{first}/status")
    stage.pass_s(60)
    assert marked(stage.get(second))
    assert not marked(stage.get(first))
    stage.wire.refuses = lambda _method, _path: False
    stage.pass_s(32)
    assert marked(stage.get(first))


# --- who sees nothing


@contextmanager
def away(stage: Stage) -> Iterator[None]:
    stage.wire.away = True
    yield
    stage.wire.away = False


def test_while_the_api_server_is_away_nobody_is_dead(stage: Stage) -> None:
    """The agents renew 12 s after it is back, as they do at the latest."""
    web, _ = lost(stage)
    stage.renew("a")
    stage.look("b")
    with away(stage):
        for _ in range(150):
            stage.clock.at_s += LIST_S
            stage.look()
        assert stage.monitor.unready() == ("the Leases could not be listed: the API server does not answer")
    stage.pass_s(12)
    stage.pass_s(60, "a", "b")
    assert stage.wire.writes == []
    assert not marked(stage.get(web))
    blind_s = stage.metrics.registry.get_sample_value("virtsync_monitor_blind_seconds_total")
    assert blind_s == pytest.approx(300 + LIST_S - 15)


def test_an_outage_of_the_api_server_is_no_end_of_a_silence(stage: Stage) -> None:
    web, _ = lost(stage)
    stage.pass_s(2, "b")
    stage.report(web, "a")
    with away(stage):
        for _ in range(30):
            stage.clock.at_s += LIST_S
            stage.look()
    stage.pass_s(60, "b")
    stage.count()
    stage.look("b")
    assert stage.wire.writes.count(f"{web}/status") == 1
    assert stage.notices.told == [(stage.node("a"), "AgentUnreachable")]
    stage.pass_s(2, "a", "b")
    assert stage.notices.told[1:] == [(stage.node("a"), "AgentReturned")]


def test_a_manager_that_was_suspended_over_an_outage_declares_nobody_dead(stage: Stage) -> None:
    web, _ = lost(stage)
    stage.renew("a")
    stage.look("b")
    stage.clock.at_s += 300
    stage.look()
    stage.pass_s(12)
    stage.pass_s(20, "a", "b")
    assert stage.wire.writes == []
    stage.pass_s(44, "b")
    assert marked(stage.get(web)), "and sees again who is"


@pytest.mark.parametrize("read", ["/hypervisors/{node}", "/virtualmachines"], ids=["host", "vms"])
def test_a_suspended_manager_that_wakes_up_goes_on_with_nothing(stage: Stage, read: str) -> None:
    web, _ = lost(stage)

    def suspended() -> None:
        stage.clock.at_s += 60

    stage.wire.before[f"GET {read.format(node=stage.node('a'))}"] = suspended
    stage.pass_s(2, "b")
    before = list(stage.wire.writes)
    stage.pass_s(30, "a", "b")
    assert stage.wire.writes == before
    assert not marked(stage.get(web))


@pytest.mark.parametrize("read", ["/hypervisors/{node}", "/virtualmachines"], ids=["host", "vms"])
def test_who_does_not_lead_any_more_stops_in_the_middle(stage: Stage, read: str) -> None:
    web, _ = lost(stage)

    def deposed() -> None:
        stage.leads = False

    stage.wire.before[f"GET {read.format(node=stage.node('a'))}"] = deposed
    stage.pass_s(10, "b")
    assert f"{web}/status" not in stage.wire.writes
    stage.leads = True
    stage.look("b")
    assert marked(stage.get(web))


def test_slow_lists_delay_a_mark_and_do_not_prevent_it(stage: Stage) -> None:
    web = stage.vm("web", "a")
    stage.host("a")
    stage.count()
    stage.look("a", "b")
    stage.wire.list_takes_s = 8
    for _ in range(6):
        stage.pass_s(2, "b")  # and 8 for the list
    assert stage.monitor.unready() is None
    assert marked(stage.get(web))
    assert not stage.monitor.sight.silence(stage.node("b"))


# --- many at once


def fleet_of_three(stage: Stage) -> None:
    """Three nodes whose VMs are more than a burst of marks, all heard."""
    for letter in "abc":
        stage.host(letter)
    stage.count()
    assert stage.monitor.census
    # More VMs than a burst would take a minute to create.
    stage.monitor.census = replace(stage.monitor.census, vms={stage.node(letter): 200 for letter in "abc"})
    stage.look(*"abc")


def test_a_mass_is_told_at_once_and_its_vms_are_marked_later(stage: Stage) -> None:
    fleet_of_three(stage)
    web = stage.vm("web", "a")
    stage.pass_s(44)
    assert all(marked(stage.of_host(letter)) for letter in "abc")
    assert not marked(stage.get(web))
    assert stage.metrics.registry.get_sample_value("virtsync_monitor_mass") == 1
    stage.renew("b")
    stage.renew("c")
    stage.pass_s(110, "b", "c")
    assert not marked(stage.get(web)), "it stays in the mass when the others are back"
    stage.pass_s(10, "b", "c")
    assert marked(stage.get(web))
    stage.pass_s(2, "a", "b", "c")
    assert stage.metrics.registry.get_sample_value("virtsync_monitor_mass") == 0


def test_an_outage_of_the_api_server_is_no_mass(stage: Stage) -> None:
    """All Leases are old when the manager can list them again, and no agent has renewed yet."""
    fleet_of_three(stage)
    stage.clock.at_s += 60
    for _ in range(10):
        stage.pass_s(2)
        assert stage.metrics.registry.get_sample_value("virtsync_monitor_mass") == 0
    stage.pass_s(60, *"abc")
    assert stage.metrics.registry.get_sample_value("virtsync_monitor_mass") == 0


def test_agents_that_are_late_together_and_renew_in_time_are_no_mass(stage: Stage) -> None:
    fleet_of_three(stage)
    stage.pass_s(34)
    assert stage.metrics.registry.get_sample_value("virtsync_monitor_mass") == 0
    stage.pass_s(2, *"abc")
    assert stage.metrics.registry.get_sample_value("virtsync_monitor_mass") == 0


def test_no_more_is_marked_at_a_time_than_the_rate_limits_allow(stage: Stage) -> None:
    letters, vms = "abc", [f"vm-{number}" for number in range(5)]
    for letter in letters:
        stage.host(letter)
    paths = [stage.vm(name, "a") for name in vms]
    stage.count()
    stage.look(*letters)
    marker = stage.monitor._marker
    marker._hypervisor_bucket, marker._vm_bucket = TokenBucket(1.0, 2), TokenBucket(0.5, 3)
    stage.pass_s(38)
    stage.clock.at_s += LIST_S
    stage.monitor._list()

    def marks() -> tuple[int, int]:
        hosts = sum(marked(stage.of_host(letter)) for letter in letters)
        return hosts, sum(marked(stage.get(path)) for path in paths)

    def until_it_waits() -> float:
        while (wait_s := marker._step()) == 0.0:
            pass
        return wait_s or 0.0

    assert until_it_waits() == pytest.approx(1.0)
    assert marks() == (2, 0), "a burst of Hypervisors, and no VM before the last Hypervisor"
    stage.clock.at_s += 1
    assert until_it_waits() == pytest.approx(2.0)
    assert marks() == (3, 3)
    stage.clock.at_s += 2
    assert until_it_waits() == pytest.approx(2.0)
    assert marks() == (3, 4)


def test_the_metrics_tell_who_is_silent_and_what_was_marked(stage: Stage) -> None:
    lost(stage)
    maintenance = {"maintenance": {"mode": "Shutdown", "reason": "new RAM"}}
    stage.patch(f"/hypervisors/{stage.node('b')}", {"spec": maintenance})
    stage.count()
    stage.pass_s(44)
    value = stage.metrics.registry.get_sample_value
    assert value("virtsync_monitor_silent_nodes", {"maintenance": ""}) == 1
    assert value("virtsync_monitor_silent_nodes", {"maintenance": "Shutdown"}) == 1
    assert value("virtsync_monitor_marks_total", {"kind": "VirtualMachine", "node": stage.node("a")}) == 1
    assert value("virtsync_monitor_marks_total", {"kind": "Hypervisor", "node": stage.node("b")}) == 1
    assert value("virtsync_monitor_marks_waiting") == 0
    stage.pass_s(2, "a", "b")
    assert value("virtsync_monitor_silent_nodes", {"maintenance": ""}) == 0


def test_a_new_maintenance_is_known_before_all_vms_are_listed_again(stage: Stage) -> None:
    stage.host("a")
    stage.count()
    stage.look("a")
    stage.vm("web", "a")
    maintenance = {"mode": "Shutdown", "reason": "new RAM"}
    stage.patch(f"/hypervisors/{stage.node('a')}", {"spec": {"maintenance": maintenance}})

    def known() -> tuple[str | None, int]:
        stage.monitor._count()
        census = stage.monitor.census
        assert census
        return census.maintenance.get(stage.node("a")), census.vms.get(stage.node("a"), 0)

    stage.clock.at_s += HOSTS_EVERY_S
    assert known() == ("Shutdown", 0)
    stage.clock.at_s += VMS_EVERY_S
    assert known() == ("Shutdown", 1)


def test_without_a_census_vms_wait_as_in_a_mass_and_no_longer(stage: Stage) -> None:
    """As when this manager may not list all VMs: the objects of a dead node must not look as if they were current."""
    stage.host("a")
    web = stage.vm("web", "a")
    stage.look("a")
    stage.pass_s(MASS_WAITS_S - 4)
    assert marked(stage.of_host("a"))
    assert not marked(stage.get(web))
    stage.pass_s(6)
    assert marked(stage.get(web))


def test_vms_wait_for_the_first_census(stage: Stage) -> None:
    stage.host("a")
    web = stage.vm("web", "a")
    stage.look("a")
    stage.pass_s(44)
    assert marked(stage.of_host("a"))
    assert not marked(stage.get(web))
    stage.count()
    stage.look()
    assert marked(stage.get(web))

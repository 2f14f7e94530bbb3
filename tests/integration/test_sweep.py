"""What the manager's sweep finds and writes, on a real API server whose objects the test writes."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from controller.api.clock import api_time
from controller.api.hypervisor import LISTED_LIMIT, Hypervisor, RunsElsewhere
from controller.api.names import MANAGER
from controller.api.notice import Notice
from controller.api.virtualmachine import VirtualMachine
from controller.fleet.elsewhere import RELEASE_AFTER_S
from controller.fleet.findings import COLUMNS, find
from controller.kube import client, paths
from controller.kube.client import MERGE_PATCH
from controller.kube.events import EventRecorder
from controller.kube.lists import FleetRequests
from controller.manager.elsewhere import LOOKUPS_BURST, Elsewhere
from controller.manager.metrics import FINDINGS, Metrics
from controller.manager.sweep import SWEEP_EVERY_S, SWEEP_JITTER, Sweep
from controller.runtime.errors import Forbidden, Rejected
from lab.controlplane import ControlPlane

Json = dict[str, Any]

APPLY = "application/apply-patch+yaml"
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def ready(status: str, reason: str) -> Json:
    """The condition Ready."""
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }


class Recorder:
    """Keeps the Events that it gets."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, of: VirtualMachine | Hypervisor, notice: Notice) -> None:
        assert isinstance(of, VirtualMachine)
        self.told.append((of.key.name, notice.reason))


class Counting(FleetRequests):
    """The manager's requests, and which UUIDs it asked for."""

    asked: list[UUID]

    def virtual_machines_of(self, uuid: UUID) -> Iterator[VirtualMachine]:
        self.asked.append(uuid)
        return super().virtual_machines_of(uuid)


class Interrupted(Counting):
    """The manager's requests, and what happens just before the list of one host is written."""

    before: dict[str, Callable[[], None]]

    def patch_hypervisor(self, host: Hypervisor, status: Json) -> None:
        self.before.pop(host.name, lambda: None)()
        super().patch_hypervisor(host, status)


class Nodes:
    """Hypervisors and VirtualMachines of one test, the manager that looks at them, and its clock."""

    def __init__(self, controlplane: ControlPlane, name: str) -> None:
        self._controlplane, self.name = controlplane, name
        controlplane.kubectl("create", "namespace", name)
        self._api = client.load(controlplane.kubeconfig, program=MANAGER)
        self._vms = paths.virtual_machines(name)
        self.fleet = Counting(self._api)
        self.fleet.asked = []
        self.recorder = Recorder()
        self.leads = True
        self.now_s = 0.0
        self.restart()

    def restart(self) -> None:
        """Another manager leads, which knows nothing but the objects."""
        self.manager = Elsewhere(
            self.fleet, cast("EventRecorder", self.recorder), leads=lambda: self.leads, clock=lambda: self.now_s
        )
        self.sweep()

    def node(self, letter: str) -> str:
        return f"{self.name}-{letter}"

    def report(self, letter: str, *running: UUID, is_ready: bool = True, truncated: bool = False) -> None:
        """Write the Hypervisor of a node, as its agent does: these domains run and have no object there."""
        self._apply(paths.hypervisor(self.node(letter)), "Hypervisor", self.node(letter), {})
        domains = [{"uuid": str(uuid), "name": f"d-{uuid}", "powerState": "Running"} for uuid in running]
        unmanaged = {"total": len(running), "running": len(running) + truncated, "truncated": truncated}
        self._patch(
            paths.hypervisor(self.node(letter)),
            {
                "unmanaged": unmanaged | {"domains": domains},
                "conditions": [ready("True", "Active") if is_ready else ready("Unknown", "AgentUnreachable")],
            },
        )

    def vm(self, name: str, letter: str | None, uuid: UUID, power: str = "Stopped", reporter: str = "") -> None:
        """Bind a VM to a node, and write its status, as the agent of that node (or of another) does."""
        spec = {"nodeName": self.node(letter)} if letter else {}
        self._apply(f"{self._vms}/{name}", "VirtualMachine", name, {"spec": spec})
        status = {
            "nodeName": self.node(reporter or letter or "a"),
            "powerState": power,
            "domain": {"name": name, "uuid": str(uuid), "boundBy": name},
            "decidedReason": "InSync",
            "conditions": [ready("True", "InSync")],
        }
        self._patch(f"{self._vms}/{name}", status)

    def with_vm_that_runs_elsewhere(self) -> UUID:
        """The VM `web` is bound to node a, its domain runs on node b, and a manager begins to lead; return the UUID."""
        web = uuid4()
        self.report("a")
        self.report("b", web)
        self.vm("web", "a", web)
        self.restart()
        return web

    def get(self, name: str) -> Json:
        return self._api.request("GET", f"{self._vms}/{name}")

    def delete(self, name: str) -> None:
        self._controlplane.kubectl(f"-n={self.name}", "delete", "kvm", name)

    def sweep(self) -> None:
        rows = [row for row in self.fleet.rows(COLUMNS) if row[0].startswith(self.name)]
        self.manager.swept(find(rows, set()))

    def look(self, in_s: float = 5.0) -> dict[str, list[tuple[UUID, str]]]:
        """Let the manager look some seconds later; return what the Hypervisors have then."""
        self.now_s += in_s
        self.manager.look(self.hosts(), self.now, self.now_s)
        return {
            host.name.removeprefix(f"{self.name}-"): [
                (entry.uuid, entry.node_name.removeprefix(f"{self.name}-")) for entry in host.status.runs_elsewhere
            ]
            for host in self.hosts()
            if host.status.runs_elsewhere
        }

    @property
    def now(self) -> datetime:
        return T0 + timedelta(seconds=self.now_s)

    def hosts(self) -> list[Hypervisor]:
        return [host for host in self.fleet.hypervisors() if host.name.startswith(f"{self.name}-")]

    def entries(self, letter: str) -> tuple[RunsElsewhere, ...]:
        return next(host.status.runs_elsewhere for host in self.hosts() if host.name == self.node(letter))

    def end(self) -> None:
        names = [self.node(letter) for letter in "abc"]
        self._controlplane.kubectl("delete", "hypervisor", "--ignore-not-found", *names)
        self._controlplane.kubectl(f"-n={self.name}", "delete", "kvm", "--all")
        self._controlplane.kubectl("delete", "namespace", self.name, "--wait=false")

    def _apply(self, path: str, kind: str, name: str, fields: Json) -> None:
        body = {"apiVersion": "virtsync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}} | fields
        self._api.request("PATCH", path, body, content_type=APPLY, fieldManager="test", force="true")

    def maintain(self, letter: str, mode: str | None) -> None:
        """An administrator declares a maintenance of this node, or ends it; its agent does not see that."""
        spec = {"maintenance": {"mode": mode, "reason": "new RAM"} if mode else None}
        self._api.request("PATCH", paths.hypervisor(self.node(letter)), {"spec": spec}, content_type=MERGE_PATCH)

    def _patch(self, path: str, status: Json) -> None:
        self._api.request("PATCH", f"{path}/status", {"status": status}, content_type=MERGE_PATCH)


@pytest.fixture
def nodes(crd: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    running = Nodes(crd, re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:50].strip("-"))
    yield running
    running.end()


def test_a_vm_that_runs_elsewhere_is_listed_at_the_first_look(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    assert nodes.look() == {"a": [(web, "b")]}
    assert nodes.entries("a")[0].since == nodes.now
    assert nodes.recorder.told == [("web", "RunsElsewhere")]
    assert nodes.look() == {"a": [(web, "b")]}, "the entry keeps"
    assert nodes.entries("a")[0].since < nodes.now


def test_a_domain_that_comes_on_later_is_found_without_a_sweep(nodes: Nodes) -> None:
    web = uuid4()
    nodes.report("a")
    nodes.report("b")
    nodes.vm("web", "a", web)
    assert nodes.look() == {}
    nodes.report("b", web)
    assert nodes.look() == {"a": [(web, "b")]}


def test_domains_in_a_first_report_are_looked_up_only_if_the_sweep_has_seen_a_vm_of_theirs(nodes: Nodes) -> None:
    web, others = uuid4(), [uuid4() for _ in range(5)]
    nodes.report("a")
    nodes.vm("web", "a", web)
    nodes.restart()
    nodes.look()
    nodes.report("b", web, *others)
    assert nodes.look() == {"a": [(web, "b")]}
    assert nodes.fleet.asked == [web]
    late = uuid4()
    nodes.report("b", web, late, *others)
    nodes.look()
    assert nodes.fleet.asked == [web, late]


def test_a_report_that_is_out_of_date_and_current_again_needs_no_lookup(nodes: Nodes) -> None:
    web = uuid4()
    nodes.report("a")
    nodes.look()
    nodes.report("b", web)
    nodes.vm("web", "a", web)
    nodes.restart()
    nodes.look()
    asked = len(nodes.fleet.asked)
    nodes.report("b", web, is_ready=False)
    assert nodes.look() == {"a": [(web, "b")]}
    nodes.report("b", web)
    assert nodes.look() == {"a": [(web, "b")]}
    assert len(nodes.fleet.asked) == asked


def test_lookups_have_a_rate_limit_and_go_on_at_the_next_look(nodes: Nodes) -> None:
    uuids = [uuid4() for _ in range(LOOKUPS_BURST + 3)]
    nodes.report("a")
    nodes.report("b")
    nodes.look()
    nodes.report("b", *uuids)
    nodes.look()
    assert len(nodes.fleet.asked) == LOOKUPS_BURST
    nodes.look(in_s=0.2)
    assert len(nodes.fleet.asked) == LOOKUPS_BURST + 1
    nodes.look()
    assert sorted(nodes.fleet.asked) == sorted(uuids)


def test_a_host_that_reports_other_domains_at_each_look_delays_no_other(nodes: Nodes) -> None:
    """And what the manager remembers of it does not grow."""
    web = uuid4()

    def look(*running: UUID, in_s: float = 5.0) -> dict[str, list[tuple[UUID, str]]]:
        nodes.report("b", *running)
        nodes.report("c", *(uuid4() for _ in range(LISTED_LIMIT)))
        return nodes.look(in_s)

    nodes.report("a")
    nodes.vm("web", "a", web)
    nodes.restart()
    for _ in range(4):
        look()
    assert look(web) == {"a": [(web, "b")]}
    nodes.vm("web", "b", web, reporter="a")
    assert look() == {"a": [(web, "b")]}
    nodes.vm("web", "b", web, "Running")
    assert look() == {}, "the known VMs are read again"
    nodes.vm("web", "a", web)
    look(web)
    assert look() == {"a": [(web, "b")]}
    assert look(in_s=RELEASE_AFTER_S) == {}
    assert sum(map(len, nodes.manager._due.values())) < LISTED_LIMIT


def test_an_entry_goes_although_another_host_says_now_and_then_that_it_runs_the_domain(nodes: Nodes) -> None:
    web, others = nodes.with_vm_that_runs_elsewhere(), [uuid4() for _ in range(LISTED_LIMIT - 1)]
    nodes.report("c", *others)
    nodes.look()
    nodes.report("b")
    nodes.look()
    for _ in range(2):
        nodes.report("c", *(uuid4() for _ in others), web, is_ready=False)
        left = nodes.look(in_s=RELEASE_AFTER_S)
    assert left == {}


def test_an_entry_goes_some_seconds_after_the_domain_is_gone(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    nodes.report("b")
    assert nodes.look() == {"a": [(web, "b")]}
    assert nodes.look(in_s=RELEASE_AFTER_S - 1) == {"a": [(web, "b")]}
    assert nodes.look(in_s=1) == {}


def test_many_entries_go_although_the_rate_limit_allows_few_lookups(nodes: Nodes) -> None:
    """The VMs of entries are also read again and again, for which the rate limit has to leave nothing over."""
    uuids = [uuid4() for _ in range(LOOKUPS_BURST + 5)]
    nodes.report("a")
    nodes.report("b", *uuids)
    for number, uuid in enumerate(uuids):
        nodes.vm(f"vm-{number}", "a", uuid)
    nodes.restart()
    nodes.look()
    assert len(nodes.look()["a"]) == len(uuids)
    nodes.report("b")
    for _ in range(4):
        left = nodes.look(in_s=RELEASE_AFTER_S)
    assert left == {}


def test_a_migration_to_a_third_node_leaves_no_gap(nodes: Nodes) -> None:
    web = uuid4()
    for letter in "abc":
        nodes.report(letter)
    nodes.report("b", web)
    nodes.vm("web", "a", web)
    nodes.restart()
    nodes.look()
    nodes.report("b")
    assert nodes.look(in_s=10) == {"a": [(web, "b")]}, "the report of the target comes later"
    nodes.report("c", web)
    assert nodes.look() == {"a": [(web, "b"), (web, "c")]}
    assert nodes.look(in_s=RELEASE_AFTER_S) == {"a": [(web, "c")]}


def test_an_object_that_takes_over_the_domain_there_keeps_the_entry(nodes: Nodes) -> None:
    """The domain is no longer unmanaged, and the object is found when the entry is about to go."""
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    nodes.report("b")
    nodes.look()
    nodes.vm("adopted", "b", web, "Running")
    assert nodes.look(in_s=RELEASE_AFTER_S) == {"a": [(web, "b")]}
    assert ("web", "DomainConflict") in nodes.recorder.told
    nodes.vm("adopted", "b", web, "Stopped")
    nodes.look()  # reads the VM again, after it has judged the entries
    nodes.look()
    assert nodes.look(in_s=RELEASE_AFTER_S) == {}


def test_an_entry_goes_when_the_host_has_taken_over_the_vm(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    nodes.vm("web", "b", web, reporter="a")
    assert nodes.look() == {"a": [(web, "b")]}
    nodes.vm("web", "b", web, "Running")
    nodes.look()  # reads the VM again, after it has written the lists
    assert nodes.look() == {}


def test_an_entry_stays_while_the_vm_is_bound_to_a_silent_host_and_back(nodes: Nodes) -> None:
    """Also without a manager that remembers it."""
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    entry = nodes.entries("a")
    nodes.report("b", web, is_ready=False)
    for letter in "ba":
        nodes.vm("web", letter, web, reporter="a")
        nodes.restart()
        for _ in range(3):
            assert nodes.look(in_s=RELEASE_AFTER_S) == {"a": [(web, "b")]}
    assert nodes.entries("a") == entry


def test_an_entry_follows_the_vm_to_a_third_node(nodes: Nodes) -> None:
    web = uuid4()
    for letter in "ac":
        nodes.report(letter)
    nodes.report("b", web)
    nodes.vm("web", "a", web)
    nodes.restart()
    since = nodes.look() and nodes.entries("a")[0].since
    nodes.report("b", web, is_ready=False)
    nodes.vm("web", "c", web, reporter="a")
    assert nodes.look() == {"a": [(web, "b")], "c": [(web, "b")]}
    assert nodes.look() == {"c": [(web, "b")]}
    assert nodes.entries("c")[0].since == since


@pytest.mark.parametrize("lost", ["race", "lead"])
def test_a_write_that_fails_loses_no_entry_that_moves(nodes: Nodes, lost: str) -> None:
    """The manager writes the list of node a, and then it does not get to write that of node c."""
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.report("c")
    nodes.look()
    nodes.report("b", web, is_ready=False)
    nodes.vm("web", "c", web, reporter="a")
    nodes.restart()
    nodes.fleet.__class__ = Interrupted
    interrupted = cast("Interrupted", nodes.fleet)
    if lost == "race":
        interrupted.before = {nodes.node("c"): lambda: nodes.report("c", uuid4())}
    else:
        interrupted.before = {nodes.node("a"): lambda: setattr(nodes, "leads", False)}
    nodes.look()
    interrupted.before = {}
    nodes.leads = True
    nodes.restart()
    nodes.look()
    assert nodes.look() == {"c": [(web, "b")]}


def test_an_object_that_is_deleted_and_created_again_meets_its_entry(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    nodes.delete("web")
    assert nodes.look() == {"a": [(web, "b")]}
    nodes.vm("web", "a", web)
    assert nodes.look(in_s=RELEASE_AFTER_S) == {"a": [(web, "b")]}


def test_a_new_leader_continues_with_the_lists_as_they_are(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    nodes.report("b")
    nodes.look(in_s=RELEASE_AFTER_S)
    nodes.restart()
    assert nodes.look() == {"a": [(web, "b")]}, "it has not seen for how long the domain is gone"
    assert nodes.look(in_s=RELEASE_AFTER_S) == {}


def test_a_manager_that_does_not_lead_writes_nothing(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.leads = False
    assert nodes.look() == {}
    assert nodes.recorder.told == []
    nodes.leads = True
    assert nodes.look() == {"a": [(web, "b")]}


def test_a_lost_race_is_repeated_at_the_next_look(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    before = nodes.hosts()
    nodes.report("a", uuid4())
    nodes.manager.look(before, nodes.now, nodes.now_s)
    assert nodes.entries("a") == ()
    assert nodes.look() == {"a": [(web, "b")]}


def test_an_agent_that_reports_keeps_the_list(nodes: Nodes) -> None:
    web = nodes.with_vm_that_runs_elsewhere()
    nodes.look()
    nodes.report("a", uuid4())
    assert [entry.uuid for entry in nodes.entries("a")] == [web]


def test_a_vm_that_also_runs_at_home_is_listed_without_an_event(nodes: Nodes) -> None:
    """The agent there tells of it."""
    web = uuid4()
    nodes.report("a")
    nodes.report("b", web)
    nodes.vm("web", "a", web, "Running")
    nodes.restart()
    assert nodes.look() == {"a": [(web, "b")]}
    assert nodes.recorder.told == []


def test_a_uuid_on_two_nodes_is_told_of_on_both_objects(nodes: Nodes) -> None:
    web = uuid4()
    nodes.report("a")
    nodes.report("b")
    nodes.vm("one", "a", web)
    nodes.vm("two", "b", web, "Running")
    nodes.restart()
    assert nodes.look() == {"a": [(web, "b")]}
    assert sorted(nodes.recorder.told) == [
        ("one", "DomainConflict"),
        ("one", "RunsElsewhere"),
        ("two", "DomainConflict"),
    ]
    nodes.look()
    assert len(nodes.recorder.told) == 3
    nodes.sweep()
    nodes.look()
    assert sorted(nodes.recorder.told[3:]) == [("one", "DomainConflict"), ("two", "DomainConflict")], "in each sweep"


# --- the sweep itself -------------------------------------------------------------------------------------------------


class Sweeping:
    """The periodic task, without its thread, and its metrics."""

    def __init__(self, nodes: Nodes) -> None:
        self.leads, self.metrics, self.now_s = True, Metrics(), 1000.0
        recorder = cast("EventRecorder", nodes.recorder)
        self._sweep = Sweep(
            nodes.fleet,
            recorder,
            self.metrics,
            namespace=nodes.name,
            leads=lambda: self.leads,
            clock=lambda: self.now_s,
        )

    def look(self) -> None:
        self._sweep._look()

    def found(self, kind: str) -> float | None:
        return self.metrics.registry.get_sample_value("virtsync_sweep_findings", {"kind": kind})


def test_a_vm_that_no_longer_has_a_node_is_marked_by_the_leader(nodes: Nodes) -> None:
    nodes.vm("left", None, uuid4(), "Running")
    before = nodes.get("left")["status"]
    sweeping = Sweeping(nodes)
    sweeping.leads = False
    sweeping.look()
    assert nodes.get("left")["status"] == before
    sweeping.leads = True
    sweeping.look()
    after = nodes.get("left")["status"]
    (condition,) = after["conditions"]
    assert (condition["status"], condition["reason"]) == ("Unknown", "Pending")
    assert condition["message"].startswith("No node is responsible for it: set spec.nodeName.")
    assert after | {"conditions": 0} == before | {"conditions": 0}, "nothing else is changed"


class Tables(Counting):
    """The manager's requests, and how many of them list all VMs."""

    listed = 0

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        self.listed += 1
        return super().rows(columns)


def test_all_vms_are_listed_at_the_start_of_a_leader_and_every_half_hour(nodes: Nodes) -> None:
    """With 100,000 VMs such a list costs the API server seconds."""
    tables = nodes.fleet = Tables(nodes.fleet._api)
    tables.asked = []
    sweeping = Sweeping(nodes)

    def listed_after(seconds: float) -> int:
        before = tables.listed
        sweeping.now_s += seconds
        sweeping.look()
        return tables.listed - before

    assert listed_after(0) == 1
    assert [listed_after(5) for _ in range(3)] == [0, 0, 0]
    assert listed_after(SWEEP_EVERY_S * (1 - SWEEP_JITTER) - 60) == 0
    assert listed_after(SWEEP_EVERY_S * 2 * SWEEP_JITTER + 60) == 1
    sweeping.leads = False
    assert listed_after(5) == 0
    sweeping.leads = True
    assert listed_after(5) == 1, "another manager might have led meanwhile"


class Denying(Counting):
    """The manager's requests, of which the API server refuses some."""

    rows_fail = marks_fail = False

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        if self.rows_fail:
            raise Rejected("no")
        return super().rows(columns)

    def patch_vm(self, vm: VirtualMachine, status: Json) -> None:
        if self.marks_fail:
            raise Forbidden("no")
        super().patch_vm(vm, status)


@pytest.mark.parametrize("denied", ["rows", "marks"])
def test_entries_are_written_although_a_request_fails(nodes: Nodes, denied: str) -> None:
    web = uuid4()
    nodes.report("a")
    nodes.report("b")
    nodes.vm("web", "a", web)
    nodes.vm("left", None, uuid4(), "Running")
    nodes.fleet.__class__ = Denying
    setattr(nodes.fleet, f"{denied}_fail", True)
    sweeping = Sweeping(nodes)
    sweeping.look()
    nodes.report("b", web)
    sweeping.look()
    assert [entry.uuid for entry in nodes.entries("a")] == [web]
    assert nodes.get("left")["status"]["conditions"][0]["reason"] == "InSync"


def test_a_node_without_a_lease_is_counted_unless_its_agent_belongs_to_another_manager(nodes: Nodes) -> None:
    def without_lease() -> float:
        sweeping = Sweeping(nodes)
        sweeping.look()
        return sweeping.found("node_without_lease") or 0

    nodes.vm("web", "b", uuid4())
    before = without_lease()
    nodes.vm("db", "a", uuid4())
    assert without_lease() == before + 1
    nodes.report("a")
    assert without_lease() == before, "its Hypervisor names no namespace"


def test_a_manager_that_no_longer_leads_shows_no_findings(nodes: Nodes) -> None:
    web = uuid4()
    nodes.report("a")
    nodes.report("b", web)
    nodes.vm("web", "a", web)
    nodes.vm("two", "c", web)
    sweeping = Sweeping(nodes)
    sweeping.look()
    assert all(sweeping.found(kind) for kind in ["node_without_lease", "runs_elsewhere", "uuid_on_two_nodes"])
    sweeping.leads = False
    sweeping.look()
    assert {sweeping.found(kind) for kind in FINDINGS} == {0}


def test_the_leader_shows_for_how_long_a_node_is_in_maintenance(nodes: Nodes) -> None:
    nodes.report("a")
    nodes.report("b")
    begun = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    nodes.maintain("a", "Hold")
    nodes._patch(paths.hypervisor(nodes.node("a")), {"maintenance": {"startTime": api_time(begun), "remaining": 0}})
    sweeping = Sweeping(nodes)

    def shown(letter: str) -> float | None:
        labels = {"node": nodes.node(letter)}
        return sweeping.metrics.registry.get_sample_value("virtsync_hypervisor_maintenance_seconds", labels)

    sweeping.look()
    assert (shown("a") or 0) >= 2 * 3600
    assert shown("b") is None
    nodes.maintain("b", "Shutdown")  # its agent is away, and does not acknowledge it
    sweeping.look()
    assert shown("b") == 0
    sweeping.now_s += 90_000
    sweeping.look()
    assert shown("b") == 90_000, "a maintenance that no agent acknowledges can be forgotten too"
    nodes.maintain("a", None)  # its agent is away, and the status stays as it was
    sweeping.look()
    assert shown("a") is None


def test_an_api_server_without_the_columns_is_told(nodes: Nodes) -> None:
    with pytest.raises(Rejected, match="no Table with the columns Node, Shoe"):
        list(nodes.fleet.rows(["Node", "Shoe"]))

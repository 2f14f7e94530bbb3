"""What the manager does when the API server refuses its marks, or something happens between its requests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller.api.clock import Now
from controller.api.hypervisor import Hypervisor
from controller.api.virtualmachine import PowerState, VirtualMachine
from controller.fleet.silence import AgentLease, Sight
from controller.manager.marker import IDLE_S, MOST_FAILURES, RETRY_MAX_S, Marker
from controller.manager.metrics import Metrics
from controller.runtime.errors import CircuitOpen, Conflicted, Forbidden, Transient
from tests.fleet.hosts import T0, in_sync, vm

NODES, VMS = 10, 50
FOR_S = 600.0
LEASE = AgentLease("agent", "2026-01-01T00:00:00Z", 40.0)


class Silent:
    """Nodes whose agents are silent, and a manager that marks their VMs. `refuse` raises what a mark gets."""

    def __init__(self, refuse: Callable[[VirtualMachine], None]) -> None:
        self._refuse, self.now_s, self.asked, self.marked = refuse, 1000.0, 0, set[str]()
        self.watched = SimpleNamespace(sight=Sight(), in_sight=lambda: True, vms_wait=lambda _silence: False)
        self.requests = SimpleNamespace(hypervisor=lambda _node: None, virtual_machines=self._vms, patch_vm=self._patch)
        self.events: list[str] = []
        watched: Any = self.watched
        requests: Any = self.requests
        recorder: Any = SimpleNamespace(record=lambda _of, notice: self.events.append(notice.reason))
        self.marker = Marker(watched, requests, recorder, Metrics(), namespace="virtsync", clock=self._now)

    def run(self, for_s: float) -> None:
        """Let the manager list the unchanged Leases and take its steps for this time."""
        end_s, listed_s = self.now_s + for_s, float("-inf")
        while self.now_s < end_s:
            if self.now_s - listed_s >= IDLE_S:
                listed_s = self.now_s
                leases = {f"node-{number}": LEASE for number in range(NODES)}
                self.watched.sight = self.watched.sight.listed(leases, requested_s=listed_s, received=self._now())
            wait_s = self.marker._step()
            self.now_s += IDLE_S if wait_s is None else max(wait_s, 0.001)

    def _now(self) -> Now:
        return Now(T0 + timedelta(seconds=self.now_s), self.now_s)

    def _vms(self, node_name: str) -> Iterator[VirtualMachine]:
        for number in range(VMS):
            yield in_sync(vm(node_name, PowerState.RUNNING, name=f"{node_name}-{number:02}"))

    def _patch(self, of: VirtualMachine, _status: object) -> None:
        self.asked += 1
        self._refuse(of)
        self.marked.add(of.key.name)


def test_marks_that_are_all_refused_cause_few_requests_and_log_lines() -> None:
    def refuse(_vm: VirtualMachine) -> None:
        raise Forbidden("virtsync lacks a permission")

    silent = Silent(refuse)
    silent.run(60.0)  # the agents become silent, and the first waits are short
    silent.asked = 0
    with capture_logs() as lines:
        silent.run(FOR_S)
    attempts = NODES * FOR_S / (RETRY_MAX_S / 2)
    assert 0 < silent.asked <= attempts * MOST_FAILURES
    assert 0 < len(lines) <= attempts


def test_the_vms_that_are_refused_do_not_keep_the_others_of_their_node_from_being_marked() -> None:
    """The first of each node are refused, more of them than may fail in a row."""

    def refuse(of: VirtualMachine) -> None:
        if int(of.key.name[-2:]) < 2 * MOST_FAILURES:
            raise Transient("the API server answered 500: failed calling webhook")

    silent = Silent(refuse)
    silent.run(180.0)
    assert len(silent.marked) == NODES * (VMS - 2 * MOST_FAILURES)


def test_nothing_is_sent_for_the_other_vms_of_a_node_while_the_circuit_is_open() -> None:
    def refuse(_vm: VirtualMachine) -> None:
        raise CircuitOpen("connection refused")

    silent = Silent(refuse)
    silent.run(60.0)
    silent.asked = 0
    silent.run(FOR_S)
    assert 0 < silent.asked <= NODES * FOR_S / (RETRY_MAX_S / 2)


class StoredHypervisor:
    """The Hypervisor of node-0 on the API server. The first patch meets `meanwhile`; None: its answer is lost."""

    def __init__(self, silent: Silent, meanwhile: Callable[[dict[str, Any]], None] | None) -> None:
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Active",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        self.raw: dict[str, Any] = {
            "metadata": {"name": "node-0", "uid": "u", "generation": 1, "resourceVersion": "5"},
            "spec": {},
            "status": {"observedGeneration": 1, "leaseNamespace": "virtsync", "conditions": [ready]},
        }
        self._meanwhile, self._patches = meanwhile, 0
        silent.requests.hypervisor = lambda node: copy.deepcopy(self.raw) if node == "node-0" else None
        silent.requests.patch_hypervisor = self._patch

    def _patch(self, of: Hypervisor, status: dict[str, Any]) -> None:
        self._patches += 1
        if self._patches == 1 and self._meanwhile:
            self._meanwhile(self.raw)
            self.raw["metadata"]["resourceVersion"] = "6"
        if of.resource_version != self.raw["metadata"]["resourceVersion"]:
            raise Conflicted("the object has been modified")
        self.raw["status"] |= status
        if self._patches == 1:
            raise Transient("the API server does not answer: Read timed out")

    @property
    def reason(self) -> str:
        """The reason of Ready."""
        return str(self.raw["status"]["conditions"][0]["reason"])


def changes_spec(raw: dict[str, Any]) -> None:
    raw["spec"]["maintenance"] = {"mode": "Hold", "reason": "new RAM"}


def lists_what_runs_elsewhere(raw: dict[str, Any]) -> None:
    entry = {"uuid": "6b1ae4ac-7a3c-4f0e-9d43-2f4a2f6f2c11", "nodeName": "node-b", "since": "2026-01-01T00:00:00Z"}
    raw["status"]["runsElsewhere"] = [entry]


def reports(raw: dict[str, Any]) -> None:
    raw["status"]["agentVersion"] = "2"


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        (changes_spec, "AgentUnreachable"),
        (lists_what_runs_elsewhere, "AgentUnreachable"),
        (reports, "Active"),
    ],
)
def test_only_a_report_of_the_agent_keeps_a_hypervisor_from_its_mark(
    meanwhile: Callable[[dict[str, Any]], None], reason: str
) -> None:
    silent = Silent(lambda _vm: None)
    stored = StoredHypervisor(silent, meanwhile)
    silent.run(FOR_S)
    assert stored.reason == reason
    assert silent.events == ["AgentUnreachable"] * (reason == "AgentUnreachable")


def test_a_host_is_marked_although_an_older_policy_forbids_to_write_quiesced() -> None:
    silent = Silent(lambda _vm: None)
    stored = StoredHypervisor(silent, None)
    quiesced = stored.raw["status"]["conditions"][0] | {"type": "Quiesced", "reason": "Quiet"}
    stored.raw["status"]["conditions"].append(quiesced)

    def patch(_of: Hypervisor, status: dict[str, Any]) -> None:
        if quiesced not in status["conditions"]:
            raise Forbidden("the manager may change no other condition")
        stored.raw["status"] |= status

    silent.requests.patch_hypervisor = patch
    silent.run(FOR_S)
    assert (stored.reason, silent.events) == ("AgentUnreachable", ["AgentUnreachable"])


def test_a_mark_whose_answer_was_lost_has_its_event() -> None:
    silent = Silent(lambda _vm: None)
    stored = StoredHypervisor(silent, None)
    silent.run(FOR_S)
    assert stored.reason == "AgentUnreachable"
    assert silent.events == ["AgentUnreachable"]

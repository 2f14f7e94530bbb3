"""What is marked and how: each row of the table, each VM that is left alone, and what a mark changes."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.api.codec import parse, render_status
from controller.api.hypervisor import Hypervisor, HypervisorStatus
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.virtualmachine import (
    Condition,
    DomainRecord,
    PowerState,
    Reason,
    Status,
    VirtualMachine,
    VmKey,
)
from controller.fleet.marking import (
    EXEMPTIONS,
    ROWS,
    NodeFacts,
    Outcome,
    exemption_of,
    hypervisor_mark,
    message,
    row_of,
    vm_mark,
)
from controller.fleet.silence import Kind, Silence

Json = dict[str, Any]

DOCS = Path(__file__).parents[2] / "docs" / "fleet.md"
T0 = datetime(2026, 11, 27, 8, 20, 13, tzinfo=UTC)
NOW = T0 + timedelta(seconds=44, microseconds=5)
HERE, THERE = "virtsync-system", "another"


def silence(kind: Kind = Kind.LOST) -> Silence:
    return Silence("node-a", kind, 100.0, T0)


def host(lease_namespace: str, *, reported: bool = True) -> Hypervisor:
    status = HypervisorStatus(observed_generation=1 if reported else -1, lease_namespace=lease_namespace)
    return Hypervisor("node-a", "uid", 1, "1", T0, status=status)


def situation(kind: Kind | None, lease_namespace: str | None, *, may_write: bool = True) -> NodeFacts:
    """`lease_namespace` as the Hypervisor names it; None: there is no Hypervisor."""
    found = None if lease_namespace is None else host(lease_namespace)
    return NodeFacts(HERE, may_write, silence(kind) if kind else None, found)


# --- the table of a node


@pytest.mark.parametrize(
    ("kind", "lease_namespace", "row"),
    [
        (None, HERE, "heard"),
        (None, THERE, "heard"),
        (Kind.LOST, HERE, "lost"),
        (Kind.LOST, "", "elsewhere"),
        (Kind.LOST, None, "lost"),
        (Kind.LOST, THERE, "elsewhere"),
        (Kind.LEFT, HERE, "left"),
        (Kind.LEFT, "", "elsewhere"),
        (Kind.LEFT, None, "left"),
        (Kind.LEFT, THERE, "elsewhere"),
        (Kind.MISSING, HERE, "missing"),
        (Kind.MISSING, None, "missing"),
        (Kind.MISSING, "", "elsewhere"),
        (Kind.MISSING, THERE, "elsewhere"),
    ],
)
def test_what_is_known_of_a_node_has_its_row(kind: Kind | None, lease_namespace: str | None, row: str) -> None:
    assert row_of(situation(kind, lease_namespace)).name == row


@pytest.mark.parametrize(
    ("kind", "row"),
    [(None, "heard"), (Kind.LOST, "lost"), (Kind.LEFT, "left"), (Kind.MISSING, "elsewhere")],
)
def test_before_the_first_report_only_the_lease_tells_whether_there_is_one(kind: Kind | None, row: str) -> None:
    found = NodeFacts(
        HERE, may_write=True, silence=silence(kind) if kind else None, hypervisor=host("", reported=False)
    )
    assert row_of(found).name == row


def test_who_may_not_write_marks_nothing_whatever_is_known() -> None:
    for kind, namespace in itertools.product([None, *Kind], [None, "", HERE, THERE]):
        assert row_of(situation(kind, namespace, may_write=False)).name == "no-sight"


def test_only_silent_nodes_are_marked_and_each_row_is_met() -> None:
    met = set()
    for kind, namespace, may_write in itertools.product([None, *Kind], [None, "", HERE, THERE], [False, True]):
        row = row_of(situation(kind, namespace, may_write=may_write))
        met.add(row)
        assert row.outcome is not Outcome.MARK or (may_write and kind)
    assert met == set(ROWS)


def documented(heading: str) -> list[list[str]]:
    """The cells of each row of the table in the docs whose first column has this heading."""
    rows, inside = [], False
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else [""]
        inside = cells[0] == heading or (inside and bool(cells[0]))
        if inside and cells[0].startswith("`"):
            rows.append(cells)
    return rows


def test_the_table_in_the_docs_is_the_one_in_the_code() -> None:
    assert [(cells[0].strip("`"), cells[-1]) for cells in documented("row")] == [
        (row.name, row.outcome.value) for row in ROWS
    ]


def test_the_exemptions_in_the_docs_are_those_in_the_code() -> None:
    assert [cells[0].strip("`") for cells in documented("left alone")] == [one.name for one in EXEMPTIONS]


# --- VMs


def vm(*, deleting: bool = False, **fields: Any) -> VirtualMachine:
    """A VM that was reported running."""
    ready = Condition("Ready", "True", Reason.IN_SYNC, "It runs.", T0 - timedelta(days=1), 7)
    status: dict[str, Any] = {
        "observed_generation": 8,
        "node_name": "node-a",
        "decided_reason": Reason.IN_SYNC,
        "power_state": PowerState.RUNNING,
        "domain": DomainRecord("web", None, "web", 3),
        "conditions": (ready,),
    }
    return VirtualMachine(
        VmKey("vms", "web"), "uid", 8, "1", T0, "node-a", deleting=deleting, status=Status(**status | fields)
    )


@pytest.mark.parametrize(
    ("left", "name"),
    [
        (vm(), ""),
        (vm(power_state=PowerState.STOPPED), ""),
        (vm(conditions=()), ""),
        (vm(deleting=True), "deleting"),
        (vm(node_name=""), "never-reported"),
        (vm(node_name="node-b", power_state=PowerState.STOPPED), "off-elsewhere"),
        (vm(node_name="node-b", power_state=PowerState.RUNNING), ""),
        (vm(node_name="node-b", power_state=PowerState.UNKNOWN), ""),
        (vm(decided_reason=""), "no-decided-reason"),
        (vm(conditions=(Condition("Ready", "Unknown", Reason.AGENT_UNREACHABLE, "", T0, 7),)), "marked"),
    ],
)
def test_who_is_left_alone(left: VirtualMachine, name: str) -> None:
    assert exemption_of(left) == name


def test_a_mark_is_the_one_condition_and_says_what_happened() -> None:
    assert vm_mark(vm(), silence(), NOW) == {
        "conditions": [
            {
                "type": "Ready",
                "status": "Unknown",
                "reason": "AgentUnreachable",
                "message": "The agent of node-a has not been heard since 2026-11-27 08:20:13Z:"
                " the status shows what was reported last.",
                "lastTransitionTime": "2026-11-27T08:20:57Z",
                "observedGeneration": 7,
            }
        ]
    }


def test_one_that_was_unknown_already_keeps_the_time_of_that() -> None:
    since = T0 - timedelta(hours=3)
    before = Condition("Ready", "Unknown", Reason.LIBVIRT_UNREACHABLE, "", since, 7)
    (mark,) = vm_mark(vm(conditions=(before,)), silence(), NOW)["conditions"]
    assert mark["lastTransitionTime"] == "2026-11-27T05:20:13Z"


def test_without_a_condition_the_observed_generation_is_that_of_the_status() -> None:
    (mark,) = vm_mark(vm(conditions=()), silence(), NOW)["conditions"]
    assert mark["observedGeneration"] == 8
    (mark,) = vm_mark(vm(conditions=(), observed_generation=-1), silence(), NOW)["conditions"]
    assert mark["observedGeneration"] == 0


def test_a_marked_vm_is_not_marked_again_and_nothing_but_its_conditions_has_changed() -> None:
    before = vm(conditions=(*vm().status.conditions, Condition("Reconciling", "True", "Starting", "", T0, 7)))
    raw = {"status": render_status(before.status)}
    after = parse({"status": raw["status"] | vm_mark(before, silence(), NOW)})
    assert exemption_of(after) == "marked"
    kept, marked = render_status(before.status), render_status(after.status)
    assert kept.pop("conditions") != marked.pop("conditions")
    assert kept == marked


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Kind.LOST, "The agent of node-a has not been heard since 2026-11-27 08:20:13Z"),
        (Kind.LEFT, "The agent of node-a was stopped at 2026-11-27 08:20:13Z, and no other has started there"),
        (Kind.MISSING, "No agent of node-a has been heard since 2026-11-27 08:20:13Z, and the node has no Lease"),
    ],
)
def test_the_message_says_how_the_agent_became_silent(kind: Kind, told: str) -> None:
    assert message(silence(kind)) == f"{told}: the status shows what was reported last."


# --- Hypervisors


def raw_host(*conditions: Json, **metadata: Any) -> Json:
    return {"metadata": {"name": "node-a"} | metadata, "status": {"observedGeneration": 4, "conditions": [*conditions]}}


def condition(kind: str, status: str, reason: str) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-11-27T05:00:00Z",
        "observedGeneration": 3,
    }


ACTIVE, QUIESCED = condition("Ready", "True", "Active"), condition("Quiesced", "True", "Quiet")
FOREIGN = condition("example.org/Checked", "True", "Checked")


def test_of_a_hypervisor_only_its_own_conditions_change() -> None:
    patch = hypervisor_mark(raw_host(QUIESCED, ACTIVE, FOREIGN), silence(), NOW)
    assert patch
    *marks, foreign = patch["conditions"]
    assert [one["type"] for one in marks] == ["Ready", "Quiesced"]
    for mark in marks:
        assert (mark["status"], mark["reason"]) == ("Unknown", "AgentUnreachable")
        assert (mark["lastTransitionTime"], mark["observedGeneration"]) == ("2026-11-27T08:20:57Z", 3)
        assert mark["message"] == message(silence())
    assert foreign == FOREIGN
    after = parse_hypervisor({"metadata": {}, "status": patch})
    assert after.status.ready is False


def test_a_hypervisor_that_was_unknown_already_keeps_the_time_of_that() -> None:
    patch = hypervisor_mark(raw_host(condition("Ready", "Unknown", "LibvirtUnreachable")), silence(), NOW)
    assert patch
    assert patch["conditions"][0]["lastTransitionTime"] == "2026-11-27T05:00:00Z"


def test_one_that_nobody_has_reported_on_is_marked_too() -> None:
    patch = hypervisor_mark({"metadata": {"name": "node-a"}}, silence(), NOW)
    assert patch
    (ready,) = patch["conditions"]
    assert ready["observedGeneration"] == 0


def test_a_hypervisor_that_is_marked_is_left_alone() -> None:
    assert hypervisor_mark(raw_host(condition("Ready", "Unknown", "AgentUnreachable")), silence(), NOW) is None


def test_quiesced_can_stay_as_it_is() -> None:
    patch = hypervisor_mark(raw_host(QUIESCED, ACTIVE), silence(), NOW, with_quiesced=False)
    assert patch
    ready, quiesced = patch["conditions"]
    assert (ready["type"], ready["status"], quiesced) == ("Ready", "Unknown", QUIESCED)
    assert hypervisor_mark(raw_host(ready, quiesced), silence(), NOW, with_quiesced=False) is None


def test_the_mark_of_a_version_that_left_quiesced_alone_is_completed() -> None:
    """Whoever waits for Quiesced powers the host off next."""
    marked = condition("Ready", "Unknown", "AgentUnreachable")
    patch = hypervisor_mark(raw_host(marked, QUIESCED), silence(), NOW)
    assert patch
    ready, quiesced = patch["conditions"]
    assert ready["lastTransitionTime"] == "2026-11-27T05:00:00Z"
    assert (quiesced["status"], quiesced["lastTransitionTime"]) == ("Unknown", "2026-11-27T08:20:57Z")
    assert hypervisor_mark(raw_host(ready, quiesced), silence(), NOW) is None


def test_a_hypervisor_that_is_being_deleted_is_marked() -> None:
    """A finalizer can keep it for long."""
    patch = hypervisor_mark(raw_host(ACTIVE, deletionTimestamp="2026-11-27T08:00:00Z"), silence(), NOW)
    assert patch
    assert patch["conditions"][0]["reason"] == "AgentUnreachable"

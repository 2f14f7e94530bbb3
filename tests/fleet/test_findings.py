"""What the rows of all VMs show: nodes without a Lease, VMs without a node, UUIDs on two nodes."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.api.names import ConditionType
from controller.api.virtualmachine import Condition, PowerState, Reason, Status, VirtualMachine
from controller.fleet.findings import Findings, conflicts, find, mark_without_node
from tests.fleet.hosts import DB, T0, WEB, vm

LATER = T0 + timedelta(hours=1)

WEB_ROW, DB_ROW = ("a", str(WEB), "InSync"), ("b", str(DB), "InSync")


def test_a_fleet_in_order_has_no_findings() -> None:
    expected = Findings(2, frozenset({WEB, DB}), frozenset(), 0, frozenset())
    assert find([WEB_ROW, DB_ROW], {"a", "b"}) == expected


def test_no_vm_is_no_finding() -> None:
    assert find([], {"a"}) == Findings(0, frozenset(), frozenset(), 0, frozenset())


def test_a_node_that_has_vms_and_no_lease_is_found() -> None:
    assert find([WEB_ROW, WEB_ROW, DB_ROW], {"b", "c"}).without_lease == {"a"}


@pytest.mark.parametrize(("reason", "count"), [("InSync", 1), ("AgentUnreachable", 1), ("Pending", 0)])
def test_a_vm_without_a_node_is_found_if_an_agent_has_reported_it(reason: str, count: int) -> None:
    found = find([("", str(WEB), reason)], set())
    assert (found.without_node, found.without_lease) == (count, frozenset())


def test_each_vm_without_a_node_counts() -> None:
    rows = [("", str(WEB), "InSync"), ("", str(DB), "InSync"), WEB_ROW, ("", "", "InSync"), DB_ROW]
    assert find(rows, {"a", "b"}).without_node == 3


@pytest.mark.parametrize(("other", "found"), [("b", {WEB}), ("a", set()), ("", set())])
def test_a_uuid_on_two_nodes_is_found(other: str, found: set[object]) -> None:
    assert find([WEB_ROW, (other, str(WEB).upper(), "Pending")], {"a", "b"}).on_two_nodes == found


def test_a_vm_that_has_no_uuid_yet_is_like_no_other() -> None:
    found = find([("a", "", "Pending"), ("b", "", "Pending"), ("b", "damaged", "InSync")], {"a", "b"})
    assert found == Findings(3, frozenset(), frozenset(), 0, frozenset())


# --- a UUID on two nodes ------------------------------------------------------------------------------------------


def test_two_objects_of_one_uuid_on_two_nodes_are_a_conflict_of_both() -> None:
    one, two = vm("a", name="one"), vm("b", name="two")
    assert [(found.key.name, sentence) for found, sentence in conflicts(WEB, [one, two])] == [
        ("one", f"UUID {WEB} is also that of default/two (node b): two nodes may use the same disks."),
        ("two", f"UUID {WEB} is also that of default/one (node a): two nodes may use the same disks."),
    ]


def test_a_conflict_of_three_names_the_two_others() -> None:
    three = [vm(node, name=name) for node, name in (("a", "one"), ("b", "two"), ("c", "three"))]
    assert next(sentence for _, sentence in conflicts(WEB, three)) == (
        f"UUID {WEB} is also that of default/three (node c) and default/two (node b): two nodes may use the same disks."
    )


@pytest.mark.parametrize("other", [vm("a", name="same-node"), vm("", name="no-node", reporter="b")])
def test_two_objects_that_are_not_bound_to_two_nodes_are_no_conflict(other: VirtualMachine) -> None:
    assert [*conflicts(WEB, [vm("a"), other]), *conflicts(WEB, [other, vm("a")])] == []


# --- a VM without a node ------------------------------------------------------------------------------------------


def without_node(reason: str = Reason.IN_SYNC, ready: str = "True", **fields: object) -> VirtualMachine:
    condition = Condition(ConditionType.READY, ready, reason, "", T0, 3)
    found = vm("", PowerState.RUNNING, reporter="a")
    report = replace(found.status, decided_reason=Reason.IN_SYNC, conditions=(condition,))
    return replace(replace(found, status=report), **fields)  # type: ignore[arg-type]


def test_the_mark_says_that_no_node_is_responsible() -> None:
    mark = mark_without_node(without_node(), LATER)
    assert mark == {
        "conditions": [
            {
                "type": "Ready",
                "status": "Unknown",
                "reason": "Pending",
                "message": "No node is responsible for it: set spec.nodeName."
                " The status shows what the agent of a reported last.",
                "lastTransitionTime": "2026-01-01T01:00:00Z",
                "observedGeneration": 3,
            }
        ]
    }


def test_a_vm_that_was_unknown_before_keeps_the_time_of_that() -> None:
    mark = mark_without_node(without_node(Reason.AGENT_UNREACHABLE, "Unknown"), LATER)
    assert mark
    assert mark["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_a_vm_that_is_marked_is_not_found_again() -> None:
    assert find([("", str(WEB), Reason.PENDING)], set()).without_node == 0
    assert mark_without_node(without_node(Reason.PENDING, "Unknown"), LATER) is None


@pytest.mark.parametrize(
    "exempt",
    [
        without_node(node_name="a"),
        without_node(deleting=True),
        without_node(status=replace(without_node().status, decided_reason="")),
        without_node(status=Status()),
    ],
    ids=["bound again", "being deleted", "older agent", "never reported"],
)
def test_a_vm_that_needs_no_mark_gets_none(exempt: VirtualMachine) -> None:
    assert mark_without_node(exempt, LATER) is None

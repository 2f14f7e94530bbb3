"""Which reports under the name of this node are of another host, and how long this agent leaves them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from controller.agent.node_conflict import FIRST_S, MAX_S, NodeConflict
from controller.api.virtualmachine import Status, VirtualMachine, VmKey
from controller.policy.view import Node

OURS, OTHER = UUID(int=1), UUID(int=2)
NODE = Node("node-a", "boot-1", host_uuid=OURS)
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def reported_by(host: UUID | None, *, boot: str = "boot-2", node: str = "node-a", name: str = "web") -> VirtualMachine:
    status = Status(node_name=node, node_boot_id=boot, host_uuid=host)
    return VirtualMachine(VmKey("default", name), name, 1, "1", T0, "node-a", domain_name="web", status=status)


class Place:
    def __init__(self) -> None:
        self.temporary = 0
        self.conflict = NodeConflict(on_temporary_uuid=self._is_temporary)

    def _is_temporary(self) -> None:
        self.temporary += 1

    def wait_s(self, vm: VirtualMachine) -> float:
        return self.conflict.wait_s(vm, NODE)


def test_the_waits_for_a_report_of_another_host_double_up_to_their_limit() -> None:
    place, waits = Place(), [FIRST_S]
    while waits[-1] < MAX_S:
        waits.append(min(2 * waits[-1], MAX_S))
    assert [place.wait_s(reported_by(OTHER)) for _ in range(len(waits) + 1)] == [*waits, MAX_S]
    assert place.wait_s(reported_by(OTHER, name="db")) == FIRST_S, "each object has its own waits"


def test_a_report_that_is_not_of_another_host_ends_the_waits() -> None:
    for vm in (reported_by(OURS), reported_by(None), reported_by(OTHER, node="node-b")):
        place = Place()
        assert [place.wait_s(one) for one in (reported_by(OTHER), vm, reported_by(OTHER))] == [FIRST_S, 0, FIRST_S]
        assert place.temporary == 0


def test_an_object_that_is_gone_leaves_no_wait() -> None:
    place = Place()
    place.wait_s(reported_by(OTHER))
    place.conflict.forget(VmKey("default", "web"))
    place.conflict.forget(VmKey("default", "nobody"))
    assert place.wait_s(reported_by(OTHER)) == FIRST_S


def test_another_uuid_within_one_boot_is_temporary() -> None:
    place = Place()
    assert place.wait_s(reported_by(OTHER, boot=NODE.boot_id)) == 0
    assert place.temporary == 1


def test_a_host_without_a_uuid_is_in_no_conflict() -> None:
    place = Place()
    assert not place.conflict.check(reported_by(OTHER), Node("node-a", "boot-1"))

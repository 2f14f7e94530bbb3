"""What a host has, as its Hypervisor shows it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.hypervisor import LISTED_LIMIT, DomainCounts, Unmanaged, VmCounts
from controller.api.names import ConditionType
from controller.api.values import replace
from controller.api.virtualmachine import (
    Condition,
    DomainRecord,
    Operation,
    OperationType,
    PowerState,
    Status,
    VirtualMachine,
    VmKey,
)
from controller.fleet.inventory import ListedDomain, count_vms, has_open_start, managed_by, take_inventory

NODE = "node-a"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def domain(number: int, name: str = "", *, on: bool = False, transient: bool = False) -> ListedDomain:
    state, reason = (PowerState.RUNNING, "BOOTED") if on else (PowerState.STOPPED, "SHUTDOWN")
    return ListedDomain(UUID(int=number), name or f"vm-{number:04}", state, on, reason, transient)


def vm(
    name: str,
    state: PowerState = PowerState.RUNNING,
    ready: str = "True",
    *,
    node: str = NODE,
    deleting: bool = False,
) -> VirtualMachine:
    condition = Condition(ConditionType.READY, ready, "InSync", "", EPOCH, 1)
    status = Status(node_name=node, power_state=state, conditions=(condition,))
    return VirtualMachine(VmKey("vms", name), name, 1, "1", EPOCH, NODE, deleting=deleting, status=status)


def names(unmanaged: Unmanaged) -> list[str]:
    return [one.name for one in unmanaged.domains]


def test_a_host_without_domains_has_nothing() -> None:
    found = take_inventory([], [])
    assert found.domains == found.managed == DomainCounts(0, 0)
    assert found.unmanaged == Unmanaged(0, 0)


def test_a_domain_with_an_object_is_counted_and_not_offered() -> None:
    found = take_inventory([domain(1, on=True), domain(2)], {UUID(int=1)})
    assert found.domains == DomainCounts(2, 1)
    assert found.managed == DomainCounts(1, 1)
    assert names(found.unmanaged) == ["vm-0002"]


def test_running_domains_come_first_and_then_names_decide() -> None:
    found = take_inventory([domain(1, "b"), domain(2, "a"), domain(3, "d", on=True), domain(4, "c", on=True)], [])
    assert names(found.unmanaged) == ["c", "d", "a", "b"]
    assert (found.unmanaged.total, found.unmanaged.running, found.unmanaged.truncated) == (4, 2, False)


def test_an_offered_domain_has_what_libvirt_shows() -> None:
    (one,) = take_inventory([domain(7, on=True, transient=True)], []).unmanaged.domains
    assert (one.uuid, one.power_state, one.reason) == (UUID(int=7), PowerState.RUNNING, "BOOTED")
    assert one.transient


@pytest.mark.parametrize(("count", "truncated"), [(LISTED_LIMIT, False), (LISTED_LIMIT + 1, True)])
def test_a_list_that_is_too_long_is_cut(count: int, truncated: bool) -> None:  # noqa: FBT001 - a column of the table
    found = take_inventory([domain(number) for number in range(count)], []).unmanaged
    assert (len(found.domains), found.total, found.truncated) == (LISTED_LIMIT, count, truncated)


def test_without_names_there_are_only_counts() -> None:
    found = take_inventory([domain(1, on=True), domain(2)], [], names=False).unmanaged
    assert found == Unmanaged(total=2, running=1, truncated=True)


def test_without_names_a_host_with_nothing_to_offer_has_a_whole_list() -> None:
    assert take_inventory([domain(1)], {UUID(int=1)}, names=False).unmanaged == Unmanaged(0, 0)


def test_an_ignored_domain_is_only_counted() -> None:
    domains = [domain(1, "instance-0001", on=True), domain(2, "my-instance-0001"), domain(3, "instance")]
    found = take_inventory(domains, [], ignored=re.compile("instance-.*"))
    assert found.domains == DomainCounts(3, 1)
    assert names(found.unmanaged) == ["instance", "my-instance-0001"]
    assert (found.unmanaged.total, found.unmanaged.running, found.unmanaged.truncated) == (2, 0, False)


def test_an_ignored_domain_with_an_object_is_managed() -> None:
    found = take_inventory([domain(1, "instance-1", on=True)], {UUID(int=1)}, ignored=re.compile("instance-.*"))
    assert found.managed == DomainCounts(1, 1)


@pytest.mark.parametrize(
    ("vms", "counts"),
    [
        ([], VmCounts(0, 0, 0)),
        ([vm("a")], VmCounts(1, 1, 0)),
        ([vm("a", PowerState.PAUSED)], VmCounts(1, 1, 0)),
        ([vm("a", PowerState.STOPPED)], VmCounts(1, 0, 0)),
        ([vm("a", PowerState.ABSENT, "False")], VmCounts(1, 0, 1)),
        ([vm("a", PowerState.UNKNOWN, "Unknown")], VmCounts(1, 0, 1)),
        ([vm("a", ready="False"), vm("b")], VmCounts(2, 2, 1)),
        ([vm("a", node="node-b", ready="False")], VmCounts(1, 0, 1)),
        ([vm("a", deleting=True)], VmCounts(0, 0, 0)),
    ],
)
def test_objects_are_counted_by_their_reports(vms: list[VirtualMachine], counts: VmCounts) -> None:
    assert count_vms(vms, NODE) == counts


def test_an_object_without_a_report_is_not_ready() -> None:
    unreported = VirtualMachine(VmKey("vms", "a"), "a", 1, "1", EPOCH, NODE)
    assert count_vms([unreported], NODE) == VmCounts(1, 0, 1)


@pytest.mark.parametrize(
    ("operation", "node", "is_open"),
    [
        (None, NODE, False),
        (Operation(OperationType.START, EPOCH, attempt=1), NODE, True),
        (Operation(OperationType.RESTART, EPOCH, EPOCH, attempt=1), NODE, True),
        (Operation(OperationType.RESTART, EPOCH, EPOCH), NODE, False),
        (Operation(OperationType.STOP, EPOCH, EPOCH), NODE, False),
        (Operation(OperationType.START, EPOCH, attempt=1), "node-b", False),
    ],
)
def test_a_start_is_open_until_its_result_is_known(operation: Operation | None, node: str, *, is_open: bool) -> None:
    one = vm("a", node=node)
    assert has_open_start([vm("b"), replace(one, status=replace(one.status, operation=operation))], NODE) is is_open


def test_a_start_of_an_object_on_which_nobody_reports_any_more_is_not_open() -> None:
    one = vm("a")
    starting = replace(one, status=replace(one.status, operation=Operation(OperationType.START, EPOCH, attempt=1)))
    assert not has_open_start([replace(starting, deleting=True)], NODE)
    assert not has_open_start([replace(starting, misunderstood="spec.new")], NODE)


WEB = UUID(int=1)
WEB_VM = replace(vm("web"), status=replace(vm("web").status, domain=DomainRecord("web", WEB, "web")))


@pytest.mark.parametrize(
    ("one", "shown"),
    [
        (WEB_VM, True),
        (VirtualMachine(VmKey("vms", "web"), "web", 1, "1", EPOCH, NODE, domain_uuid=WEB), False),
        (replace(WEB_VM, status=replace(WEB_VM.status, node_name="node-b")), False),
        (replace(WEB_VM, status=replace(WEB_VM.status, domain=DomainRecord("", None, "web"))), False),
        (replace(WEB_VM, misunderstood="spec.new"), False),
        (replace(WEB_VM, deleting=True), False),
    ],
    ids=["reported", "not reported yet", "reported by another node", "lookup hangs", "not understood", "deleting"],
)
def test_a_domain_is_managed_when_the_report_of_an_object_shows_it(one: VirtualMachine, *, shown: bool) -> None:
    """Until then the manager learns only from the list of unmanaged domains that it runs."""
    assert managed_by([vm("other"), one], NODE) == ({WEB} if shown else set())


@given(
    flags=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=40),
    with_names=st.booleans(),
)
def test_each_domain_is_managed_or_offered_or_ignored(flags: list[tuple[bool, bool, bool]], with_names: bool) -> None:  # noqa: FBT001 - drawn
    domains = [
        domain(number, f"{'skip' if ignored else 'vm'}-{number}", on=on)
        for number, (on, ignored, _) in enumerate(flags)
    ]
    managed = {UUID(int=number) for number, (_, _, owned) in enumerate(flags) if owned}
    found = take_inventory(domains, managed, names=with_names, ignored=re.compile("skip-.*"))
    skipped = sum(ignored and not owned for _, ignored, owned in flags)
    assert found.managed.total + found.unmanaged.total + skipped == found.domains.total == len(domains)
    assert found.unmanaged.running <= found.unmanaged.total
    listed = found.unmanaged.domains
    assert {one.uuid for one in listed}.isdisjoint(managed)
    running = [one.power_state is PowerState.RUNNING for one in listed]
    assert running == sorted(running, reverse=True)
    assert len(listed) == (found.unmanaged.total if with_names else 0)
    assert found.unmanaged.truncated is (len(listed) < found.unmanaged.total)

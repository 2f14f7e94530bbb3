"""Which objects speak of a domain, and which of them has it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from controller.agent.domain_index import DomainIndex
from controller.api.virtualmachine import DomainRecord, PowerState, Status, VirtualMachine, VmKey
from controller.policy.view import Domain, Phase

T0 = datetime(2026, 1, 1, tzinfo=UTC)
UID, OTHER = UUID(int=7), UUID(int=8)
WEB = Domain(UID, "web", Phase.RUNNING, 1)
ASKER = VmKey("default", "asker")


def vm(name: str, *, age_s: float = 0, domain: str | None = "web", uuid: UUID | None = None) -> VirtualMachine:
    key = VmKey("default", name)
    created = T0 - timedelta(seconds=age_s)
    return VirtualMachine(key, name, 1, "1", created, "node-a", domain_name=domain, domain_uuid=uuid)


def pinned(machine: VirtualMachine, uuid: UUID) -> VirtualMachine:
    record = DomainRecord("web", uuid, machine.bound_by)
    return replace(machine, status=Status(node_name=machine.node_name, power_state=PowerState.STOPPED, domain=record))


def test_an_event_finds_the_objects_by_name_and_by_uuid() -> None:
    directory = DomainIndex()
    by_name, by_uuid = vm("a"), vm("b", domain=None, uuid=UID)
    for machine in (by_name, by_uuid, vm("c", domain="db")):
        directory.enter(machine)
    assert directory.keys(UID, "web") == {by_name.key, by_uuid.key}
    assert directory.keys(OTHER, "web") == {by_name.key}
    assert directory.keys(OTHER, "nobody's") == set()


def test_the_oldest_object_has_the_domain_and_age_of_equal_ones_is_settled_by_name() -> None:
    directory = DomainIndex()
    assert directory.owner(WEB, ASKER) is None
    directory.enter(vm("young"))
    directory.enter(vm("old", age_s=9, domain=None, uuid=UID))
    assert directory.owner(WEB, ASKER) == VmKey("default", "old")
    directory.enter(vm("ancient", age_s=9))
    assert directory.owner(WEB, ASKER) == VmKey("default", "ancient")


def test_an_object_that_means_another_domain_of_that_name_does_not_have_this_one() -> None:
    directory = DomainIndex()
    directory.enter(pinned(vm("old", age_s=9), OTHER))
    directory.enter(vm("young"))
    assert directory.owner(WEB, ASKER) == VmKey("default", "young")


def test_the_report_of_another_host_takes_no_domain_of_another_name() -> None:
    """Its agent might be taken over."""
    directory = DomainIndex()
    theirs = pinned(vm("old", age_s=9, domain="its-own"), UID)
    directory.enter(replace(theirs, status=replace(theirs.status, node_name="node-x")))
    directory.enter(vm("young"))
    assert directory.owner(WEB, ASKER) == VmKey("default", "young")
    directory.enter(theirs)
    assert directory.owner(WEB, ASKER) == VmKey("default", "old")


def test_coming_and_leaving_concern_the_others_that_mean_the_domain() -> None:
    directory = DomainIndex()
    first, second = vm("first"), vm("second")
    assert directory.enter(first) == set()
    assert directory.enter(second) == {first.key}
    assert directory.enter(second) == set()
    assert directory.enter(replace(second, domain_name="db")) == {first.key}
    assert directory.keys(UID, "web") == {first.key}
    directory.enter(second)
    assert directory.leave(first.key) == {second.key}
    assert directory.leave(first.key) == set()
    assert directory.owner(WEB, ASKER) == second.key


def test_nothing_is_kept_of_objects_that_left() -> None:
    directory = DomainIndex()
    machine = pinned(vm("a"), UID)
    directory.enter(machine)
    directory.keys(OTHER, "nobody's")
    directory.leave(machine.key)
    assert not directory._entries
    assert not directory._by_uuid
    assert not directory._by_name


def test_an_object_that_was_refused_is_woken_when_the_owner_leaves_unless_it_is_gone() -> None:
    """One refers to the domain by its UUID, and the other one by its name."""
    directory = DomainIndex()
    owner, younger, gone = vm("owner", age_s=9, domain=None, uuid=UID), vm("younger"), vm("gone")
    for machine in (owner, younger, gone):
        directory.enter(machine)
        assert directory.owner(WEB, machine.key) == owner.key
    directory.leave(gone.key)
    assert directory.leave(owner.key) == {younger.key}


def test_a_uuid_that_only_another_host_has_reported_wakes_the_object_and_claims_nothing() -> None:
    directory = DomainIndex()
    theirs = pinned(vm("old", domain="its-own"), UID)
    directory.enter(replace(theirs, status=replace(theirs.status, node_name="node-x")))
    assert directory.keys(UID, "web") == {theirs.key}
    assert not directory.is_claimed(UID, "web")
    directory.enter(theirs)
    assert directory.is_claimed(UID, "web")

"""How the manager keeps the lists of VMs that run elsewhere, while requests to the API server fail."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from controller.api.hypervisor import Hypervisor, RunsElsewhere, UnmanagedDomain
from controller.api.json_mapping import Json
from controller.api.values import replace
from controller.api.virtualmachine import PowerState, VirtualMachine, VmKey
from controller.fleet.elsewhere import RELEASE_AFTER_S
from controller.manager.elsewhere import Elsewhere
from controller.runtime.errors import Transient
from tests.fleet.hosts import DB, T0, WEB, domain, host, vm

LOOK_S = 5.0
MANY = [UUID(int=1000 + number) for number in range(40)]
Fails = Callable[[str], bool]


class Fleet:
    """The objects of the API server, which answers the requests that `fails` does not refuse.

    `fails` gets the name of the object, or the UUID that is asked for.
    """

    def __init__(self, *vms: VirtualMachine) -> None:
        self.vms, self.hosts = {one.key: one for one in vms}, dict[str, Hypervisor]()
        self.fails: Fails = lambda _what: False
        self.now_s = 0.0
        recorder: Any = SimpleNamespace(record=lambda *_: None)
        requests: Any = self
        self.elsewhere = Elsewhere(requests, recorder, leads=lambda: True, clock=lambda: self.now_s)

    def report(self, name: str, domains: Iterable[UnmanagedDomain], entries: Iterable[RunsElsewhere] = ()) -> None:
        """A new report of this host, with these domains that no object's report shows."""
        version = str(int(self.hosts[name].resource_version) + 1 if name in self.hosts else 1)
        self.hosts[name] = replace(host(name, *domains, entries=entries), resource_version=version)

    def look(self, *, after_s: float = LOOK_S, listed_ago_s: float = 0.0) -> None:
        self.now_s += after_s
        with suppress(Transient):  # the next look continues
            self.elsewhere.look(list(self.hosts.values()), T0, self.now_s - listed_ago_s)

    def entries(self, name: str) -> set[tuple[UUID, str]]:
        return {(entry.uuid, entry.node_name) for entry in self.hosts[name].status.runs_elsewhere}

    # --- what FleetRequests offers

    def virtual_machines_of(self, uuid: UUID) -> Collection[VirtualMachine]:
        self._answer(str(uuid))
        return [one for one in self.vms.values() if one.status.domain and one.status.domain.uuid == uuid]

    def virtual_machine(self, key: VmKey) -> VirtualMachine | None:
        self._answer(key.name)
        return self.vms.get(key)

    def patch_hypervisor(self, of: Hypervisor, status: Json) -> None:
        self._answer(of.name)
        entries = tuple(RunsElsewhere(UUID(e["uuid"]), e["nodeName"], T0) for e in status["runsElsewhere"] or ())
        self.hosts[of.name] = replace(of, status=replace(of.status, runs_elsewhere=entries))

    def _answer(self, what: str) -> None:
        if self.fails(what):
            raise Transient("the API server answered 500")


def test_a_lookup_that_fails_again_and_again_delays_nothing_else() -> None:
    """db is read again in each look and cannot be; web has nothing to do with it."""
    fleet = Fleet(vm("a"), vm("a", uuid=DB, name="db"))
    fleet.report("a", [], [RunsElsewhere(DB, "b", T0)])
    fleet.report("b", [domain(DB)])
    fleet.look()
    fleet.fails = lambda what: what == "db"
    fleet.report("b", [domain(DB), domain(WEB)])
    for _ in range(3):
        fleet.look()
    assert fleet.entries("a") == {(DB, "b"), (WEB, "b")}


def test_one_request_of_five_that_fails_does_not_delay_a_new_entry_for_long() -> None:
    fleet = Fleet(vm("a"), *(vm("a", uuid=uuid, name=f"vm-{uuid.int}") for uuid in MANY))
    fleet.report("a", [], [RunsElsewhere(uuid, "b", T0) for uuid in MANY])
    fleet.report("b", map(domain, MANY))
    for _ in range(10):
        fleet.look()
    requests = iter(range(100_000))
    fleet.fails = lambda _what: next(requests) % 5 == 0
    fleet.report("b", [domain(WEB), *map(domain, MANY)])
    for _ in range(6):
        fleet.look()
    assert (WEB, "b") in fleet.entries("a")


def test_a_list_that_cannot_be_written_delays_no_other_list() -> None:
    fleet = Fleet(vm("a"), vm("c", uuid=DB, name="db"))
    for name in "abc":
        fleet.report(name, [])
    fleet.look()
    fleet.fails = lambda what: what == "a"
    fleet.report("b", [domain(WEB), domain(DB)])
    fleet.look()
    assert fleet.entries("c") == {(DB, "b")}
    fleet.fails = lambda _what: False
    fleet.look()
    assert fleet.entries("a") == {(WEB, "b")}


def test_an_entry_is_not_released_by_a_list_of_hosts_from_before_the_domain_was_seen_again() -> None:
    """A sweep that failed after a minute came between the list and the look: b's report of "off" is 5 s old in it."""
    fleet = Fleet(vm("a"))
    fleet.report("a", [], [RunsElsewhere(WEB, "b", T0)])
    fleet.report("b", [domain()])
    fleet.look()
    fleet.report("b", [domain(power=PowerState.STOPPED)])
    fleet.look()
    fleet.look(after_s=60 + LOOK_S, listed_ago_s=60)
    assert fleet.entries("a") == {(WEB, "b")}
    for _ in range(int(RELEASE_AFTER_S / LOOK_S) + 1):
        fleet.look()
    assert not fleet.entries("a")


def test_an_object_that_is_being_deleted_does_not_show_that_its_domain_runs() -> None:
    """Its finalizer keeps it, and no agent reports on it any more: b's agent reports the domain, which is off."""
    deleted = replace(vm("b", PowerState.RUNNING, name="other"), deleting=True)
    fleet = Fleet(vm("a"), deleted)
    fleet.report("a", [], [RunsElsewhere(WEB, "b", T0)])
    fleet.report("b", [domain(power=PowerState.STOPPED)])
    for _ in range(int(RELEASE_AFTER_S / LOOK_S) + 2):
        fleet.look()
    assert not fleet.entries("a")


def test_a_domain_that_no_host_mentions_any_more_is_forgotten() -> None:
    """Otherwise a host that runs a new domain every minute would fill the memory if no sweep succeeds."""
    fleet = Fleet()
    for number in range(100):
        fleet.report("b", [domain(UUID(int=1000 + number))])
        fleet.look()
    assert len(fleet.elsewhere._vms) <= 1

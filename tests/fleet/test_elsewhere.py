"""Which VMs run on another host: the entries of `status.runsElsewhere`, their holders, and when they go."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.hypervisor import LISTED_LIMIT, Hypervisor, HypervisorStatus, RunsElsewhere
from controller.api.virtualmachine import PowerState, VirtualMachine
from controller.fleet.elsewhere import Sighting, Vms, ended, noted, running, runs_at_home, wanted
from tests.fleet.hosts import DB, T0, WEB, domain, host, vm

LATER = T0 + timedelta(hours=1)
ON_B = RunsElsewhere(WEB, "b", T0)


def lists(
    hosts: Sequence[Hypervisor],
    vms: Iterable[VirtualMachine],
    *,
    released: Iterable[Sighting] = (),
    uuid: UUID = WEB,
    now: datetime = T0,
) -> dict[str, tuple[RunsElsewhere, ...]]:
    """The lists of these hosts that are not empty, after a lookup of one UUID."""
    found = wanted(hosts, {uuid: list(vms)}, set(released), now)
    assert set(found) == {host.name for host in hosts}
    return {name: entries for name, entries in found.items() if entries}


# --- what is added ------------------------------------------------------------------------------------------------


def test_a_vm_whose_domain_runs_without_an_object_on_another_host_is_listed_where_it_is_bound() -> None:
    assert lists([host("a"), host("b", domain())], [vm("a")]) == {"a": (ON_B,)}


@pytest.mark.parametrize(
    ("power", "reason", "runs"),
    [
        (PowerState.RUNNING, "MIGRATED", True),
        (PowerState.PAUSED, "USER", True),
        (PowerState.PAUSED, "MIGRATION", None),
        (PowerState.PAUSED, "POSTCOPY", None),
        (PowerState.STARTING, "STARTING_UP", None),
        (PowerState.SHUTTING_DOWN, "USER", True),
        (PowerState.SUSPENDED, "UNKNOWN", True),
        (PowerState.CRASHED, "PANICKED", True),
        (PowerState.CRASHED, "CRASHED", False),
        (PowerState.STOPPED, "SHUTDOWN", False),
        (PowerState.SAVED, "SAVED", False),
        (PowerState.ABSENT, "", False),
        (PowerState.UNKNOWN, "", None),
    ],
)
def test_a_domain_that_runs_adds_an_entry_and_one_that_is_off_ends_it(
    power: PowerState, reason: str, *, runs: bool | None
) -> None:
    """A domain that waits for a migration that can still fail does neither."""
    there = host("b", domain(power=power, reason=reason))
    assert bool(lists([host("a"), there], [vm("a")])) is bool(runs)
    assert bool(ended([host("a", entries=[ON_B]), there], {WEB: [vm("a")]})) is (runs is False)
    assert running(there) == ({WEB} if runs else set())


def test_a_host_that_is_not_ready_adds_no_entry() -> None:
    assert lists([host("a"), host("b", domain(), ready=False)], [vm("a")]) == {}


@pytest.mark.parametrize("ready", [True, False])
def test_the_running_domains_of_a_report_are_those_that_have_a_qemu(*, ready: bool) -> None:
    assert running(host("b", domain(), domain(DB, PowerState.STOPPED), ready=ready)) == {WEB}
    assert running(replace(host("b"), status=HypervisorStatus())) == frozenset()


def test_the_list_of_a_silent_host_is_kept_up_to_date() -> None:
    assert lists([host("a", ready=False), host("b", domain())], [vm("a")]) == {"a": (ON_B,)}


def test_a_uuid_that_another_object_manages_there_counts_the_same() -> None:
    other = vm("b", PowerState.RUNNING, name="other")
    assert lists([host("a"), host("b")], [vm("a"), other]) == {"a": (ON_B,)}


@pytest.mark.parametrize(
    "other",
    [
        vm("b", PowerState.STOPPED, name="off"),
        vm("b", PowerState.RUNNING, name="reported-by-a-former-node", reporter="c"),
        vm("b", PowerState.UNKNOWN, name="never-reported", reporter=""),
    ],
    ids=lambda other: other.key.name,
)
def test_an_object_that_does_not_show_the_domain_running_there_adds_no_entry(other: VirtualMachine) -> None:
    assert lists([host("a"), host("b")], [vm("a"), other]) == {}


def test_two_objects_that_both_run_are_listed_on_both_hosts() -> None:
    both = [vm("a", PowerState.RUNNING), vm("b", PowerState.RUNNING, name="other")]
    assert lists([host("a"), host("b")], both) == {"a": (ON_B,), "b": (RunsElsewhere(WEB, "a", T0),)}


def test_a_domain_that_runs_on_two_other_hosts_is_listed_twice() -> None:
    found = lists([host("a"), host("b", domain()), host("c", domain())], [vm("a")])
    assert found == {"a": (ON_B, RunsElsewhere(WEB, "c", T0))}


@pytest.mark.parametrize("found", [[], [vm("b")], [vm("", reporter="a")], [vm("gone")]])
def test_a_vm_that_is_not_bound_to_another_known_host_is_not_listed(found: list[VirtualMachine]) -> None:
    assert lists([host("a"), host("b", domain())], found) == {}


def test_a_uuid_that_was_not_looked_up_changes_nothing() -> None:
    noted_on_a = host("a", entries=[ON_B])
    assert wanted([noted_on_a, host("b", domain(DB))], {}, set(), LATER) == {"a": (ON_B,), "b": ()}


@pytest.mark.parametrize(
    ("bound", "at_home"),
    [
        (vm("a", PowerState.RUNNING), True),
        (vm("a", PowerState.PAUSED), True),
        (vm("a", PowerState.STOPPED), False),
        (vm("a", PowerState.UNKNOWN), False),
        (vm("a", PowerState.RUNNING, reporter="b"), False),
        (vm("a", PowerState.STOPPED, reporter="b"), False),
    ],
)
def test_a_vm_runs_at_home_if_the_agent_of_its_own_host_says_so(bound: VirtualMachine, *, at_home: bool) -> None:
    assert runs_at_home(bound) is at_home


# --- what stays ---------------------------------------------------------------------------------------------------


def test_an_entry_keeps_its_time() -> None:
    hosts = [host("a", entries=[ON_B]), host("b", domain())]
    assert lists(hosts, [vm("a")], now=LATER) == {"a": (ON_B,)}


SILENCES = {
    "not-ready": [host("b", ready=False)],
    "no-hypervisor": [],
    "no-report": [replace(host("b"), status=replace(host("b").status, unmanaged=None))],
    "names-left-out": [host("b", truncated=True, running=1)],
    "names-left-out-and-one-is-unknown": [host("b", domain(DB, PowerState.UNKNOWN), truncated=True, running=1)],
    "unknown-state": [host("b", domain(power=PowerState.UNKNOWN))],
}


@pytest.mark.parametrize("others", SILENCES.values(), ids=SILENCES)
def test_silence_is_no_release(others: list[Hypervisor]) -> None:
    hosts = [host("a", entries=[ON_B]), *others]
    assert ended(hosts, {WEB: [vm("a")]}) == set()
    assert lists(hosts, [vm("a")], now=LATER) == {"a": (ON_B,)}


def test_a_uuid_that_was_not_looked_up_is_not_released() -> None:
    """Another object might manage the domain by now."""
    assert ended([host("a", entries=[ON_B]), host("b")], {}) == set()


@pytest.mark.parametrize(
    "other",
    [
        vm("b", PowerState.UNKNOWN, name="not-reported-yet", reporter=""),
        vm("b", PowerState.UNKNOWN, name="not-known"),
        vm("b", PowerState.STOPPED, name="off-on-a-former-node", reporter="c"),
        replace(vm("b", PowerState.STOPPED, name="off-long-ago"), misunderstood="spec.new"),
    ],
    ids=lambda other: other.key.name,
)
def test_an_object_on_the_other_host_whose_agent_has_not_seen_it_off_keeps_the_entry(other: VirtualMachine) -> None:
    hosts = [host("a", entries=[ON_B]), host("b")]
    assert ended(hosts, {WEB: [vm("a"), other]}) == set()
    assert ended(hosts, {WEB: [vm("a"), other, vm("b", PowerState.STOPPED, name="off")]}) == set()


# --- what goes ----------------------------------------------------------------------------------------------------

ENDS = {
    "not-listed": host("b"),
    "off": host("b", domain(power=PowerState.STOPPED)),
    "killed": host("b", domain(power=PowerState.CRASHED, reason="CRASHED")),
    "more-domains-than-the-list-has": host("b", domain(DB), truncated=True),
    "at-the-limit": host("b", *(domain(UUID(int=100 + i), PowerState.STOPPED) for i in range(9)), truncated=True),
}


def test_an_entry_has_ended_when_every_object_there_was_seen_off() -> None:
    there = [vm("b", PowerState.STOPPED, name="one"), vm("b", PowerState.SAVED, name="two")]
    assert ended([host("a", entries=[ON_B]), host("b")], {WEB: [vm("a"), *there]}) == {(WEB, "b")}


@pytest.mark.parametrize("other", ENDS.values(), ids=ENDS)
def test_an_entry_has_ended_when_a_ready_host_does_not_show_the_domain_running(other: Hypervisor) -> None:
    hosts = [host("a", entries=[ON_B]), other]
    assert ended(hosts, {WEB: [vm("a")]}) == {(WEB, "b")}


def test_an_entry_that_has_ended_goes_only_when_it_is_released() -> None:
    hosts = [host("a", entries=[ON_B]), host("b")]
    assert lists(hosts, [vm("a")]) == {"a": (ON_B,)}
    assert lists(hosts, [vm("a")], released=[(WEB, "b")]) == {}


def test_a_released_entry_whose_domain_runs_again_is_a_new_entry() -> None:
    hosts = [host("a", entries=[ON_B]), host("b", domain())]
    found = lists(hosts, [vm("a")], released=[(WEB, "b")], now=LATER)
    assert found == {"a": (replace(ON_B, since=LATER),)}


@pytest.mark.parametrize("ready", [True, False])
def test_the_entry_goes_when_the_agent_of_the_host_to_which_the_vm_is_bound_reports_that_it_runs(
    *, ready: bool
) -> None:
    hosts = [host("a", entries=[ON_B]), host("b", ready=ready)]
    assert lists(hosts, [vm("b", PowerState.RUNNING)]) == {}


# --- who has it ---------------------------------------------------------------------------------------------------

NOT_TAKEN_OVER = {
    "reported-by-a": vm("b", PowerState.STOPPED, reporter="a"),
    "running-on-a-former-node": vm("b", PowerState.RUNNING, reporter="a"),
    "not-observed": vm("b", PowerState.UNKNOWN),
    "off-before-it-ran": vm("b", PowerState.STOPPED),
}


@pytest.mark.parametrize("found", NOT_TAKEN_OVER.values(), ids=NOT_TAKEN_OVER)
@pytest.mark.parametrize("ready", [True, False])
def test_an_entry_stays_until_the_agent_of_the_host_to_which_the_vm_is_bound_has_taken_it_over(
    found: VirtualMachine, *, ready: bool
) -> None:
    """That agent can be dead, also while its host is still Ready."""
    hosts = [host("a", entries=[ON_B]), host("b", domain(), ready=ready)]
    assert lists(hosts, [found], now=LATER) == {"a": (ON_B,)}


def test_a_vm_that_is_bound_to_a_dead_host_and_back_has_its_entry_all_the_time() -> None:
    """And with its time, so that the confirmation that was shown at first is still the one that releases it."""
    hosts = [host("a", entries=[ON_B]), host("b", domain(), ready=False)]
    for node in ("a", "b", "a"):
        found = wanted(hosts, {WEB: [vm(node, reporter="a")]}, set(), LATER)
        assert found == {"a": (ON_B,), "b": ()}
        hosts = written(hosts, found)


def test_an_entry_that_stayed_for_a_silent_host_can_end() -> None:
    vms = {WEB: [vm("b", PowerState.STOPPED)]}
    hosts = [host("a", entries=[ON_B]), host("b")]
    assert ended(hosts, vms) == {(WEB, "b")}
    assert wanted(hosts, vms, {(WEB, "b")}, LATER) == {"a": (), "b": ()}


def test_an_entry_follows_the_vm_to_a_third_host_even_in_silence() -> None:
    """It is removed from the first host when it was read from the third one."""
    hosts = [host("a", entries=[ON_B]), host("b", ready=False), host("c")]
    vms = {WEB: [vm("c", reporter="a")]}
    added = wanted(hosts, vms, set(), LATER)
    assert added == {"a": (ON_B,), "b": (), "c": (ON_B,)}
    assert wanted(written(hosts, added), vms, set(), LATER) == {"a": (), "b": (), "c": (ON_B,)}


def test_an_entry_stays_if_the_vm_is_bound_to_a_host_that_has_no_list() -> None:
    hosts = [host("a", entries=[ON_B]), host("b", ready=False)]
    assert lists(hosts, [vm("gone", reporter="a")], now=LATER) == {"a": (ON_B,)}


@pytest.mark.parametrize("found", [[], [vm("", reporter="a")]], ids=["deleted", "unbound"])
def test_an_entry_stays_while_no_vm_of_its_uuid_is_bound(found: list[VirtualMachine]) -> None:
    """The object can be created again a second later, and with the same node."""
    hosts = [host("a", entries=[ON_B]), host("b", domain()), host("c")]
    assert lists(hosts, found, now=LATER) == {"a": (ON_B,)}


def test_of_two_times_of_one_entry_the_earliest_counts() -> None:
    hosts = [host("a", entries=[replace(ON_B, since=LATER)]), host("c", entries=[ON_B])]
    assert noted(hosts) == noted(hosts[::-1]) == {(WEB, "b"): T0}


def test_the_newest_of_too_many_entries_are_left_out() -> None:
    uuids = [UUID(int=1 + i) for i in range(LISTED_LIMIT + 2)]
    old = RunsElsewhere(uuids[-1], "b", T0)
    hosts = [host("a", entries=[old]), host("b", *map(domain, uuids))]
    vms = {uuid: [vm("a", uuid=uuid, name=f"vm-{uuid.int}")] for uuid in uuids}
    found = wanted(hosts, vms, set(), LATER)["a"]
    assert len(found) == LISTED_LIMIT
    assert found[0] == old
    assert {entry.uuid for entry in found[1:]} == set(uuids[: LISTED_LIMIT - 1])


# --- for every fleet ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
UUIDS = st.sampled_from([WEB, DB])
POWERS = st.sampled_from([PowerState.RUNNING, PowerState.STOPPED, PowerState.UNKNOWN])
ENTRIES = st.builds(RunsElsewhere, UUIDS, NAMES, st.sampled_from([T0, LATER]))


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Hypervisor], Vms, set[Sighting]]:
    """Up to three hosts, the VMs of the UUIDs that were looked up, and released entries."""
    hosts = [
        host(
            name,
            *(domain(uuid, draw(POWERS)) for uuid in draw(st.sets(UUIDS))),
            ready=draw(st.booleans()),
            truncated=draw(st.booleans()),
            running=draw(st.integers(0, 1)),
            entries={entry for entry in draw(st.sets(ENTRIES, max_size=3)) if entry.node_name != name},
        )
        for name in sorted(draw(st.sets(NAMES)))
    ]
    vms = {
        uuid: [
            vm(node, draw(POWERS), uuid=uuid, name=f"{uuid.int}-{i}", reporter=draw(NAMES))
            for i, node in enumerate(draw(st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=2)))
        ]
        for uuid in draw(st.sets(UUIDS))
    }
    return hosts, vms, draw(st.sets(st.sampled_from(sorted(ended(hosts, vms)) or [(WEB, "nowhere")])))


def written(hosts: Iterable[Hypervisor], found: dict[str, tuple[RunsElsewhere, ...]]) -> list[Hypervisor]:
    """The hosts with these lists."""
    return [replace(h, status=replace(h.status, runs_elsewhere=found[h.name])) for h in hosts]


@given(fleets())
def test_no_entry_names_the_host_that_has_it(fleet: tuple[list[Hypervisor], Vms, set[Sighting]]) -> None:
    """So a VM is never listed where it is bound and runs."""
    hosts, vms, released = fleet
    for name, entries in wanted(hosts, vms, released, LATER).items():
        assert all(entry.node_name != name for entry in entries)


@given(fleets())
def test_a_third_computation_changes_nothing(fleet: tuple[list[Hypervisor], Vms, set[Sighting]]) -> None:
    hosts, vms, released = fleet
    once = written(hosts, wanted(hosts, vms, released, T0))
    twice = wanted(once, vms, released - set(noted(once)), LATER)
    assert wanted(written(hosts, twice), vms, released - set(noted(once)), LATER) == twice


@given(fleets(), st.sets(NAMES))
def test_an_entry_is_lost_only_by_a_report_whichever_lists_are_written(
    fleet: tuple[list[Hypervisor], Vms, set[Sighting]], failing: set[str]
) -> None:
    """The domain is off, or the VM is bound to the host that runs the domain, whose agent has reported that it runs."""
    hosts, vms, released = fleet
    found = wanted(hosts, vms, released, LATER)
    after = [h if h.name in failing else w for h, w in zip(hosts, written(hosts, found), strict=True)]
    for uuid, name in noted(hosts).keys() - released - noted(after).keys():
        bound = [one for one in vms.get(uuid, ()) if one.node_name]
        assert any(one.node_name == name and runs_at_home(one) for one in bound)
        # Each other object of the UUID is bound to a host that had the entry, and such a host keeps it.
        assert {one.node_name for one in bound} == {name}


@given(fleets(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_and_vms_does_not_matter(
    fleet: tuple[list[Hypervisor], Vms, set[Sighting]], random: Random
) -> None:
    hosts, vms, released = fleet
    shuffled = random.sample(hosts, len(hosts))
    turned = {uuid: list(vms[uuid])[::-1] for uuid in sorted(vms, key=lambda uuid: -uuid.int)}
    assert wanted(shuffled, turned, released, LATER) == wanted(hosts, vms, released, LATER)
    assert ended(shuffled, turned) == ended(hosts, vms)


@given(fleets())
def test_every_bound_vm_is_listed_while_its_domain_is_known_to_run_elsewhere(
    fleet: tuple[list[Hypervisor], Vms, set[Sighting]],
) -> None:
    hosts, vms, released = fleet
    found = wanted(hosts, vms, released, LATER)
    for uuid, of_uuid in vms.items():
        for bound in of_uuid:
            elsewhere = {h.name for h in hosts if h.status.ready and uuid in running(h)} - {bound.node_name}
            listed = {entry.node_name for entry in found.get(bound.node_name, ()) if entry.uuid == uuid}
            assert bound.node_name not in found or elsewhere <= listed

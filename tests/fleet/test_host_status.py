"""What an agent says of its host, and which differences cannot wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from controller.api.hypervisor import (
    Capacity,
    DomainCounts,
    HypervisorReason,
    HypervisorStatus,
    Maintenance,
    MaintenanceMode,
    RunsElsewhere,
    Unmanaged,
    UnmanagedDomain,
    VmCounts,
)
from controller.api.names import HypervisorConditionType
from controller.api.values import replace
from controller.api.virtualmachine import Condition, PowerState
from controller.fleet.host_status import Host, events_of_change, is_urgent, reported
from controller.fleet.inventory import Inventory

NOW = datetime(2026, 11, 26, 8, 20, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
HOLD = Maintenance(MaintenanceMode.HOLD, "new RAM")
SHUTDOWN = Maintenance(MaintenanceMode.SHUTDOWN, "new RAM")
HOST = Host(
    generation=3,
    maintenance=None,
    understood=True,
    blocked="",
    observe_only=False,
    unreachable="",
    boot_id="boot-1",
    agent_version="0.1.0",
    lease_namespace="virtsync",
    libvirt_version="9.0.0",
    qemu_version="7.2.0",
    capacity=Capacity(8, 64000),
    inventory=Inventory(DomainCounts(3, 1), DomainCounts(2, 1), Unmanaged(1, 0)),
    vms=VmCounts(2, 1, 0),
    running=(),
    running_is_current=True,
    acting=False,
)


def condition(status: HypervisorStatus, kind: str) -> Condition:
    found = status.condition(kind)
    assert found
    return found


def ready(host: Host) -> tuple[str, str, str]:
    found = condition(reported(HypervisorStatus(), host, NOW), HypervisorConditionType.READY)
    return found.status, found.reason, found.message


def quiesced(host: Host) -> tuple[str, str, str]:
    found = condition(reported(HypervisorStatus(), host, NOW), HypervisorConditionType.QUIESCED)
    return found.status, found.reason, found.message


def test_a_report_has_what_the_agent_knows() -> None:
    status = reported(HypervisorStatus(), HOST, NOW)
    assert (status.observed_generation, status.node_boot_id, status.lease_namespace) == (3, "boot-1", "virtsync")
    assert (status.agent_version, status.libvirt_version, status.qemu_version) == ("0.1.0", "9.0.0", "7.2.0")
    assert (status.capacity, status.domains, status.unmanaged) == (
        Capacity(8, 64000),
        DomainCounts(3, 1),
        Unmanaged(1, 0),
    )
    assert status.virtual_machines == VmCounts(2, 1, 0)
    assert status.maintenance is None
    assert [one.type for one in status.conditions] == [HypervisorConditionType.READY]


def test_what_is_not_known_stays_as_it_was_reported() -> None:
    old = reported(HypervisorStatus(), HOST, NOW)
    nothing = replace(HOST, libvirt_version=None, qemu_version=None, capacity=None, inventory=None)
    assert reported(old, nothing, LATER) == old


def test_the_list_of_the_manager_stays_as_it_is() -> None:
    old = HypervisorStatus(runs_elsewhere=(RunsElsewhere(UUID(int=1), "node-b", NOW),))
    assert reported(old, HOST, NOW).runs_elsewhere == old.runs_elsewhere


ACTIVE = ("True", "Active", "The agent observes the domains of this host, and switches its VMs.")
OBSERVES = (
    "True",
    "ObserveOnly",
    "The agent observes the domains of this host, and takes no action (--observe-only).",
)
BLOCKED = ("False", "ActionBlocked", "No.")
AWAY = ("Unknown", "LibvirtUnreachable", "libvirt does not answer, and what is shown was observed last: it is away.")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (HOST, ACTIVE),
        (replace(HOST, observe_only=True), OBSERVES),
        (replace(HOST, blocked="No."), BLOCKED),
        (replace(HOST, observe_only=True, blocked="No."), OBSERVES),
        (replace(HOST, unreachable="it is away"), AWAY),
        (replace(HOST, unreachable="it is away", observe_only=True), AWAY),
        (replace(HOST, unreachable="it is away", blocked="No."), AWAY),
    ],
)
def test_ready_says_whether_the_agent_observes_and_acts(host: Host, told: tuple[str, str, str]) -> None:
    assert ready(host) == told


HELD = ("True", "Quiet", "virtsync takes no action on this host.")
EMPTY = ("True", "Quiet", "No domain of this host runs.")
ACTING = ("False", "ActionsUnderWay", "An action of virtsync has not ended yet.")
RUNNING = ("False", "DomainsRunning", "1 domain still runs: a.")
UNLISTED = ("Unknown", "Pending", "The domains of this host have not been listed since the last action.")
UNSEEN = ("Unknown", "LibvirtUnreachable", "libvirt does not answer, so it is not known whether the host is quiet.")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (replace(HOST, maintenance=HOLD), HELD),
        (replace(HOST, maintenance=HOLD, running=("a",)), HELD),
        (replace(HOST, maintenance=HOLD, running_is_current=False), HELD),
        (replace(HOST, maintenance=HOLD, acting=True), ACTING),
        (replace(HOST, maintenance=HOLD, unreachable="away"), UNSEEN),
        (replace(HOST, maintenance=SHUTDOWN), EMPTY),
        (replace(HOST, maintenance=SHUTDOWN, running=("a",)), RUNNING),
        (replace(HOST, maintenance=SHUTDOWN, running=("a",), running_is_current=False), RUNNING),
        (replace(HOST, maintenance=SHUTDOWN, running=("a",), acting=True), RUNNING),
        (replace(HOST, maintenance=SHUTDOWN, acting=True), ACTING),
        (replace(HOST, maintenance=SHUTDOWN, running_is_current=False), UNLISTED),
        (replace(HOST, maintenance=SHUTDOWN, unreachable="away"), UNSEEN),
    ],
)
def test_quiesced_says_whether_the_host_may_be_serviced(host: Host, told: tuple[str, str, str]) -> None:
    assert quiesced(host) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "1 domain still runs: vm-00."),
        (2, "2 domains still run: vm-00, vm-01."),
        (10, f"10 domains still run: {', '.join(f'vm-{n:02}' for n in range(10))}."),
        (11, f"11 domains still run: {', '.join(f'vm-{n:02}' for n in range(10))} and 1 more."),
        (13, f"13 domains still run: {', '.join(f'vm-{n:02}' for n in range(10))} and 3 more."),
    ],
)
def test_up_to_ten_domains_that_still_run_are_named(count: int, told: str) -> None:
    host = replace(HOST, maintenance=SHUTDOWN, running=tuple(f"vm-{n:02}" for n in reversed(range(count))))
    status = reported(HypervisorStatus(), host, NOW)
    assert condition(status, HypervisorConditionType.QUIESCED).message == told
    assert status.maintenance
    assert status.maintenance.remaining == count


def test_a_maintenance_began_when_it_was_first_acknowledged() -> None:
    first = reported(HypervisorStatus(), replace(HOST, maintenance=HOLD), NOW)
    second = reported(first, replace(HOST, maintenance=SHUTDOWN, boot_id="boot-2", running=("a",)), LATER)
    assert second.maintenance
    assert (second.maintenance.start_time, second.maintenance.remaining) == (NOW, 1)
    assert condition(first, HypervisorConditionType.QUIESCED).last_transition_time == NOW
    assert condition(second, HypervisorConditionType.QUIESCED).last_transition_time == LATER
    over = reported(second, HOST, LATER)
    assert over.maintenance is None
    assert over.condition(HypervisorConditionType.QUIESCED) is None


def test_a_condition_has_the_time_when_its_status_changed() -> None:
    first = reported(HypervisorStatus(), HOST, NOW)
    same = reported(first, replace(HOST, observe_only=True, generation=4), LATER)
    assert condition(same, HypervisorConditionType.READY).last_transition_time == NOW
    assert condition(same, HypervisorConditionType.READY).observed_generation == 4
    changed = reported(same, replace(HOST, blocked="No."), LATER)
    assert condition(changed, HypervisorConditionType.READY).last_transition_time == LATER


# --- what cannot wait


def unmanaged(number: int, *, on: bool) -> UnmanagedDomain:
    state = PowerState.RUNNING if on else PowerState.STOPPED
    return UnmanagedDomain(UUID(int=number), f"vm-{number}", state, "", transient=False)


def listing(*domains: UnmanagedDomain) -> Inventory:
    on = sum(one in {ON_1, ON_2, KEPT_1} for one in domains)
    return Inventory(DomainCounts(9, 9), DomainCounts(0, 0), Unmanaged(len(domains), on, domains=domains))


OFF_1, ON_1, OFF_2, ON_2 = (unmanaged(number, on=on) for number in (1, 2) for on in (False, True))
KEPT_1 = replace(ON_1, power_state=PowerState.CRASHED, reason="PANICKED")
DIED_1 = replace(OFF_1, power_state=PowerState.CRASHED, reason="CRASHED")


@pytest.mark.parametrize(
    ("before", "after", "urgent"),
    [
        (HOST, HOST, False),
        (HOST, replace(HOST, vms=VmCounts(5, 5, 5)), False),
        (HOST, replace(HOST, libvirt_version="10.0.0", capacity=Capacity(1, 1)), False),
        (HOST, replace(HOST, blocked="No."), True),
        (HOST, replace(HOST, boot_id="boot-2"), True),
        (HOST, replace(HOST, generation=4), True),
        (HOST, replace(HOST, maintenance=HOLD), True),
        (replace(HOST, maintenance=HOLD), replace(HOST, maintenance=HOLD, running=("a",)), True),
        (replace(HOST, inventory=listing()), replace(HOST, inventory=listing(OFF_1)), True),
        (replace(HOST, inventory=listing(OFF_1)), replace(HOST, inventory=listing(ON_1)), True),
        (replace(HOST, inventory=listing(ON_1)), replace(HOST, inventory=listing(OFF_1)), False),
        (replace(HOST, inventory=listing(KEPT_1)), replace(HOST, inventory=listing(ON_1)), False),
        (replace(HOST, inventory=listing(DIED_1)), replace(HOST, inventory=listing(ON_1)), True),
        (replace(HOST, inventory=listing(ON_1, OFF_2)), replace(HOST, inventory=listing(ON_1)), False),
        (replace(HOST, inventory=listing(ON_1)), replace(HOST, inventory=listing(ON_2)), True),
        (replace(HOST, inventory=listing(ON_1, OFF_2)), replace(HOST, inventory=listing(ON_2, OFF_1)), True),
    ],
)
def test_some_differences_are_waited_for(before: Host, after: Host, urgent: bool) -> None:  # noqa: FBT001 - a column
    old = reported(HypervisorStatus(), before, NOW)
    assert is_urgent(old, reported(old, after, LATER)) is urgent


def test_without_names_the_numbers_show_that_a_domain_appears() -> None:
    def counted(total: int, running: int) -> HypervisorStatus:
        return HypervisorStatus(unmanaged=Unmanaged(total, running, truncated=True))

    assert is_urgent(counted(1, 0), counted(2, 0))
    assert is_urgent(counted(1, 0), counted(1, 1))
    assert not is_urgent(counted(2, 1), counted(1, 0))


@pytest.mark.parametrize(
    ("old", "new", "urgent"),
    [
        (None, None, False),
        (None, Unmanaged(0, 0), False),
        (Unmanaged(0, 0), None, False),
        (None, Unmanaged(1, 0), True),
        (None, Unmanaged(1, 1), True),
        (Unmanaged(1, 1), None, False),
    ],
)
def test_domains_that_were_never_listed_count_as_none(
    old: Unmanaged | None, new: Unmanaged | None, *, urgent: bool
) -> None:
    assert is_urgent(HypervisorStatus(unmanaged=old), HypervisorStatus(unmanaged=new)) is urgent


def test_the_order_of_conditions_is_no_difference() -> None:
    status = reported(HypervisorStatus(), replace(HOST, maintenance=HOLD), NOW)
    assert not is_urgent(status, replace(status, conditions=status.conditions[::-1]))


# --- Events


def test_each_step_of_a_maintenance_is_one_event() -> None:
    steps = [
        (HOST, []),
        (replace(HOST, maintenance=SHUTDOWN, running=("a",)), ["MaintenanceBegun"]),
        (replace(HOST, maintenance=SHUTDOWN, running=("a",), boot_id="boot-2"), []),
        (replace(HOST, maintenance=SHUTDOWN), ["Quiesced"]),
        (replace(HOST, maintenance=SHUTDOWN, boot_id="boot-3"), []),
        (HOST, ["MaintenanceEnded"]),
        (replace(HOST, maintenance=HOLD), ["MaintenanceBegun", "Quiesced"]),
    ]
    status = HypervisorStatus()
    for host, told in steps:
        old, status = status, reported(status, host, NOW)
        assert [reason for reason, _ in events_of_change(old, status, host.maintenance)] == told


def test_a_maintenance_that_is_not_understood_any_more_has_not_ended() -> None:
    """Somebody has given it a mode of a newer version. The agent acknowledges nothing and does not act."""
    old = reported(HypervisorStatus(), replace(HOST, maintenance=HOLD), NOW)
    blocked = "This version of virtsync does not understand spec.maintenance."
    host = replace(HOST, generation=4, understood=False, blocked=blocked)
    new = reported(old, host, LATER)
    assert events_of_change(old, new, host.maintenance) == []
    assert (new.maintenance, new.observed_generation) == (old.maintenance, old.observed_generation)
    assert condition(new, HypervisorConditionType.QUIESCED) == condition(old, HypervisorConditionType.QUIESCED)
    assert condition(new, HypervisorConditionType.READY).reason == "ActionBlocked"
    assert reported(HypervisorStatus(), host, NOW).maintenance is None


def marked_in_maintenance() -> HypervisorStatus:
    """The last report of an agent in maintenance, with Quiesced as a manager marks it."""
    quiet = reported(HypervisorStatus(), replace(HOST, maintenance=HOLD), NOW)
    quiesced = replace(
        condition(quiet, HypervisorConditionType.QUIESCED), status="Unknown", reason=HypervisorReason.AGENT_UNREACHABLE
    )
    return replace(quiet, conditions=(condition(quiet, HypervisorConditionType.READY), quiesced))


def test_who_does_not_understand_a_maintenance_takes_the_mark_of_the_manager_away() -> None:
    """The mark says that nobody hears the agent, and that is over."""
    marked = marked_in_maintenance()
    new = reported(marked, replace(HOST, generation=4, understood=False), LATER)
    told = condition(new, HypervisorConditionType.QUIESCED)
    assert (told.status, told.reason) == ("Unknown", "Pending")
    assert told.last_transition_time == condition(marked, HypervisorConditionType.QUIESCED).last_transition_time
    assert "does not understand" in told.message


def test_the_return_of_an_agent_tells_again_that_its_host_is_quiet() -> None:
    marked = marked_in_maintenance()
    back = reported(marked, replace(HOST, maintenance=HOLD), LATER)
    told = condition(back, HypervisorConditionType.QUIESCED)
    assert (told.status, told.reason, told.last_transition_time) == ("True", "Quiet", LATER)
    assert [reason for reason, _ in events_of_change(marked, back, HOLD)] == ["Quiesced"]


@pytest.mark.parametrize("reason", ["new RAM", "a disk for the RAID X", "...as announced"])
@pytest.mark.parametrize("end", ["", ".", "..."])
def test_the_event_of_a_maintenance_is_one_sentence_with_its_reason(reason: str, end: str) -> None:
    maintenance = Maintenance(MaintenanceMode.HOLD, reason + end)
    status = reported(HypervisorStatus(), replace(HOST, maintenance=maintenance), NOW)
    (_, note), *_ = events_of_change(HypervisorStatus(), status, maintenance)
    assert note == f"The maintenance (Hold) has begun: {reason}."


def test_the_event_of_the_end_of_a_maintenance_says_what_follows() -> None:
    status = reported(HypervisorStatus(), replace(HOST, maintenance=HOLD), NOW)
    ((_, note),) = events_of_change(status, reported(status, HOST, LATER), None)
    assert note == "The maintenance has ended. After the settle time, the VMs become as their spec asks."


def test_every_reason_of_a_condition_is_documented_in_the_enum() -> None:
    status = reported(HypervisorStatus(), replace(HOST, maintenance=SHUTDOWN), NOW)
    assert {one.reason for one in status.conditions} <= set(HypervisorReason)

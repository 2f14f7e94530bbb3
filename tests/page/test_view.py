"""What one page shows of a fleet."""

from dataclasses import replace

import pytest

from controller.api.conditions import Readiness
from controller.api.virtualmachine import Hold, LastStop, PowerState, StopCause
from controller.page.query import Query, Sort
from controller.page.rows import vm_row
from controller.page.view import HOSTS_PER_PAGE, VMS_PER_PAGE, View, view
from tests.page.rows import SERVED, before, fleet, host, machine, vm


def seen(*rows: object, **query: object) -> View:
    return view(fleet(*rows), Query(**query), SERVED)  # type: ignore[arg-type]


def names(shown: View) -> list[str]:
    return [row.name for row in shown.vms.rows]


TROUBLED = (
    vm("InSync", "fine"),
    vm("Settling", "settling", power_state=PowerState.STOPPED),
    vm("Held", "held", holds=(Hold("ann", "backup"),)),
    vm("DomainNotFound", "lost", node="node-b"),
    vm("AgentUnreachable", "silent", namespace="lab"),
    vm("InSync", "changed", generation=4),
)


def test_those_that_need_a_person_come_first() -> None:
    assert names(seen(*TROUBLED)) == ["lost", "silent", "settling", "held", "changed", "fine"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"node": "node-b"}, ["lost"]),
        ({"namespace": "lab"}, ["silent"]),
        ({"reason": "Held"}, ["held"]),
        ({"drift": True}, ["lost", "silent", "settling", "held", "changed"]),
        ({"text": "LAB/SIL"}, ["silent"]),
        ({"text": "stopped"}, ["settling"]),
        ({"reason": "Held", "node": "node-b"}, []),
        ({"sort": Sort.NAME}, ["changed", "fine", "held", "lost", "settling", "silent"]),
        ({"sort": Sort.NODE}, ["silent", "changed", "fine", "held", "settling", "lost"]),
    ],
)
def test_a_filter_leaves_others_out_and_an_order_sorts(query: dict[str, object], expected: list[str]) -> None:
    assert names(seen(*TROUBLED, **query)) == expected


def test_the_newest_change_can_come_first() -> None:
    rows = [vm("InSync", "old", minutes=50), vm("Held", "new", minutes=1), vm("InSync", "middle", minutes=9)]
    never = replace(vm("Pending", "never"), since=None)
    assert names(seen(*rows, never, sort=Sort.NEWEST)) == ["new", "middle", "old", "never"]


def test_the_counts_are_about_all_vms_also_if_few_are_shown() -> None:
    shown = seen(
        *TROUBLED, host("node-a"), host("node-b", ready=False), host("node-c", maintenance="RAM"), reason="Held"
    )
    assert shown.counts == {
        None: 1,
        Readiness.STALLED: 1,
        Readiness.UNKNOWN: 1,
        Readiness.RECONCILING: 1,
        Readiness.HELD: 1,
        Readiness.READY: 1,
    }
    assert (shown.not_wanted, shown.hosts_active, shown.hosts_in_maintenance) == (5, 2, 1)
    assert shown.reasons == [
        ("DomainNotFound", 1),
        ("AgentUnreachable", 1),
        ("Settling", 1),
        ("Held", 1),
        ("InSync", 2),
    ]
    assert (shown.namespaces, shown.nodes) == (["lab", "shop"], ["node-a", "node-b", "node-c"])


def test_the_hosts_that_need_a_look_come_first() -> None:
    shown = seen(host("a"), host("b", maintenance="RAM"), host("c", ready=False))
    assert [row.name for row in shown.hosts.rows] == ["c", "b", "a"]


def test_a_page_that_is_not_there_is_the_last_one() -> None:
    many = [vm("InSync", f"vm-{number:03}") for number in range(VMS_PER_PAGE + 1)]
    hosts = [host(f"node-{number:02}") for number in range(HOSTS_PER_PAGE * 2)]
    first, last = seen(*many, *hosts), seen(*many, *hosts, page=9, hosts_page=2)
    assert (len(first.vms.rows), first.vms.first, first.vms.page, first.vms.pages) == (VMS_PER_PAGE, 1, 1, 2)
    assert (names(last), last.vms.first, last.vms.page) == ([f"vm-{VMS_PER_PAGE:03}"], VMS_PER_PAGE + 1, 2)
    assert (last.hosts.first, last.hosts.total) == (HOSTS_PER_PAGE + 1, HOSTS_PER_PAGE * 2)
    assert seen().vms.pages == 1


def test_a_row_has_what_the_commands_say_about_a_vm() -> None:
    stop = LastStop(StopCause.EXTERNAL, before(minutes=3), "Somebody\x1b[31m cut\nits power.")
    row = vm_row(
        machine(
            "Held",
            message="The VM is stopped; \x1b]0;x\x07ann holds it.",
            power_state=PowerState.STOPPED,
            last_stop=stop,
            restart_count=2,
            holds=(Hold("ann", "backup"), Hold("bob", "")),
        )
    )
    assert (row.power, row.desired, row.reason, row.as_wanted) == ("Stopped", "Running", "Held", False)
    assert row.message == "The VM is stopped; ann holds it."
    assert row.holds == "ann, bob"
    assert row.stop == replace(stop, message="Somebody cut its power.")
    assert row.since == before(minutes=12)


def test_a_vm_that_is_as_wanted_needs_no_message() -> None:
    assert vm("InSync").message == ""
    assert vm("InSync", generation=4).message == "The VM is as the spec asks."


def test_the_version_of_a_row_differs_if_the_row_does() -> None:
    assert vm("InSync").version == vm("InSync").version
    assert len({vm("InSync").version, vm("Held").version, vm("InSync", minutes=11).version}) == 3
    assert host("a").version != host("a", ready=False).version

"""What `top` shows and what its keys do, without a terminal."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import click
import pytest

from controller.api.hypervisor import Hypervisor, HypervisorStatus, Maintenance, MaintenanceMode
from controller.api.virtualmachine import Condition, PowerState, Reason, Status, VirtualMachine, VmKey
from controller.cli.vm import keys
from controller.cli.vm.views.top import Choice, Fleet, Frame, Sort, frame

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
UP, DOWN, PAGE_DOWN, HOME, END = "\x1b[A", "\x1b[B", "\x1b[6~", "\x1b[H", "\x1b[F"


def vm(name: str, reason: Reason = Reason.IN_SYNC, *, node: str = "node-a", ago_s: float = 60) -> VirtualMachine:
    since = NOW - timedelta(seconds=ago_s)
    good = reason in {Reason.IN_SYNC, Reason.OBSERVED}
    ready = Condition("Ready", "True" if good else "False", reason, f"Why {name}.", since, 1)
    status = Status(observed_generation=1, power_state=PowerState.RUNNING, conditions=(ready,))
    return VirtualMachine(VmKey("shop", name), "u", 1, "1", NOW, node, status=status)


def host(name: str, *, ready: bool = True, maintenance: bool = False) -> Hypervisor:
    reason = "Active" if ready else "AgentUnreachable"
    condition = Condition("Ready", "True" if ready else "Unknown", reason, f"{name} says so.", NOW, 1)
    declared = Maintenance(MaintenanceMode.HOLD, "new RAM") if maintenance else None
    return Hypervisor(name, "u", 1, "1", NOW, maintenance=declared, status=HypervisorStatus(conditions=(condition,)))


def shown(fleet: Fleet, choice: Choice | None = None, height: int = 24) -> tuple[Frame, list[str]]:
    """The frame, and its lines without colors."""
    found = frame(fleet, choice or Choice(), NOW, height)
    return found, [click.unstyle(line).rstrip() for line in found.lines]


def names(lines: list[str]) -> list[str]:
    """The names of the VMs on the screen, from top to bottom."""
    return [line.split()[1] for line in lines if line.startswith("shop ")]


def pressed(*given: str, choice: Choice | None = None, page: int = 10) -> Choice | None:
    found: Choice | None = choice or Choice()
    for key in given:
        assert found, f"ended before {key!r}"
        found = keys.obeyed(found, key, page)
    return found


MIXED = [
    vm("fine", ago_s=5),
    vm("held", Reason.HELD, node="node-c"),
    vm("lost", Reason.DOMAIN_NOT_FOUND, node="node-b", ago_s=1),
    vm("starting", Reason.STARTING),
]


def test_the_screen_has_a_summary_the_hosts_and_the_vms_that_need_a_person_first() -> None:
    _, lines = shown(Fleet(MIXED, [host("node-b"), host("node-a", ready=False)], where="namespace shop"), height=30)
    assert lines[0] == "virtsync   namespace shop   12:00:00 UTC"
    assert lines[1] == "VMs: 4   1 as wanted   1 waiting for a person   1 in progress   1 held"
    assert lines[2] == "Hosts: 2   1 active   1 not active"
    assert [line.split()[0] for line in lines[4:7]] == ["NAME", "node-a", "node-b"]
    assert names(lines) == ["lost", "starting", "held", "fine"]
    assert next(line for line in lines if "lost" in line).endswith("Why lost.")
    assert "Why" not in next(line for line in lines if " fine" in line)
    assert lines[-1].startswith("1-4 of 4   sort: trouble first   |   q quit")


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (Sort.TROUBLE, ["lost", "starting", "held", "fine"]),
        (Sort.NAME, ["fine", "held", "lost", "starting"]),
        (Sort.NODE, ["fine", "starting", "lost", "held"]),
        (Sort.NEWEST, ["lost", "fine", "held", "starting"]),
    ],
)
def test_the_vms_are_sorted_as_chosen(sort: Sort, order: list[str]) -> None:
    assert names(shown(Fleet(MIXED, []), Choice(sort))[1]) == order


def test_the_key_s_goes_through_all_orders() -> None:
    choice, seen = Choice(), []
    for _ in Sort:
        seen.append(choice.sort)
        choice = choice.next_sort()
    assert (seen, choice.sort) == (list(Sort), Sort.TROUBLE)


@pytest.mark.parametrize(
    ("text", "found"),
    [("LOST", ["lost"]), ("node-c", ["held"]), ("starting", ["starting"]), ("shop/f", ["fine"]), ("none", [])],
)
def test_a_filter_looks_at_names_nodes_and_reasons(text: str, found: list[str]) -> None:
    _, lines = shown(Fleet(MIXED, []), Choice(filter=text))
    assert names(lines) == found
    assert lines[-1].startswith(f"1-1 of 1   sort: trouble first, filter: {text}" if found else "no VM   ")


def test_only_drift_leaves_out_what_is_as_wanted_but_not_from_the_summary() -> None:
    _, lines = shown(Fleet(MIXED, []), Choice(only_drift=True))
    assert "fine" not in names(lines)
    assert lines[1].startswith("VMs: 4   1 as wanted")


@pytest.mark.parametrize("height", [1, 2, 3, 6, 10, 24, 50])
@pytest.mark.parametrize("count", [0, 1, 5000])
@pytest.mark.parametrize("hosts", [0, 1, 300])
def test_a_frame_has_exactly_the_lines_of_the_terminal(height: int, count: int, hosts: int) -> None:
    fleet = Fleet([vm(f"vm-{number:04}") for number in range(count)], [host(f"node-{one}") for one in range(hosts)])
    found, lines = shown(fleet, Choice(first=10**9), height)
    assert len(lines) == height
    assert found.choice.first == max(0, count - found.page)
    if count and height >= 10:
        assert names(lines)[-1] == f"vm-{count - 1:04}"


def test_cells_are_made_only_for_the_vms_on_the_screen() -> None:
    """`plain` is called for each VM that is shown: the screen must not slow down with the fleet."""
    vms = [vm(f"vm-{number:04}") for number in range(5000)]
    broken = replace(vms[-1], node_name=None)  # type: ignore[arg-type]  # no cell can be made of it
    assert names(shown(Fleet([*vms[:-1], broken], []))[1])[0] == "vm-0000"
    with pytest.raises(TypeError):
        shown(Fleet([*vms[:-1], broken], []), Choice(first=10**9))


def test_the_columns_keep_their_width_while_the_screen_scrolls() -> None:
    vms = [vm("short"), *(vm(f"vm-{number}") for number in range(50)), vm("z-a-name-that-is-very-long")]
    tops = {shown(Fleet(vms, []), Choice(first=first))[1][4] for first in (0, 10, 10**9)}
    assert len(tops) == 1


def test_hosts_that_are_not_fine_come_first_and_the_rest_is_counted() -> None:
    hosts = [host(f"node-{one}") for one in range(20)]
    hosts += [host("z-dead", ready=False), host("y-serviced", maintenance=True)]
    _, lines = shown(Fleet([], hosts), height=28)
    assert lines[2] == "Hosts: 22   21 active   1 not active   1 in maintenance"
    assert [line.split()[0] for line in lines[4:9]] == ["NAME", "z-dead", "y-serviced", "node-0", "and"]
    assert lines[8] == "and 19 more hosts: kubectl virtsync hosts"


def test_who_may_not_see_hosts_sees_vms() -> None:
    _, lines = shown(Fleet(MIXED, "not shown: you may not list Hypervisors"))
    assert lines[2] == "Hosts: not shown: you may not list Hypervisors"
    assert len(names(lines)) == 4


def test_a_copy_that_is_out_of_date_says_so_in_the_first_line() -> None:
    _, lines = shown(Fleet(MIXED, [], trouble="the API server does not\x1b[2J answer"))
    assert lines[0] == "OUT OF DATE: the API server does not answer"


def test_a_message_cannot_move_the_cursor() -> None:
    ready = Condition("Ready", "False", "Held", "a\x1b[2Jb\nc", NOW, 1)
    bad = replace(MIXED[1], status=replace(MIXED[1].status, conditions=(ready,)))
    assert any(line.endswith("ab c") for line in shown(Fleet([bad], []))[1])


# --- keys


def test_q_ends_but_not_while_a_filter_is_typed() -> None:
    assert pressed("q") is None
    assert pressed("/", "q", "\r") == Choice(filter="q")


def test_a_filter_is_typed_kept_and_removed() -> None:
    typed = pressed("/", "w", "e", "x", "\x7f", "b")
    assert typed == Choice(filter="web", typing=True)
    assert shown(Fleet(MIXED, []), typed)[1][-1] == "filter: web_   (enter: keep it, escape: remove it)"
    assert pressed("\r", choice=typed) == Choice(filter="web")
    assert pressed("\x1b", choice=typed) == Choice()
    assert pressed("\r", "\x1b", choice=typed) == Choice()
    assert pressed(DOWN, "\x1b[99~", choice=typed) == typed


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ([DOWN, DOWN, UP], 1),
        ([UP], 0),
        ([PAGE_DOWN, "j", "k", " "], 20),
        ([PAGE_DOWN, "b"], 0),
        ([PAGE_DOWN, HOME], 0),
        (["\x1bOB"], 1),
        (["x", "\x1b[99~", "\t"], 0),
    ],
)
def test_keys_scroll(given: list[str], first: int) -> None:
    choice = pressed(*given)
    assert choice
    assert choice.first == first


def test_the_end_is_as_far_as_there_are_vms() -> None:
    choice = pressed(END)
    assert choice
    assert frame(Fleet(MIXED, []), choice, NOW, 24).choice.first == 0
    assert pressed("d", "d") == Choice()

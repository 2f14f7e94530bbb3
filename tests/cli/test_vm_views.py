"""What `virtsync vm` shows to people, as pure functions from an object and the time to lines."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
import pytest

from controller.api.clock import api_time
from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import (
    Hypervisor,
    HypervisorStatus,
    Maintenance,
    MaintenanceMode,
    MaintenanceProgress,
    VmCounts,
)
from controller.api.json_mapping import EPOCH
from controller.api.virtualmachine import (
    Backoff,
    Condition,
    DesiredPowerState,
    DomainRecord,
    Hold,
    LastStop,
    Operation,
    OperationType,
    PowerState,
    Reason,
    Shutdown,
    ShutdownMode,
    Status,
    StopCause,
    VirtualMachine,
    VmKey,
)
from controller.cli.vm.views.drift import drift_lines
from controller.cli.vm.views.history import SAME_STOP, as_data, history_lines, timeline
from controller.cli.vm.views.hosts import host_lines
from controller.cli.vm.views.prospect import prospect
from controller.cli.vm.views.status import in_a_table, in_detail, summary
from controller.cli.vm.views.words import colored, table
from controller.presentation.vms import NOT_WANTED, is_as_wanted
from controller.presentation.words import at

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
UUID_1 = UUID("0f4c5e8a-0000-4000-8000-000000000001")


def before(**delta: int) -> datetime:
    return NOW - timedelta(**delta)


def after(**delta: int) -> datetime:
    return NOW + timedelta(**delta)


def machine(
    reason: str = "InSync", name: str = "web-1", *, message: str = "It is as the spec asks.", **status: Any
) -> VirtualMachine:
    """A VM whose agent has answered the newest spec with this reason, 12 minutes ago."""
    known = READINESS.get(Reason(reason)) if reason in set(Reason) else None
    ready = Condition("Ready", known.value[0] if known else "False", reason, message, before(minutes=12), 3)
    given: dict[str, Any] = {
        "observed_generation": 3,
        "node_name": "node-a",
        "power_state": PowerState.RUNNING,
        "conditions": (ready,),
        "decided_reason": reason,
        "decided_transition_time": before(minutes=12),
    }
    return VirtualMachine(
        key=VmKey("shop", name),
        uid="u1",
        generation=3,
        resource_version="7",
        created=before(days=3),
        node_name="node-a",
        desired=DesiredPowerState.RUNNING,
        status=Status(**given | status),
    )


def host(name: str = "node-a", *, reason: str = "Active", ready: str = "True", **fields: Any) -> Hypervisor:
    condition = Condition("Ready", ready, reason, "The agent was not heard.", before(hours=3, minutes=5), 1)
    status = HypervisorStatus(agent_version="0.1.0", conditions=(condition,), **fields.pop("status", {}))
    return Hypervisor(
        name=name, uid="h", generation=1, resource_version="1", created=before(days=3), status=status, **fields
    )


def plain(lines: list[str]) -> list[str]:
    return [click.unstyle(line) for line in lines]


# --- status


def test_a_vm_that_is_held_is_told_in_detail() -> None:
    vm = machine(
        "Held",
        message="The VM was stopped; ann holds it (backup).",
        power_state=PowerState.STOPPED,
        power_state_transition_time=before(minutes=12),
        libvirt_state="SHUTOFF",
        libvirt_reason="DESTROYED",
        domain=DomainRecord("web-1", UUID_1, "web-1"),
        last_stop=LastStop(StopCause.EXTERNAL, before(minutes=12), "Somebody cut its power."),
        restart_count=2,
    )
    vm = replace(vm, holds=(Hold("ann", "backup"),))
    assert plain(in_detail(vm, host(), NOW)) == [
        "shop/web-1",
        "  Power      Stopped (libvirt: SHUTOFF, DESTROYED) since 2026-11-27T11:48:00Z (12m ago)",
        "  Desired    Running (restartPolicy Always, shutdown GracefulThenForce in 180 s)",
        "  Reason     Held",
        "  For        12m (2026-11-27T11:48:00Z)",
        "  Message    The VM was stopped; ann holds it (backup).",
        (
            "  Next       Nothing, until the last hold is removed (kubectl annotate kvm -n shop web-1"
            " hold.virtsync.dev/ann-); then the settle time."
        ),
        "  Node       node-a, agent Active for 3h5m (2026-11-27T08:55:00Z), virtsync 0.1.0",
        "  Last stop  External, 12m ago (2026-11-27T11:48:00Z): Somebody cut its power.",
        "  Restarts   2",
        "  Holds      ann (backup)",
        f"  Domain     web-1 {UUID_1}",
        "  More       https://virtsync.dev/reasons/Held/",
    ]


def test_a_vm_that_nobody_has_observed_is_told_in_detail() -> None:
    vm = VirtualMachine(VmKey("shop", "new"), "u", 1, "1", NOW, node_name="")
    assert plain(in_detail(vm, "no agent", NOW)) == [
        "shop/new",
        "  Power      Unknown",
        "  Desired    only observed",
        "  Reason     Pending",
        "  For        -",
        "  Message    no agent has reported yet",
        "  Next       Nothing, until spec.nodeName names the node that has the VM.",
        "  Node       none: spec.nodeName is empty",
        "  Last stop  none observed",
        "  Restarts   0",
        "  Holds      none",
        "  Domain     new (not found yet)",
        "  More       https://virtsync.dev/reasons/Pending/",
    ]


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_is_told_in_detail_and_says_what_is_next(reason: Reason) -> None:
    lines = plain(in_detail(machine(str(reason)), host(), NOW))
    as_wanted = READINESS[reason] is Readiness.READY
    assert lines[12:] == ([] if as_wanted else [f"  More       https://virtsync.dev/reasons/{reason}/"])
    assert all(line.strip() and "\n" not in line for line in lines)
    assert lines[6].startswith("  Next       ")
    assert lines[6].endswith(".")


def test_a_reason_of_a_newer_version_has_no_page() -> None:
    assert len(in_detail(machine("Teleporting"), host(), NOW)) == 12


def test_a_message_cannot_move_the_cursor_or_add_a_line() -> None:
    vm = machine("StartFailed", message="no disk\n\x1b[2Jgone\x1b]0;title\x07")
    vm = replace(vm, holds=(Hold("ann", "\x1b[31mred"),))
    lines = in_detail(vm, host(), NOW)
    assert len(lines) == 13
    assert lines[5] == "  Message    no disk gone"
    assert "\x1b" not in lines[10]


def test_a_status_about_an_older_spec_says_so() -> None:
    lines = plain(in_detail(machine("InSync", observed_generation=2), host(), NOW))
    assert lines[3] == "  Reason     InSync (old spec)"
    assert lines[5] == "  Message    It is as the spec asks."
    assert lines[6].startswith("  Next       The agent reads the new spec.")


def test_a_report_of_the_former_node_is_told() -> None:
    vm = machine("HandoverUnconfirmed", node_name="node-b")
    node = plain(in_detail(vm, host(), NOW))[7]
    assert node.startswith("  Node       node-a (the status is from node-b), agent Active for ")


def test_during_an_outage_for_is_its_age_and_not_that_of_the_last_decision() -> None:
    vm = machine("LibvirtUnreachable", decided_reason="InSync", decided_transition_time=before(days=2))
    assert plain(in_detail(vm, host(), NOW))[4] == "  For        12m (2026-11-27T11:48:00Z)"


def test_the_conditions_that_the_api_server_adds_to_a_new_object_have_no_time() -> None:
    """They are from 1970."""
    added = Condition("Ready", "Unknown", "Pending", "No agent has reported on this host yet.", EPOCH, 0)
    vm = replace(machine(), status=Status(conditions=(added,)))
    new = replace(host(), status=HypervisorStatus(conditions=(added,)))
    lines = plain(in_detail(vm, new, NOW))
    assert lines[4] == "  For        -"
    assert lines[7] == "  Node       node-a, agent Pending"
    shown = [*lines, *in_a_table([vm], NOW, namespaces=False), *drift_lines([vm], 1, NOW), *host_lines([new], NOW)]
    assert "1970" not in "".join(shown)
    assert "20784d" not in "".join(shown)
    assert "old spec" not in "".join(shown), "its status is about none"


def test_many_vms_are_one_line_each() -> None:
    held = replace(machine("Held", "db-1", observed_generation=2), holds=(Hold("ann", ""), Hold("eve", "x")))
    vms = [machine(), held]
    assert plain(in_a_table(vms, NOW, namespaces=True)) == [
        "NAMESPACE   NAME    POWER     DESIRED   REASON            FOR   NODE     HOLDS",
        "shop        web-1   Running   Running   InSync            12m   node-a   -",
        "shop        db-1    Running   Running   Held (old spec)   12m   node-a   ann, eve",
    ]
    assert summary(vms) == "1 of 2 VMs are as wanted."


# --- what happens next


def stopping(mode: ShutdownMode, *, kind: OperationType = OperationType.STOP) -> VirtualMachine:
    operation = Operation(kind, before(minutes=1), deadline=after(minutes=2), domain_id=4)
    return replace(machine("ShuttingDown", operation=operation), shutdown=Shutdown(mode))


DEADLINE = "2026-11-27T12:02:00Z (in 2m)"
NEXT = [
    (machine("InSync"), "Nothing, until the spec or the VM changes."),
    (
        replace(machine("InSync"), restart_request=after(hours=10)),
        "It is restarted at 2026-11-27T22:00:00Z (in 10h), at most 10 s later.",
    ),
    (
        replace(machine("InSync", last_restart_time=after(hours=10)), restart_request=after(hours=10)),
        "Nothing, until the spec or the VM changes.",
    ),
    (
        replace(machine("InSync"), restart_request=before(days=4)),
        "Nothing, until the spec or the VM changes.",
    ),
    (
        stopping(ShutdownMode.GRACEFUL_THEN_FORCE),
        f"If the guest is still on at {DEADLINE}, virtsync forces the VM off.",
    ),
    (
        stopping(ShutdownMode.GRACEFUL_THEN_FORCE, kind=OperationType.RESTART),
        f"If the guest is still on at {DEADLINE}, virtsync forces the VM off. When it is off, virtsync starts it.",
    ),
    (
        stopping(ShutdownMode.GRACEFUL),
        f"If the guest is still on at {DEADLINE}, virtsync reports ShutdownTimedOut.",
    ),
    (
        machine("ShuttingDown", operation=Operation(OperationType.STOP, before(minutes=1))),
        "The grace period of the stop begins when libvirt answers again.",
    ),
    (
        machine("Starting", operation=Operation(OperationType.START, before(minutes=1), attempt=3)),
        "virtsync waits for libvirt's answer to the start (attempt 3).",
    ),
    (
        machine("CrashLoopBackOff", backoff=Backoff(4, after(seconds=40))),
        "Attempt 5 at 2026-11-27T12:00:40Z (in 40s).",
    ),
    (
        machine("StartFailed", backoff=Backoff(4, before(seconds=40))),
        "virtsync continues by itself. The line Message says what it waits for, if anything.",
    ),
    (
        machine("Settling", backoff=Backoff(4, after(seconds=40))),
        "virtsync continues by itself. The line Message says what it waits for, if anything.",
    ),
    (machine("DomainNotFound"), "Nothing until you act. The line Message says how."),
    (machine("ObserveOnly"), "Nothing: the agent of the node runs with --observe-only."),
    (machine("AgentUnreachable"), "Nothing, until an agent on node-a reports."),
    (machine("LibvirtUnreachable"), "Nothing, until libvirt on the node answers."),
    (
        machine("SpecNotUnderstood", observed_generation=2),
        "Nothing, until a newer agent runs on the node or the spec is changed.",
    ),
    (replace(machine("InSync"), deleting=True), "Nothing: the object is being deleted, and the VM stays as it is."),
    (machine("OfANewerVersion"), "Nothing, until the line Message no longer applies."),
]


@pytest.mark.parametrize(("vm", "sentence"), NEXT, ids=[sentence[:40] for _, sentence in NEXT])
def test_what_is_next_follows_from_the_record_of_the_agent(vm: VirtualMachine, sentence: str) -> None:
    assert prospect(vm, host(), NOW) == sentence


def test_a_maintenance_and_two_holds_are_all_named() -> None:
    misspelled = Hold("eve", "", "virtsync.dev/hold-eve"), Hold("bob", "", "hold.virtsync.dev/bob", is_label=True)
    vm = replace(machine("Held"), holds=(Hold("ann", "backup"), *misspelled))
    told = prospect(vm, host(maintenance=Maintenance(MaintenanceMode.HOLD, "RAM")), NOW)
    assert told == (
        "Nothing, until the maintenance of node-a ends and the last hold is removed (kubectl annotate kvm -n shop web-1"
        " hold.virtsync.dev/ann- virtsync.dev/hold-eve-; kubectl label kvm -n shop web-1 hold.virtsync.dev/bob-); then"
        " the settle time."
    )


# --- drift


def test_drift_is_grouped_with_what_needs_a_person_first() -> None:
    vms = [
        replace(machine("Held", "a", observed_generation=2), desired=None),
        machine("Starting", "b"),
        machine("Starting", "c"),
        machine("DomainNotFound", "d", power_state=PowerState.ABSENT),
        machine("InSync", "e", observed_generation=2),
    ]
    assert plain(drift_lines(vms, 9, NOW)) == [
        "DomainNotFound (1): waiting for a person",
        "  NAME     POWER    DESIRED   FOR   NODE",
        "  shop/d   Absent   Running   12m   node-a",
        "",
        "Starting (2): in progress",
        "  NAME     POWER     DESIRED   FOR   NODE",
        "  shop/b   Running   Running   12m   node-a",
        "  shop/c   Running   Running   12m   node-a",
        "",
        "Held (1): held",
        "  NAME     POWER     DESIRED   FOR   NODE",
        "  shop/a   Running   -         12m   node-a   (old spec)",
        "",
        "InSync (1): old spec",
        "  NAME     POWER     DESIRED   FOR   NODE",
        "  shop/e   Running   Running   12m   node-a",
        "",
        "5 of 9 VMs are not as wanted.",
    ]


def test_no_drift_is_one_sentence() -> None:
    assert drift_lines([], 9, NOW) == ["All 9 VMs are as wanted."]
    assert drift_lines([], 1, NOW) == ["The VM is as wanted."]


@pytest.mark.parametrize("reason", list(Reason))
def test_only_a_vm_that_is_ready_for_its_newest_spec_is_as_wanted(reason: Reason) -> None:
    assert is_as_wanted(machine(str(reason))) == (READINESS[reason] is Readiness.READY)
    assert not is_as_wanted(machine(str(reason), observed_generation=2))


def test_each_meaning_of_a_reason_has_words_and_a_place() -> None:
    assert set(NOT_WANTED) == set(Readiness)


# --- hosts


def test_hosts_are_a_table_with_a_remark_about_each_that_is_not_fine() -> None:
    counts = VmCounts(total=12, running=10, not_ready=2)
    progress = MaintenanceProgress(before(minutes=12), remaining=3)
    quiesced = Condition("Quiesced", "False", "DomainsRunning", "web-1 runs.", before(minutes=1), 1)
    serviced = host("node-b", maintenance=Maintenance(MaintenanceMode.SHUTDOWN, "new RAM"))
    status = replace(serviced.status, maintenance=progress, conditions=(*serviced.status.conditions, quiesced))
    silent = host("node-c", reason="AgentUnreachable", ready="Unknown")
    hosts = [silent, replace(serviced, status=status), host(status={"virtual_machines": counts})]
    lines = plain(host_lines(hosts, NOW))
    assert lines == [
        "NAME     REASON             FOR    VMS   RUNNING   NOTREADY   UNMANAGED   MAINTENANCE                VERSION",
        "node-a   Active             3h5m   12    10        2          -           -                          0.1.0",
        "node-b   Active             3h5m   -     -         -          -           Shutdown, DomainsRunning   0.1.0",
        "node-c   AgentUnreachable   3h5m   -     -         -          -           -                          0.1.0",
        "",
        "node-b: Maintenance Shutdown: new RAM, in force since 12m ago (2026-11-27T11:48:00Z), 3 domains still run.",
        "node-c: The agent was not heard.",
    ]


# --- history


def event(reason: str, time: datetime, note: str = "It did.", **fields: Any) -> dict[str, Any]:
    return {"reason": reason, "eventTime": api_time(time), "note": note, "type": "Normal", **fields}


STOP = LastStop(StopCause.CRASH, before(minutes=30), "QEMU died.")


def test_history_has_events_and_what_the_status_keeps_in_order() -> None:
    vm = machine(last_stop=STOP, last_restart_time=before(minutes=20))
    events = [
        event("Started", before(minutes=5), type="Warning", regarding={"uid": "u1"}),
        event("Started", before(hours=5), "of an earlier object", regarding={"uid": "other"}),
    ]
    entries = timeline(vm, events)
    assert plain(history_lines(entries, NOW)) == [
        "2026-11-24T12:00:00Z   3d ago    Created            The VirtualMachine was created.",
        "2026-11-27T11:30:00Z   30m ago   Stopped            Crash: QEMU died.",
        "2026-11-27T11:40:00Z   20m ago   RestartRequested   virtsync carried out this request.",
        "2026-11-27T11:55:00Z   5m ago    Started            It did.",
    ]
    assert [entry["source"] for entry in as_data(entries)] == ["status", "status", "status", "Event"]
    assert as_data(entries)[-1]["type"] == "Warning"


@pytest.mark.parametrize(("distance", "times"), [(timedelta(0), 1), (SAME_STOP, 1), (SAME_STOP * 2, 2)])
def test_a_stop_that_an_event_tells_is_told_once(distance: timedelta, times: int) -> None:
    entries = timeline(machine(last_stop=STOP), [event("StoppedUnexpectedly", STOP.time + distance)])
    assert sum(entry.what.startswith("Stopped") for entry in entries) == times


def test_a_repeated_event_is_at_its_last_time_and_says_since_when() -> None:
    series = {"count": 7, "lastObservedTime": api_time(before(minutes=1))}
    (line,) = history_lines(timeline(None, [event("StartFailed", before(hours=1), series=series)]), NOW)
    assert line == "2026-11-27T11:59:00Z   1m ago   StartFailed   It did. (7 times since 2026-11-27T11:00:00Z)"


def test_an_event_of_the_older_api_has_its_times_elsewhere() -> None:
    times = {"deprecatedFirstTimestamp": api_time(before(hours=1)), "deprecatedLastTimestamp": api_time(NOW)}
    (entry,) = timeline(None, [{"reason": "Noted", "note": "x", "eventTime": None, "deprecatedCount": 2, **times}])
    assert (entry.time, entry.first, entry.count) == (NOW, before(hours=1), 2)


def test_an_event_without_a_time_is_left_out() -> None:
    assert timeline(None, [{"reason": "Noted", "series": None}]) == []


# --- words


def test_a_time_says_how_far_away_it_is() -> None:
    assert at(after(minutes=2), NOW) == "2026-11-27T12:02:00Z (in 2m)"
    assert at(before(minutes=2), NOW) == "2026-11-27T11:58:00Z (2m ago)"


def test_colors_have_no_width_in_a_table() -> None:
    lines = table([(colored("Held"), "x"), ("DomainNotFound", "y")])
    assert lines[0] != click.unstyle(lines[0])
    assert [click.unstyle(line).index(last) for line, last in zip(lines, "xy", strict=True)] == [17, 17]
    assert table([]) == []

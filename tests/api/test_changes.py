"""The changes that users can request, as merge patches, and the requests that are refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.api import changes, progress
from controller.api.changes import Change, Unchanged
from controller.api.codec import parse
from controller.api.hypervisor import Hypervisor, Maintenance, MaintenanceMode
from controller.api.json_mapping import as_time
from controller.api.progress import Stage
from controller.api.virtualmachine import Condition, DesiredPowerState, Hold, Reason, Status, VirtualMachine, VmKey

NOW = datetime(2026, 11, 27, 12, 0, 0, 500_000, tzinfo=UTC)
RUNNING, PAUSED = DesiredPowerState.RUNNING, DesiredPowerState.PAUSED
VM = VirtualMachine(VmKey("shop", "web-1"), "u", 1, "7", NOW - timedelta(days=1), "node-a", desired=RUNNING)
HOST = Hypervisor("node-a", "u", 1, "7", NOW)
RAM = Maintenance(MaintenanceMode.SHUTDOWN, "new RAM")
HELD = replace(VM, holds=(Hold("ann", "backup"), Hold("bob", "disk")))


def patch_of(change: Change | Unchanged) -> object:
    assert isinstance(change, Change), change
    return change.patch


def reported(reason: Reason) -> Status:
    """A report of this reason about the newest spec."""
    return Status(observed_generation=1, conditions=(Condition("Ready", "True", reason, "So it is.", NOW, 1),))


def restarted(at: datetime) -> VirtualMachine:
    return replace(VM, status=Status(last_restart_time=at))


def requested(vm: VirtualMachine, at: datetime | None = None) -> object:
    return patch_of(changes.restart(vm, at, NOW))


def test_power_is_one_field() -> None:
    assert patch_of(changes.power(VM, DesiredPowerState.STOPPED)) == {"spec": {"powerState": "Stopped"}}
    assert changes.power(VM, RUNNING) == Unchanged("powerState is Running already")


@pytest.mark.parametrize(
    ("reason", "desired", "told"),
    [
        (Reason.COMPLETED, RUNNING, "already, and its restartPolicy leaves it off: `restart` starts it"),
        (Reason.FAILED, RUNNING, "already, and its restartPolicy leaves it off: `restart` starts it"),
        (Reason.COMPLETED, PAUSED, "already, and its restartPolicy leaves it off: `start` starts it"),
        (Reason.SUSPENDED_BY_GUEST, RUNNING, "already, and its restartPolicy leaves it suspended: `virsh dompmwakeup`"),
    ],
)
def test_a_power_state_that_the_restart_policy_does_not_restore_is_refused(
    reason: Reason, desired: DesiredPowerState, told: str
) -> None:
    """The spec asks for it already, so the request would change nothing, and the VM is not as requested."""
    left = replace(VM, desired=desired, status=reported(reason))
    with pytest.raises(ValueError, match=told):
        changes.power(left, desired)
    assert isinstance(changes.power(left, DesiredPowerState.STOPPED), Change)
    older = replace(left, generation=2)
    assert changes.power(older, desired) == Unchanged(f"powerState is {desired} already"), "the report is about less"


@pytest.mark.parametrize("reason", [Reason.IN_SYNC, Reason.STARTING, Reason.HELD, Reason.AGENT_UNREACHABLE])
def test_a_power_state_that_the_agent_restores_is_requested_already(reason: Reason) -> None:
    vm = replace(VM, status=reported(reason))
    assert changes.power(vm, RUNNING) == Unchanged("powerState is Running already")


def test_a_vm_that_should_be_paused_may_be_suspended() -> None:
    suspended = replace(VM, desired=PAUSED, status=reported(Reason.SUSPENDED_BY_GUEST))
    assert changes.power(suspended, PAUSED) == Unchanged("powerState is Paused already")


def test_a_restart_now_is_a_request_for_this_second() -> None:
    assert requested(VM) == {"spec": {"restartRequestTime": "2026-11-27T12:00:00Z"}}


def test_a_restart_in_the_second_of_the_last_one_is_a_second_restart() -> None:
    assert requested(restarted(NOW.replace(microsecond=0))) == {"spec": {"restartRequestTime": "2026-11-27T12:00:01Z"}}


def test_a_restart_of_an_object_that_was_just_created_is_later_than_its_creation() -> None:
    assert requested(replace(VM, created=NOW.replace(microsecond=0))) == {
        "spec": {"restartRequestTime": "2026-11-27T12:00:01Z"}
    }


def test_a_restart_now_is_refused_if_the_last_one_is_far_in_the_future() -> None:
    with pytest.raises(ValueError, match=r"a time in the future, 2026-11-27T13:00:00\.500000Z"):
        changes.restart(restarted(NOW + timedelta(hours=1)), None, NOW)


def test_a_scheduled_restart_is_said_and_so_is_the_one_that_it_replaces() -> None:
    tonight = NOW.replace(hour=22, microsecond=0)
    change = changes.restart(replace(VM, restart_request=tonight), tonight + timedelta(hours=1), NOW)
    assert change.said == "a restart is scheduled for 2026-11-27T23:00:00Z, instead of 2026-11-27T22:00:00Z"
    assert changes.restart(VM, NOW, NOW).said == "a restart is requested"


def test_a_restart_that_is_requested_already_changes_nothing() -> None:
    assert isinstance(changes.restart(replace(VM, restart_request=NOW), NOW, NOW), Unchanged)


def test_a_second_request_for_now_waits_for_the_first_one_of_the_same_second() -> None:
    requested = replace(VM, restart_request=NOW.replace(microsecond=0))
    decided = changes.restart(requested, None, NOW)
    assert isinstance(decided, Unchanged)
    at = as_time(decided.value)
    assert at
    assert at == requested.restart_request
    assert progress.of_restart(requested, 1, at).stage is Stage.WAITING


@pytest.mark.parametrize("desired", [None, DesiredPowerState.STOPPED, DesiredPowerState.PAUSED])
def test_a_restart_needs_a_vm_that_should_run(desired: DesiredPowerState | None) -> None:
    with pytest.raises(ValueError, match=f"its powerState is {desired or 'not set'}"):
        changes.restart(replace(VM, desired=desired), None, NOW)


@pytest.mark.parametrize(
    ("vm", "why"),
    [
        (restarted(NOW), "the VM was last restarted at 2026-11-27T12:00:00.500000Z"),
        (replace(VM, created=NOW), "the object was created at"),
    ],
)
def test_a_restart_that_would_have_no_effect_is_refused(vm: VirtualMachine, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        changes.restart(vm, NOW, NOW)


def test_a_hold_is_an_annotation() -> None:
    change = changes.hold(VM, "ann", "new disk")
    assert patch_of(change) == {"metadata": {"annotations": {"hold.virtsync.dev/ann": "new disk"}}}
    assert isinstance(change, Change)
    assert change.where == "the annotation hold.virtsync.dev/ann"


def test_a_hold_of_the_same_name_for_another_reason_is_refused() -> None:
    assert changes.hold(HELD, "ann", "backup") == Unchanged("held by ann (backup) already")
    with pytest.raises(ValueError, match=r"ann holds it already \(backup\)"):
        changes.hold(HELD, "ann", "restore")


def test_a_release_removes_one_hold_and_names_the_others() -> None:
    change = changes.release(HELD, "ann")
    assert patch_of(change) == {"metadata": {"annotations": {"hold.virtsync.dev/ann": None}}}
    assert change.said == "the hold of ann is released; it is still held by bob (disk)"
    assert changes.release(HELD, "eve") == Unchanged("not held by eve, but by ann (backup), bob (disk)")
    assert changes.release(VM, "eve") == Unchanged("not held by eve")


@pytest.mark.parametrize("place", ["annotations", "labels"])
@pytest.mark.parametrize("key", ["holds.virtsync.dev/bob", "virtsync.dev/hold.bob"])
def test_a_misspelled_hold_is_released_by_its_own_key(key: str, place: str) -> None:
    change = changes.release(parse({"metadata": {place: {key: "disk"}}}), "bob")
    assert patch_of(change) == {"metadata": {place: {key: None}}}
    assert isinstance(change, Change)
    assert change.where == f"the {place[:-1]} {key}"


def test_the_right_one_of_two_holds_of_one_name_is_released_first() -> None:
    keys = {"holds.virtsync.dev/bob": "disk", "hold.virtsync.dev/bob": "RAM"}
    change = changes.release(parse({"metadata": {"annotations": keys}}), "bob")
    assert patch_of(change) == {"metadata": {"annotations": {"hold.virtsync.dev/bob": None}}}
    assert change.said == "the hold of bob is released; it is still held by bob (disk)"


def test_maintenance_is_declared_as_a_whole() -> None:
    assert patch_of(changes.begin_maintenance(HOST, RAM, replace=False)) == {
        "spec": {"maintenance": {"mode": "Shutdown", "reason": "new RAM"}}
    }


def test_another_maintenance_is_replaced_only_on_request() -> None:
    serviced = replace(HOST, maintenance=Maintenance(MaintenanceMode.HOLD, "ask sre"))
    with pytest.raises(ValueError, match=r"in maintenance already \(Hold: ask sre\)"):
        changes.begin_maintenance(serviced, RAM, replace=False)
    assert isinstance(changes.begin_maintenance(serviced, RAM, replace=True), Change)
    assert isinstance(changes.begin_maintenance(replace(HOST, maintenance=RAM), RAM, replace=False), Unchanged)


def test_the_end_of_a_maintenance_removes_it() -> None:
    change = changes.end_maintenance(replace(HOST, maintenance=RAM))
    assert patch_of(change) == {"spec": {"maintenance": None}}
    assert change.said == "the maintenance is ended (Shutdown: new RAM)"
    assert changes.end_maintenance(HOST) == Unchanged("not in maintenance")


def test_a_maintenance_of_a_newer_version_is_left_alone() -> None:
    newer = replace(HOST, misunderstood='spec.maintenance {"mode": "Evacuate"}')
    with pytest.raises(ValueError, match=r"does not understand spec\.maintenance"):
        changes.begin_maintenance(newer, RAM, replace=True)
    with pytest.raises(ValueError, match=r"does not understand spec\.maintenance"):
        changes.end_maintenance(newer)


@pytest.mark.parametrize("who", ["ann", "A.b_c-9", "x" * 63])
def test_a_name_that_an_annotation_can_have_is_a_holder(who: str) -> None:
    assert changes.holder(who) == who


@pytest.mark.parametrize("who", ["", "-ann", "ann-", "a b", "a/b", "ann\n", "x" * 64])
def test_a_name_that_no_annotation_can_have_is_refused(who: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a holder"):
        changes.holder(who)


def test_a_reason_is_one_line_that_is_not_empty() -> None:
    assert changes.reason(" new\n RAM ") == "new RAM"
    assert changes.reason("x" * 256) == "x" * 256
    for wrong in ("", " \n", "x" * 257):
        with pytest.raises(ValueError, match="1 to 256 characters"):
            changes.reason(wrong)

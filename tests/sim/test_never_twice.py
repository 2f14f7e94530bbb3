"""Whatever happens, no agent starts a VM whose QEMU lives already: judged by a ledger of the machines' QEMUs alone.

First the stories, one for each way in which it can go wrong; a failing one shows the history of its world. Then worlds
of chance; `SIM_WORLDS=5000 pytest tests/sim` plays more of them.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from controller.api.hypervisor import MaintenanceMode
from controller.api.virtualmachine import PowerState, Reason, StopCause, VmKey
from controller.policy.view import Phase
from tests.sim.chance import play
from tests.sim.ledger import By
from tests.sim.world import World, world

WORLDS = int(os.environ.get("SIM_WORLDS", "300"))
WORLDS_A_TEST = 50
FIRST_SEED = random.SystemRandom().randrange(10**9) if "SIM_WORLDS" in os.environ else 0
TWO = {"one": "node-a", "two": "node-b"}
THREE = {"one": "node-a", "two": "node-b", "three": "node-c"}
REPLACED = {"old": "node-a", "new": "node-a"}
START_S = 20.0
WEB = VmKey("default", "web")


def off_on_one(w: World) -> None:
    """Both agents are at work; the VM is off on the first machine, as wanted."""
    w.create(nodeName="node-a", powerState="Stopped")
    w.works(10)
    assert w.vm().status.reason == Reason.IN_SYNC, w.account()


def runs_on_one(w: World) -> None:
    """The same, and it runs there."""
    off_on_one(w)
    w.patch(powerState="Running")
    w.works(30)
    assert w.vm().status.reason == Reason.IN_SYNC, w.account()
    assert w.runs_on() == {"one"}, w.account()


def forced_off_and_lives_on(w: World) -> None:
    """It is forced off there. libvirt says that it is off, and its QEMU is frozen and has not exited."""
    runs_on_one(w)
    w.patch(shutdown={"mode": "Force"})
    w.freeze("one")
    w.patch(powerState="Stopped")
    w.works(300)


def is_left_alone(w: World, where: set[str]) -> None:
    """The new node asks the user, and starts nothing."""
    w.check()
    assert w.vm().status.reason == Reason.HANDOVER_UNCONFIRMED, w.account()
    assert w.runs_on() == where, w.account()


def two_leaves_it_alone(w: World, where: set[str], **spec: str) -> None:
    """The user gives the VM to node-b, whose agent asks the user, and starts nothing."""
    w.patch(nodeName="node-b", **spec)
    w.works(60)
    is_left_alone(w, where)


# --- a hand-over during a start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shows", ["off", "starting", "nothing"])
def test_a_start_under_way_is_no_off(shows: str) -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S, shows)
        w.patch(powerState="Running")
        w.works(5)
        two_leaves_it_alone(w, {"one"})


def test_a_start_whose_agent_is_cut_off_before_its_report_is_no_off() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.patch(powerState="Running")
        w.step("one", "watch")
        w.step("one", "pass")  # the record is written
        w.step("one", "call")  # the call is made, and its QEMU is there
        w.cut("one")
        assert w.runs_on() == {"one"}, w.account()
        two_leaves_it_alone(w, {"one"})


@pytest.mark.parametrize(("frozen_s", "started"), [(20, {"one"}), (60, set())])
def test_a_start_that_is_recorded_and_not_called_yet_is_no_off(frozen_s: int, started: set[str]) -> None:
    """The agent stands between its record and its call, as one does whose machine swaps; after 35 s it decides anew."""
    with world(TWO) as w:
        off_on_one(w)
        w.patch(powerState="Running")
        w.step("one", "watch")
        w.step("one", "pass")
        w.agent_freezes("one")
        w.patch(nodeName="node-b")
        w.works(frozen_s)
        w.agent_thaws("one")
        w.works(60)
        is_left_alone(w, started)


def test_a_start_of_a_dead_agent_is_no_off() -> None:
    """Its libvirtd goes on with the call."""
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", 40)
        w.patch(powerState="Running")
        w.works(5)
        w.agent_dies("one")
        two_leaves_it_alone(w, {"one"})


def test_there_and_back_during_a_start() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        w.patch(nodeName="node-b")
        w.works(3)
        w.patch(nodeName="node-a")
        w.works(60)
        w.check()
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert len(w.runs()) == 1, w.account()


def test_a_restore_under_way_is_no_off() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.patch(powerState="Stopped")
        w.virsh("managedsave", "one")
        w.works(30)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(5)
        w.patch(nodeName="node-b")
        w.works(60)
        assert w.runs_on() == {"one"}, w.account()


def test_the_start_of_a_restart_is_no_off() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.slow("one", START_S)
        w.patch(restartRequestTime=f"{w.clock.wall():%Y-%m-%dT%H:%M:%SZ}")
        w.works(5)
        assert not w.runs_on(), w.account()
        two_leaves_it_alone(w, {"one"})


# --- the record of a start, which a change of the spec must not remove -----------------------------------------------


def test_a_start_outlives_a_change_of_the_spec() -> None:
    """Wanted off again during its start, then handed over and wanted on."""
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(5)
        w.patch(powerState="Stopped")
        w.works(2)
        w.cut("one")
        two_leaves_it_alone(w, {"one"}, powerState="Running")


@pytest.mark.parametrize("powers", [("Stopped", "Running"), (None, "Running"), ("Paused", "Running")])
def test_a_start_outlives_there_and_back_of_the_spec(powers: tuple[str | None, str]) -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        for power in powers:
            w.patch(powerState=power)
            w.works(2)
        two_leaves_it_alone(w, {"one"})


def test_a_start_outlives_a_hold() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        w.hold(held=True)
        w.works(2)
        w.hold(held=False)
        two_leaves_it_alone(w, {"one"})


def test_a_start_outlives_sigterm() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        w.agent_ends("one")
        two_leaves_it_alone(w, {"one"})


def test_a_start_that_is_over_is_off_again() -> None:
    """A record that stayed for ever would keep every VM on its node."""
    with world(TWO) as w:
        runs_on_one(w)
        w.patch(powerState="Stopped")
        w.works(60)
        w.patch(nodeName="node-b", powerState="Running")
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert w.runs_on() == {"two"}, w.account()


def test_a_start_that_was_refused_is_off() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.guest("one").fails_to_start = "Cannot access storage file"
        w.patch(powerState="Running")
        w.works(5)
        w.patch(nodeName="node-b")
        w.works(60)
        assert w.runs_on() == {"two"}, w.account()


# --- a start of a dead agent, on the same node -----------------------------------------------------------------------


def test_a_start_that_a_dead_agent_left_over_is_made_once() -> None:
    """It died between its record and its call: the next one makes that call, and counts no other attempt."""
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.step("one", "watch")
        w.step("one", "pass")
        recorded = w.vm().status
        w.agent_dies("one")
        w.agent_starts("one")
        w.works(10)
        under_way = w.vm().status
        assert under_way.operation, w.account()
        assert under_way.operation == recorded.operation, w.account()
        w.works(30)
        status = w.vm().status
        assert status.reason == Reason.IN_SYNC, w.account()
        assert [run.by for run in w.runs()] == [By.AGENT], w.account()
        assert (status.restart_count, status.backoff) == (recorded.restart_count, recorded.backoff), w.account()


def test_a_start_that_a_dead_agent_has_with_libvirt_is_made_once() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        w.agent_dies("one")
        w.agent_starts("one")
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert [run.by for run in w.runs()] == [By.AGENT], w.account()
        assert w.vm().status.restart_count == 0, w.account()


def test_a_start_of_a_dead_agent_that_is_about_to_be_made_again_is_no_off() -> None:
    """Its next agent decides to make it again, and does not, because the user has changed the spec meanwhile."""
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", 60)
        w.patch(powerState="Running")
        w.works(5)
        w.agent_dies("one")
        w.agent_starts("one")
        w.patch(powerState="Stopped")
        w.step("one", "pass")
        w.works(5)
        w.patch(nodeName="node-b", powerState="Running")
        w.works(120)
        is_left_alone(w, {"one"})


def test_a_start_that_its_libvirtd_took_with_it_is_made_again() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        w.restart_libvirtd("one")
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert len(w.runs()) == 1, w.account()


def test_a_start_that_a_reboot_took_with_it_is_made_again() -> None:
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.works(3)
        w.reboot("one")
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert len(w.runs()) == 1, w.account()


# --- the answer to the report is lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("silence", [False, True])
def test_a_record_whose_answer_was_lost_is_no_off(silence: bool) -> None:  # noqa: FBT001 - a parameter
    """It is executed at the next look, or withdrawn; in between the VM is handed over."""
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S)
        w.patch(powerState="Running")
        w.lose_answer("one", silence=silence)
        w.works(3)
        w.patch(nodeName="node-b")
        w.works(60)
        w.check()
        assert w.vm().status.reason == Reason.HANDOVER_UNCONFIRMED, w.account()


@pytest.mark.parametrize("silence", [False, True])
def test_a_record_whose_answer_was_lost_is_executed_once(silence: bool) -> None:  # noqa: FBT001 - a parameter
    with world(TWO) as w:
        runs_on_one(w)
        w.goes_off("one", how="kill")
        w.lose_answer("one", silence=silence)
        w.works(60)
        status = w.vm().status
        assert w.runs_on() == {"one"}, w.account()
        assert len(w.runs()) == 2, w.account()
        assert status.restart_count == 1, w.account()
        assert status.backoff is None or status.backoff.failures == 1, w.account()


# --- an "off" that is old --------------------------------------------------------------------------------------------


def test_an_off_of_an_agent_that_is_away_is_stale() -> None:
    """The manager has marked it; meanwhile somebody has started it there."""
    with world(TWO) as w:
        off_on_one(w)
        w.cut("one")
        w.virsh("start", "one")
        w.works(60)
        w.mark_unreachable()
        two_leaves_it_alone(w, {"one"}, powerState="Running")


# --- vouching --------------------------------------------------------------------------------------------------------


def vouched_for_and_back(w: World) -> None:
    """Machine one was lost and vouched for, two ran the VM, and in good order it went back; the annotation stays."""
    runs_on_one(w)
    w.agent_dies("one")
    w.goes_off("one")
    w.patch(nodeName="node-b")
    w.works(10)
    is_left_alone(w, set())
    w.vouch()
    w.works(30)
    assert w.runs_on() == {"two"}, w.account()
    w.patch(powerState="Stopped")
    w.works(60)
    w.agent_starts("one")
    w.patch(nodeName="node-a", powerState="Running")
    w.works(60)
    assert w.runs_on() == {"one"}, w.account()
    assert w.vm().status.reason == Reason.IN_SYNC, w.account()


def test_an_old_vouching_vouches_for_nothing_later() -> None:
    with world(TWO) as w:
        vouched_for_and_back(w)
        w.cut("one")
        two_leaves_it_alone(w, {"one"})


def test_a_vouching_is_for_one_report() -> None:
    """The user vouches, and before node-b looks the VM runs on node-a again and is reported."""
    with world(TWO) as w:
        runs_on_one(w)
        w.patch(powerState="Stopped")
        w.works(60)
        w.vouch()
        w.patch(powerState="Running")
        w.works(30)
        assert w.runs_on() == {"one"}, w.account()
        w.cut("one")
        two_leaves_it_alone(w, {"one"})


def test_a_vouching_for_the_last_report_is_believed() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.agent_dies("one")
        w.goes_off("one")
        w.patch(nodeName="node-b")
        w.works(10)
        is_left_alone(w, set())
        w.vouch()
        w.works(30)
        assert w.runs_on() == {"two"}, w.account()


# --- two machines of one name ----------------------------------------------------------------------------------------


def runs_on_old(w: World) -> None:
    """The agent of the old machine has the Lease, and the VM runs there."""
    w.agent_dies("new")
    w.create(nodeName="node-a", powerState="Running")
    w.works(30)
    assert w.runs_on() == {"old"}, w.account()
    assert w.vm().status.reason == Reason.IN_SYNC, w.account()


def test_another_machine_of_this_name_is_no_reboot() -> None:
    """SIGTERM to the first agent, and the other takes the Lease."""
    with world(REPLACED) as w:
        runs_on_old(w)
        w.agent_ends("old")
        w.agent_starts("new")
        w.take_lease("new")
        w.works(120)
        is_left_alone(w, {"old"})


def test_a_start_under_way_on_another_machine_of_this_name_is_no_off() -> None:
    with world(REPLACED) as w:
        w.agent_dies("new")
        w.create(nodeName="node-a", powerState="Stopped")
        w.works(10)
        w.slow("old", 40)
        w.patch(powerState="Running")
        w.works(3)
        w.agent_ends("old")
        w.agent_starts("new")
        w.take_lease("new")
        w.works(120)
        is_left_alone(w, {"old"})


def test_a_replaced_machine_takes_over_when_vouched_for() -> None:
    with world(REPLACED) as w:
        runs_on_old(w)
        w.agent_dies("old")
        w.goes_off("old")
        w.agent_starts("new")
        w.take_lease("new")
        w.works(30)
        is_left_alone(w, set())
        w.vouch()
        w.works(60)
        assert w.runs_on() == {"new"}, w.account()


def test_the_same_machine_after_a_reboot_needs_no_vouching() -> None:
    with world(REPLACED) as w:
        runs_on_old(w)
        w.reboot("old")
        w.works(60)
        assert w.runs_on() == {"old"}, w.account()
        stop = w.vm().status.last_stop
        assert stop, w.account()
        assert stop.cause is StopCause.NODE_REBOOT, w.account()


# --- a destroy that is not to be believed ----------------------------------------------------------------------------


def test_a_frozen_qemu_that_was_destroyed_is_no_off_to_another_node() -> None:
    with world(TWO) as w:
        forced_off_and_lives_on(w)
        assert w.vm().status.power_state is PowerState.SHUTTING_DOWN, w.account()
        w.patch(nodeName="node-b", powerState="Running")
        w.works(60)
        assert w.vm().status.reason == Reason.HANDOVER_UNCONFIRMED, w.account()
        assert len(w.runs()) == 1, w.account()


def test_a_frozen_qemu_whose_domain_is_undefined_is_not_absent() -> None:
    with world(TWO) as w:
        forced_off_and_lives_on(w)
        w.virsh("undefine", "one")
        w.works(30)
        assert w.vm().status.power_state is PowerState.SHUTTING_DOWN, w.account()
        assert w.vm().status.reason == Reason.HYPERVISOR_BUSY, w.account()
        two_leaves_it_alone(w, {"one"}, powerState="Running")
        assert len(w.runs()) == 1, w.account()


def test_a_domain_that_is_undefined_is_absent_when_its_qemu_has_ended() -> None:
    with world(TWO) as w:
        forced_off_and_lives_on(w)
        w.virsh("undefine", "one")
        w.works(30)
        w.thaw("one")
        w.works(60)
        assert w.vm().status.power_state is PowerState.ABSENT, w.account()
        w.patch(nodeName="node-b", powerState="Running")
        w.works(60)
        w.check()
        assert w.runs_on() == {"two"}, w.account()


def test_nothing_is_started_beside_a_frozen_qemu_that_was_destroyed_for_a_restart() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.patch(shutdown={"mode": "Force"})
        w.freeze("one")
        w.patch(restartRequestTime=f"{w.clock.wall():%Y-%m-%dT%H:%M:%SZ}")
        w.works(200)
        w.check()
        assert len(w.runs()) == 1, w.account()
        assert w.vm().status.reason == Reason.SHUTDOWN_TIMED_OUT, w.account()
        w.thaw("one")
        w.works(60)
        assert len(w.runs()) == 2, w.account()
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()


def test_nothing_is_started_beside_a_frozen_qemu_that_a_stranger_destroyed() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.freeze("one")
        w.virsh("destroy", "one")
        w.works(120)
        w.check()
        assert len(w.runs()) == 1, w.account()


@pytest.mark.parametrize("comes", ["before libvirt gives up", "after it"])
def test_a_frozen_qemu_and_the_next_agent(comes: str) -> None:
    """It sees the domain on while libvirt tries to kill it. After that no pid file is left, and it cannot know."""
    in_time = comes == "before libvirt gives up"
    with world(TWO) as w:
        runs_on_one(w)
        w.patch(shutdown={"mode": "Force"})
        w.freeze("one")
        w.patch(restartRequestTime=f"{w.clock.wall():%Y-%m-%dT%H:%M:%SZ}")
        w.works(5)
        w.agent_dies("one")
        w.works(30 if in_time else 100)
        assert w.guest("one").on is in_time, w.account()
        w.agent_starts("one")
        w.works(9)
        assert len(w.runs()) == 1, w.account()
        w.works(150)
        assert len(w.runs()) == (1 if in_time else 2), w.account()


@pytest.mark.parametrize("by", ["itself", "libvirtd"])
def test_nothing_is_started_beside_a_frozen_qemu_that_was_started_just_now(by: str) -> None:
    """The agent has seen it before anybody could destroy it: it was its own start, or a relist showed it."""
    with world(TWO) as w:
        off_on_one(w)
        if by == "itself":
            w.patch(powerState="Running")
        else:
            w.virsh("start", "one")
            w.patch(powerState="Running")
        w.works(1)
        w.freeze("one")
        w.virsh("destroy", "one")
        w.works(120)
        assert len(w.runs()) == 1, w.account()


def test_nothing_is_started_beside_a_qemu_that_a_restarted_libvirtd_has_forgotten() -> None:
    """libvirtd goes in the middle of a start, and the QEMU that it was at stays."""
    with world(TWO) as w:
        off_on_one(w)
        w.slow("one", START_S, "starting")
        w.patch(powerState="Running")
        w.works(3)
        w.restart_libvirtd("one")
        w.works(60)
        w.check()
        assert len(w.runs()) == 1, w.account()


# --- migrations and saved memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("undefine", [False, True])
def test_a_migration_that_the_source_saw_is_no_off(undefine: bool) -> None:  # noqa: FBT001 - a parameter
    """node-a sent it to node-b; then it is given to node-c, which has never seen it."""
    with world(THREE) as w:
        runs_on_one(w)
        w.migrate("one", "two", undefine=undefine)
        w.works(30)
        assert w.runs_on() == {"two"}, w.account()
        w.patch(nodeName="node-c")
        w.works(60)
        is_left_alone(w, {"two"})


def test_a_migration_that_the_source_saw_outlives_its_libvirtd() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.migrate("one", "two")
        w.works(30)
        w.restart_libvirtd("one")
        w.works(30)
        w.agent_dies("one")
        w.agent_starts("one")
        w.works(30)
        assert w.vm().status.reason == Reason.MIGRATED_AWAY, w.account()
        w.reboot("one")
        w.works(60)
        assert w.runs_on() == {"two"}, w.account()


def test_a_start_by_hand_that_fails_does_not_bring_a_migrated_vm_back() -> None:
    """libvirt then gives another reason for "off"."""
    with world(TWO) as w:
        runs_on_one(w)
        w.migrate("one", "two")
        w.works(30)
        w.guest("one").fails_to_start = "Cannot access storage file"
        w.virsh("start", "one")
        w.guest("one").fails_to_start = ""
        w.works(90)
        w.check()
        assert w.vm().status.reason == Reason.MIGRATED_AWAY, w.account()
        assert w.runs_on() == {"two"}, w.account()


@pytest.mark.parametrize("undefine", [False, True])
def test_a_migration_after_a_start_by_hand_is_no_off(undefine: bool) -> None:  # noqa: FBT001 - a parameter
    """Both happen while the agent cannot reach the API server; its last report is "off"."""
    with world(THREE) as w:
        off_on_one(w)
        w.cut("one")
        w.works(5)
        w.virsh("start", "one")
        w.migrate("one", "two", undefine=undefine)
        w.works(20)
        w.join("one")
        w.works(60)
        w.patch(nodeName="node-c", powerState="Running")
        w.works(60)
        is_left_alone(w, {"two"})


def test_a_migration_is_followed_by_its_target() -> None:
    """There it is adopted; and started when it went off later."""
    with world(TWO) as w:
        runs_on_one(w)
        w.migrate("one", "two")
        w.works(30)
        w.patch(nodeName="node-b")
        w.works(30)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        w.agent_dies("two")
        w.goes_off("two")
        w.restart_libvirtd("two")
        w.agent_starts("two")
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert w.runs_on() == {"two"}, w.account()


def test_a_migrated_vm_that_went_off_is_started_where_it_was_sent() -> None:
    """The last report is the source's; the target has seen it come."""
    with world(TWO) as w:
        runs_on_one(w)
        w.migrate("one", "two")
        w.works(30)
        w.goes_off("two")
        w.works(10)
        w.restart_libvirtd("two")
        w.patch(nodeName="node-b")
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert w.runs_on() == {"two"}, w.account()


def test_an_arrival_before_the_connection_was_lost_does_not_count() -> None:
    """The target has seen it come, and not that it has left again, which its libvirtd has forgotten."""
    with world(THREE) as w:
        runs_on_one(w)
        w.migrate("one", "two")
        w.works(30)
        w.lose_libvirt("two")
        w.migrate("two", "one")
        w.restart_libvirtd("two")
        w.migrate("one", "three")
        w.works(30)
        two_leaves_it_alone(w, {"three"})


def test_memory_saved_here_that_is_older_than_a_run_elsewhere_is_not_restored() -> None:
    """Saved on node-a; then the user gives that up, and it runs on node-b; then it is to come back."""
    with world(TWO) as w:
        runs_on_one(w)
        w.agent_dies("one")
        w.virsh("managedsave", "one")
        w.patch(nodeName="node-b")
        w.works(10)
        w.vouch()
        w.works(30)
        assert w.runs_on() == {"two"}, w.account()
        w.patch(powerState="Stopped")
        w.works(60)
        w.agent_starts("one")
        w.patch(nodeName="node-a", powerState="Running")
        w.works(60)
        assert w.vm().status.reason == Reason.SAVED_ELSEWHERE, w.account()
        assert not w.runs_on(), w.account()
        assert w.guest("one").phase is Phase.SAVED, w.account()
        w.virsh("managedsave-remove", "one")
        w.works(60)
        assert w.runs_on() == {"one"}, w.account()


@pytest.mark.parametrize("action", ["managedsave", "save"])
def test_memory_saved_on_another_node_is_not_started_without(action: str) -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.virsh(action, "one")
        w.works(5)
        w.patch(nodeName="node-b")
        w.works(60)
        assert w.vm().status.reason == Reason.SAVED_ELSEWHERE, w.account()
        assert not w.runs_on(), w.account()
        w.patch(nodeName="node-a")
        w.works(30)
        w.virsh("start" if action == "managedsave" else "restore", "one")
        w.works(30)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert w.runs_on() == {"one"}, w.account()


def test_memory_saved_on_another_node_may_be_given_up() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.virsh("managedsave", "one")
        w.works(5)
        w.agent_dies("one")
        w.patch(nodeName="node-b")
        w.works(30)
        assert w.vm().status.reason == Reason.SAVED_ELSEWHERE, w.account()
        w.vouch()
        w.works(1000)  # a save is left alone for a while
        assert w.runs_on() == {"two"}, w.account()
        assert w.vm().status.power_state is PowerState.RUNNING, w.account()


# --- runs elsewhere, and maintenance ---------------------------------------------------------------------------------


def migrated_unseen(w: World) -> None:
    """While the agent of its host is away the VM is migrated, and its libvirtd forgets that."""
    runs_on_one(w)
    w.agent_ends("one")
    w.migrate("one", "two")
    w.restart_libvirtd("one")
    w.manager_looks()
    w.agent_starts("one")
    w.works(60)
    assert w.runs_on() == {"two"}, w.account()
    assert w.vm().status.reason == Reason.RUNS_ELSEWHERE, w.account()


def test_a_vm_that_was_migrated_unseen_is_not_started_and_is_taken_over_where_it_runs() -> None:
    with world(TWO) as w:
        migrated_unseen(w)
        w.patch(nodeName="node-b")
        w.manager_looks()
        w.works(60)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        assert w.runs_on() == {"two"}, w.account()


def test_a_vm_that_was_migrated_unseen_is_started_when_it_is_gone_there() -> None:
    with world(TWO) as w:
        migrated_unseen(w)
        w.virsh("destroy", "two")
        w.works(60)
        assert not w.runs_on(), w.account()  # the manager has not looked
        w.manager_looks()
        w.works(5)
        assert not w.runs_on(), w.account()
        w.works(30)
        assert w.runs_on() == {"one"}, w.account()


def test_a_vm_that_was_migrated_unseen_is_not_started_on_a_third_host() -> None:
    with world(THREE) as w:
        migrated_unseen(w)
        w.patch(nodeName="node-c")
        w.works(60)
        is_left_alone(w, {"two"})


def test_a_vm_that_was_migrated_unseen_is_not_started_on_a_third_host_though_its_definition_is_gone() -> None:
    """As the message advises, the definition that is left over is removed."""
    with world(THREE) as w:
        migrated_unseen(w)
        w.virsh("undefine", "one")
        w.works(30)
        assert w.vm().status.reason == Reason.DOMAIN_NOT_FOUND, w.account()
        w.patch(nodeName="node-c")
        w.works(60)
        is_left_alone(w, {"two"})


def test_nothing_is_started_during_a_maintenance_and_all_is_on_after_it() -> None:
    """The host is powered off and comes back, with autostart, before the maintenance ends."""
    with world(TWO, "web", "db") as w:
        for name in w.vms:
            w.create(name, nodeName="node-a", powerState="Running", restartPolicy="Never")
        w.works(60)
        w.maintain("one", MaintenanceMode.SHUTDOWN)
        w.works(60)
        assert not w.runs_on("web") | w.runs_on("db"), w.account()
        w.mark_unreachable("web")
        w.guest("one").autostart = True
        w.reboot("one")
        w.works(120)
        assert not w.runs_on("web") | w.runs_on("db"), w.account()
        assert [run.by for run in w.runs("db")] == [By.AGENT], w.account()
        w.maintain("one", None)
        w.works(60)
        for name in w.vms:
            assert w.runs_on(name) == {"one"}, w.account()
            assert w.vm(name).status.reason == Reason.IN_SYNC, w.account()
            assert w.vm(name).status.restart_count == 0, w.account()


def test_a_maintenance_that_ends_while_the_host_is_off_is_remembered() -> None:
    with world(TWO) as w:
        w.create(nodeName="node-a", powerState="Running", restartPolicy="Never")
        w.works(60)
        w.guest("one").deaf = True
        w.maintain("one", MaintenanceMode.SHUTDOWN)
        w.works(1)
        assert w.vm().status.operation, w.account()
        w.agent_dies("one")
        w.maintain("one", None)
        w.reboot("one")
        w.agent_starts("one")
        w.works(5)
        assert not w.runs_on(), w.account()
        w.works(60)
        assert w.runs_on() == {"one"}, w.account()
        stop = w.vm().status.last_stop
        assert stop, w.account()
        assert stop.cause is StopCause.AGENT, w.account()


# --- worlds of chance ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "shows"),
    [
        (22, "A1: handed over during a start, the agent cut off before its report"),
        (259, "A1: handed over during a start, its agent dead"),
        (404, "the record that a change of the spec removes"),
        (495, "the record that a powerState which is taken away removes"),
        (385, "A2: an old vouching"),
        (1343, "A2: an old vouching, and a restart that is due"),
        (1103, "A6: another machine of this name takes the Lease"),
        (161, "A6: the same, and the other's start is on record"),
        (874, "A6: what the other machine of this name reports is taken for this one's"),
        (1145, "B2: a destroy for a restart that is believed while QEMU lives"),
        (981, "B2: a destroy by a stranger that is believed while QEMU lives"),
        (1073, "the QEMU that a restarted libvirtd has forgotten"),
        (473, "a migration with --undefinesource that the source has seen"),
    ],
)
def test_a_world_that_went_wrong_once(seed: int, shows: str) -> None:
    assert shows
    play(seed).check()


@pytest.mark.parametrize("fleet", [False, True])
@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + WORLDS, WORLDS_A_TEST))
def test_nothing_runs_twice(first: int, *, fleet: bool) -> None:
    last = min(first + WORLDS_A_TEST, FIRST_SEED + WORLDS)
    wrong = [seed for seed in range(first, last) if wrongs(play(seed, fleet=fleet))]
    for seed in wrong:  # the first is enough to be told in full
        world = play(seed, fleet=fleet)
        raise AssertionError(f"wrong seeds: {wrong}; seed {seed}: {wrongs(world)}\n{world.account()}")


def wrongs(world: World) -> list[str]:
    """What ran twice, and each start during a maintenance or of a VM of which the manager had told its host."""
    judged = [wrong for node in world.nodes.values() for wrong in node.judge.wrongs]
    forbidden = ("a start during a maintenance", "a start of what runs elsewhere", "an act under Hold")
    return world.ledger.wrongs() + [wrong for wrong in judged if any(rule in wrong for rule in forbidden)]


def test_worlds_of_chance_have_everything_in_them() -> None:
    """Else nothing in them could go wrong."""
    runs = [run for seed in range(40) for run in play(seed).ledger.runs]
    assert {run.by for run in runs} == set(By)
    assert sum(run.by is By.AGENT for run in runs) > 50
    assert any(run.lost_s for run in runs)
    assert {run.machine for run in runs if run.by is By.AGENT} >= {"one", "two", "new"}


# --- a report that does not show a run or a start on its node --------------------------------------------------------


@pytest.mark.parametrize("by_uuid", [True, False])
@pytest.mark.parametrize("shows", ["off", "starting", "nothing"])
def test_a_new_object_has_the_record_of_the_start_under_way(shows: str, *, by_uuid: bool) -> None:
    """The object is deleted and created again during the start, and then moved."""
    with world(TWO) as w:
        off_on_one(w)
        bound: dict[str, Any] = {"domain": {"uuid": str(w.guest("one").uuid)}} if by_uuid else {}
        w.patch(**bound)
        w.slow("one", 60, shows)
        w.patch(powerState="Running")
        w.works(5)
        w.api.delete(WEB)
        w.works(0.5)
        w.create(nodeName="node-a", powerState="Stopped", **bound)
        w.works(5)
        w.patch(nodeName="node-b", powerState="Running")
        w.works(90)
        is_left_alone(w, {"one"})


def test_a_report_without_an_observation_names_its_node() -> None:
    """The VM runs on a node whose libvirt does not answer when its object is created."""
    with world(TWO) as w:
        w.virsh("start", "one")
        w.lose_libvirt("one")
        w.create(nodeName="node-a", powerState="Running")
        w.works(20)
        two_leaves_it_alone(w, {"one"})


def test_the_second_object_of_a_domain_is_in_conflict_during_a_start_too() -> None:
    with world(TWO, "web", "web2") as w:
        off_on_one(w)
        w.create("web2", nodeName="node-a", powerState="Stopped", domain={"uuid": str(w.guest("one").uuid)})
        w.works(10)
        assert w.vm("web2").status.reason == Reason.DOMAIN_CONFLICT, w.account()
        w.slow("one", 30)
        w.patch(powerState="Running")
        w.works(3)
        w.nodes["one"].agent.queue.add(VmKey("default", "web2"))
        w.works(1)
        assert w.vm("web2").status.reason == Reason.DOMAIN_CONFLICT, w.account()
        w.patch("web2", nodeName="node-b", powerState="Running")
        w.works(60)
        w.check()
        assert w.runs_on() == {"one"}, w.account()


def off_on_one_and_not_taken_over_by_two(w: World) -> None:
    """The VM was given to node-b while the agent there had no libvirt."""
    off_on_one(w)
    w.lose_libvirt("two")
    w.works(5)
    w.patch(nodeName="node-b")
    w.works(20)


def test_a_detour_over_nodes_without_libvirt_does_not_make_a_report_certain() -> None:
    with world(TWO) as w:
        off_on_one_and_not_taken_over_by_two(w)
        w.lose_libvirt("one")
        w.patch(nodeName="node-a")
        w.works(20)
        w.virsh("start", "one")
        w.works(20)
        w.find_libvirt("two")
        two_leaves_it_alone(w, {"one"}, powerState="Running")


def test_a_detour_that_ends_at_a_dead_agent_does_not_make_a_report_certain() -> None:
    with world(TWO) as w:
        off_on_one_and_not_taken_over_by_two(w)
        w.agent_dies("one")
        w.patch(nodeName="node-a")
        w.virsh("start", "one")
        w.mark_unreachable()
        w.find_libvirt("two")
        two_leaves_it_alone(w, {"one"}, powerState="Running")


# --- an arrival that is older than the report ------------------------------------------------------------------------


def back_on_one_after_a_visit_to_two(w: World) -> None:
    """Two has the evidence of an arrival; its report of the arrival is older than the next run on one."""
    runs_on_one(w)
    w.migrate("one", "two")
    w.works(5)
    w.patch(nodeName="node-b")
    w.works(20)
    assert w.vm().status.node_name == "node-b", w.account()


def test_an_arrival_is_over_when_the_vm_has_left() -> None:
    with world(THREE) as w:
        back_on_one_after_a_visit_to_two(w)
        w.migrate("two", "one")
        w.works(5)
        w.patch(nodeName="node-a")
        w.works(20)
        w.restart_libvirtd("two")
        w.works(20)
        w.migrate("one", "three")
        w.works(20)
        two_leaves_it_alone(w, {"three"})


def test_an_arrival_on_the_way_through_is_over_when_the_vm_has_left() -> None:
    """The node never was that of the object, so its agent has reported nothing."""
    with world(THREE) as w:
        runs_on_one(w)
        w.migrate("one", "two")
        w.migrate("two", "three")
        w.restart_libvirtd("two")
        w.works(20)
        two_leaves_it_alone(w, {"three"})


def test_an_arrival_that_was_reported_says_nothing_about_a_later_report() -> None:
    with world(THREE) as w:
        back_on_one_after_a_visit_to_two(w)
        w.patch(powerState="Stopped")
        w.works(60)
        w.patch(nodeName="node-a", powerState="Running")
        w.virsh("start", "one")
        w.works(60)
        assert w.runs_on() == {"one"}, w.account()
        assert w.vm().status.node_name == "node-a", w.account()
        w.migrate("one", "three")
        w.works(20)
        two_leaves_it_alone(w, {"three"})


# --- a stop that could not be reported, and a change just before the call --------------------------------------------


def test_a_migration_after_a_stop_that_was_not_reported_is_a_migration() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        w.cut("one")
        w.works(5)
        w.goes_off("one")
        w.works(20)
        w.virsh("start", "one")
        w.works(20)
        w.migrate("one", "two")
        w.works(20)
        w.restart_libvirtd("one")
        w.works(20)
        w.join("one")
        w.works(90)
        w.check()
        assert w.vm().status.reason == Reason.MIGRATED_AWAY, w.account()
        assert w.runs_on() == {"two"}, w.account()


def test_a_start_and_a_migration_just_before_the_call_are_noticed() -> None:
    with world(TWO) as w:
        off_on_one(w)

        def meanwhile() -> None:
            w.virsh("start", "one")
            w.migrate("one", "two")

        w.nodes["one"].agent.meanwhile["after the report"] = meanwhile
        w.patch(powerState="Running")
        w.works(30)
        w.check()
        assert w.runs_on() == {"two"}, w.account()


# --- a domain that is gone, and comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_vm_that_left_and_is_defined_again_is_not_started(*, restart: bool, older: bool) -> None:
    """`virsh migrate --undefinesource`, as docs/operations.md says; then somebody defines it on the source again."""
    with world(TWO) as w:
        runs_on_one(w)
        if older:  # while it is another object's domain, its own object sees nothing of it
            uuid = str(w.guest("one").uuid)
            w.api.create(VmKey("default", "older"), {"nodeName": "node-a", "domain": {"uuid": uuid}})
        w.works(5)
        w.virsh("undefine", "two")
        w.virsh("undefine", "one")
        w.works(40)
        if restart:
            w.restart_libvirtd("one")
        w.migrate("one", "two")
        w.works(40)
        w.define("one")
        w.works(40)
        w.check()
        assert w.runs_on() == {"two"}, w.account()


def test_a_domain_that_runs_here_under_another_name_is_not_reported_off() -> None:
    """Undefined, and defined again with the same UUID and disks and another name. The spec has the old name."""
    with world(TWO) as w:
        runs_on_one(w)
        uuid = w.guest("one").uuid
        w.patch(powerState=None)
        w.works(1)
        w.goes_off("one")
        w.works(1)
        w.virsh("undefine", "one")
        w.works(2)
        assert w.vm().status.power_state is PowerState.ABSENT, w.account()
        w.nodes["one"].libvirtd.define("front", uuid=uuid)
        w.works(1)
        w.virsh("start", "one", "front")
        w.works(1)
        assert w.vm().status.power_state is PowerState.UNKNOWN, w.account()
        assert w.vm().status.reason == Reason.DOMAIN_NOT_FOUND, w.account()
        assert "is named 'front'" in w.vm().status.conditions[0].message, w.account()
        w.patch(nodeName="node-b", powerState="Running")
        w.works(60)
        assert w.vm().status.reason == Reason.HANDOVER_UNCONFIRMED, w.account()


def test_a_renamed_domain_is_not_reported_off_after_a_conflict() -> None:
    with world(TWO) as w:
        runs_on_one(w)
        guest = w.guest("one")
        w.patch(powerState="Stopped")
        w.works(5)
        guest.rename("front")
        w.works(5)
        w.patch(powerState="Running")
        w.works(5)
        assert w.vm().status.reason == Reason.IN_SYNC, w.account()
        older = VmKey("default", "older")
        w.api.create(older, {"nodeName": "node-a", "domain": {"uuid": str(guest.uuid)}})
        w.api.objects[older]["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
        w.works(5)
        w.api.delete(older)
        w.works(70)
        assert w.vm().status.power_state is PowerState.UNKNOWN, w.account()
        w.patch(nodeName="node-b", powerState="Running")
        w.works(60)
        assert w.vm().status.reason == Reason.HANDOVER_UNCONFIRMED, w.account()


# --- a lie of another node -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["Running", "Stopped"])
def test_a_report_of_another_node_leads_to_no_domain_that_the_spec_does_not_name(wanted: str) -> None:
    """The agent of node-a is taken over. It reports the UUID of a domain of node-b as that of its own VM."""
    with world(TWO, "web", "payroll") as w:
        off_on_one(w)
        w.agent_dies("one")
        w.virsh("start", "two", "payroll")
        w.works(5)
        payroll = w.guest("two", "payroll")
        runs = w.runs("payroll")
        status = w.api.status(WEB)
        status["domain"] |= {"uuid": str(payroll.uuid)}
        w.api.write_status(WEB, status)
        w.patch(nodeName="node-b", powerState=wanted, shutdown={"mode": "Force"})
        w.works(60)
        assert w.runs("payroll") == runs, w.account()
        assert w.runs_on("payroll") == {"two"}, w.account()
        assert w.vm().status.reason == Reason.DOMAIN_REPLACED, w.account()

"""Faults of memory: what was decided before, kept in something that an outage or somebody else overwrites.

Named after the fault. The property at the end is the rule: whatever comes between two looks, the decision is the one
without it, or a wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.api.codec import parse_status, render_status
from controller.api.conditions import READINESS, Readiness
from controller.api.virtualmachine import (
    DesiredPowerState,
    Hold,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    StopCause,
)
from controller.policy.view import Absent, Action, Domain, Evidence, Observation, Outcome, Phase, Result, Unreadable
from tests.policy.views import GUEST, PAUSED, RUNNING, STOPPED, T0, Vm, action, domain, done

DESTROYED = domain(Phase.STOPPED, reason="DESTROYED")
AWAY = Unreadable("connection reset")


def libvirt_is_away(vm: Vm, _seen: Observation) -> None:
    vm.look(AWAY)


def libvirt_is_away_for_long(vm: Vm, _seen: Observation) -> None:
    for _ in range(5):
        vm.look(AWAY, after_s=60)


def the_domain_is_locked(vm: Vm, _seen: Observation) -> None:
    vm.look(Unreadable("its lock is held", busy=True))


def the_agent_restarts(vm: Vm, _seen: Observation) -> None:
    vm.agent_restarts()


def the_agent_is_marked(vm: Vm, _seen: Observation) -> None:
    vm.is_marked()


def the_api_server_is_away(vm: Vm, seen: Observation) -> None:
    vm.look_unreported(seen)


def all_of_it(vm: Vm, seen: Observation) -> None:
    vm.look(AWAY)
    vm.agent_restarts()
    vm.is_marked()
    vm.look(AWAY)
    vm.look_unreported(seen)
    vm.is_marked()


def nothing(_vm: Vm, _seen: Observation) -> None:
    """For comparison."""


Outage = Callable[[Vm, Observation], None]
OUTAGES: list[Outage] = [nothing, libvirt_is_away, libvirt_is_away_for_long, the_domain_is_locked]
OUTAGES += [the_agent_restarts, the_agent_is_marked, the_api_server_is_away, all_of_it]
outages = pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)


# --- A3: the loss of a hold or of a settle time is no order ---------------------------------------------


@outages
@pytest.mark.parametrize("mode", ShutdownMode)
def test_a3_a_hold_that_goes_during_an_outage_is_followed_by_a_settle_time(outage: Outage, mode: ShutdownMode) -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),), shutdown=Shutdown(mode, 60))
    assert vm.look(Phase.RUNNING).reason is Reason.HELD
    outage(vm, domain(Phase.RUNNING))
    vm.annotate(holds=())
    outage(vm, domain(Phase.RUNNING))
    step = vm.look(Phase.RUNNING, after_s=60)
    assert (step.reason, step.action) == (Reason.SETTLING, None)
    assert [notice.reason for notice in step.notices] == ["HoldReleased"]
    assert action(vm.look(Phase.RUNNING, after_s=10)) in {Action.SHUTDOWN, Action.DESTROY}


@outages
def test_a3_an_outage_within_the_settle_time_after_a_hold_does_not_end_it(outage: Outage) -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),))
    vm.look(Phase.RUNNING)
    vm.annotate(holds=())
    assert vm.look(Phase.RUNNING, after_s=60).reason is Reason.SETTLING
    began_s = vm.at_s
    outage(vm, domain(Phase.RUNNING))
    step = vm.look(Phase.RUNNING, after_s=2)
    if vm.at_s - began_s < 10:
        assert (step.reason, step.action) == (Reason.SETTLING, None)
    assert action(vm.look(Phase.RUNNING, after_s=10)) is Action.SHUTDOWN


@outages
def test_a3_a_hold_on_a_stop_in_flight_is_followed_by_a_new_grace(outage: Outage) -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.annotate(holds=(Hold("ann", ""),))
    assert vm.look(Phase.RUNNING, after_s=59, outcome=done(Action.SHUTDOWN)).reason is Reason.HELD
    outage(vm, domain(Phase.RUNNING))
    vm.annotate(holds=())
    assert vm.look(Phase.RUNNING, after_s=5).reason is Reason.SETTLING
    step = vm.look(Phase.RUNNING, after_s=10)
    assert action(step) is Action.SHUTDOWN
    assert step.status.operation
    assert step.status.operation.deadline
    assert (step.status.operation.deadline - step.status.operation.start_time).total_seconds() == 60


def test_a3_a_hold_whose_looks_could_not_be_reported_is_remembered() -> None:
    """The API server took no report while it held, and tells that it is gone when it answers again."""
    vm = Vm(STOPPED).in_sync()
    vm.annotate(holds=(Hold("ann", ""),))
    for _ in range(3):
        assert vm.look_unreported(Phase.RUNNING, after_s=10).reason is Reason.HELD
    vm.annotate(holds=())
    assert vm.look(Phase.RUNNING, after_s=10).reason is Reason.SETTLING


def test_a_hold_that_held_nothing_is_forgotten() -> None:
    vm = Vm(holds=(Hold("ann", ""),)).in_sync()
    vm.annotate(holds=())
    vm.change(desired=STOPPED)
    assert action(vm.look(Phase.RUNNING)) is Action.SHUTDOWN


def test_a_hold_is_over_once_it_was_told_to_be() -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),))
    vm.look(Phase.RUNNING)
    vm.annotate(holds=())
    assert vm.look(Phase.RUNNING).notices
    assert not vm.look(Phase.RUNNING, after_s=5).notices
    assert action(vm.look(Phase.RUNNING, after_s=6)) is Action.SHUTDOWN


@pytest.mark.parametrize("reason", [reason for reason in Reason if READINESS[reason] is not Readiness.UNKNOWN])
@pytest.mark.parametrize("mark", [Reason.AGENT_UNREACHABLE, Reason.LIBVIRT_UNREACHABLE])
def test_memory_survives_a_mark(reason: Reason, mark: Reason) -> None:
    """Whatever was decided last: the mark overwrites Ready, and a new process builds on decidedReason."""
    for desired, seen in [(RUNNING, DESTROYED), (STOPPED, domain(Phase.RUNNING)), (PAUSED, domain(Phase.RUNNING))]:
        told = []
        for marked in (False, True):
            vm = Vm(desired).in_sync()
            vm.look(seen, after_s=60)
            vm.edit(decided_reason=reason, desired=desired)
            vm.edit(conditions=tuple(replace(c, reason=reason, status="False") for c in vm.vm.status.conditions[:1]))
            vm.agent_restarts()
            if marked:
                vm.is_marked(mark)
            step = vm.look(seen, after_s=60)
            told.append((step.reason, action(step), [notice.reason for notice in step.notices]))
        assert told[0] == told[1], desired


@outages
def test_a_domain_that_is_not_there_is_one_event_whatever_comes_between(outage: Outage) -> None:
    vm = Vm().in_sync()
    assert [notice.reason for notice in vm.look(Absent()).notices] == ["DomainNotFound"]
    outage(vm, Absent())
    assert not vm.look(Absent()).notices


# --- statuses of the former version ----------------------------------------------------------------------


def upgraded(vm: Vm) -> Vm:
    """The status is as the former version wrote it, and the process is new."""
    raw = render_status(vm.vm.status)
    for field in ("decidedReason", "decidedTransitionTime", "hostUUID", "runTransitionTime"):
        raw.pop(field, None)
    if operation := raw.get("operation"):
        operation.pop("attempt", None)
        if operation["type"] == "Start":
            del raw["operation"]
    vm.vm = replace(vm.vm, status=parse_status(raw))
    vm.agent_restarts()
    return vm


def test_without_decided_reason_the_reason_of_ready_is_the_memory() -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),))
    assert vm.look(Phase.RUNNING).reason is Reason.HELD
    upgraded(vm).annotate(holds=())
    assert vm.look(Phase.RUNNING, after_s=60).reason is Reason.SETTLING


@pytest.mark.parametrize("mark", [Reason.AGENT_UNREACHABLE, Reason.LIBVIRT_UNREACHABLE])
def test_without_decided_reason_and_after_an_outage_there_is_a_settle_time(mark: Reason) -> None:
    vm = Vm(STOPPED, holds=(Hold("ann", ""),))
    vm.look(Phase.RUNNING)
    upgraded(vm).is_marked(mark)
    vm.annotate(holds=())
    vm.look(AWAY, after_s=60)
    assert vm.look(Phase.RUNNING, after_s=60).reason is Reason.SETTLING
    assert action(vm.look(Phase.RUNNING, after_s=10)) is Action.SHUTDOWN


@pytest.mark.parametrize("mark", [Reason.AGENT_UNREACHABLE, Reason.LIBVIRT_UNREACHABLE])
def test_without_decided_reason_and_after_an_outage_a_stop_is_judged_after_a_settle_time(mark: Reason) -> None:
    """The look that finds no decision to build on accepts nothing."""
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(DESTROYED)
    upgraded(vm).is_marked(mark)
    assert vm.look(DESTROYED, after_s=60).reason is Reason.SETTLING
    assert vm.look(DESTROYED, after_s=9).status.completion_time is None
    assert vm.look(DESTROYED, after_s=2).reason is Reason.COMPLETED


def test_without_run_transition_time_it_is_filled_in_with_the_next_change_and_not_before() -> None:
    vm = upgraded(Vm().in_sync())
    assert vm.look(Phase.RUNNING).status.run_transition_time is None
    assert vm.look(DESTROYED, after_s=60).status.run_transition_time


def test_without_host_uuid_it_is_the_same_host_and_filled_in_at_the_first_look() -> None:
    vm = upgraded(Vm().in_sync())
    vm.node = replace(vm.node, host_uuid=domain(Phase.RUNNING).uuid, boot_id="boot-2")
    step = vm.look(DESTROYED)
    assert step.status.host_uuid == vm.node.host_uuid
    assert step.status.last_stop
    assert step.status.last_stop.cause is StopCause.NODE_REBOOT


def test_without_attempt_a_restart_past_its_stop_on_another_node_is_unconfirmed() -> None:
    """The former version did not tell that it was about to start it."""
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    vm.look(Phase.RUNNING, after_s=2)
    vm.look(Phase.STOPPED)
    upgraded(vm).moves_to("node-b")
    assert vm.look(DESTROYED).reason is Reason.HANDOVER_UNCONFIRMED


def test_without_attempt_a_restart_here_goes_on() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    vm.look(Phase.RUNNING, after_s=2)
    vm.look(Phase.STOPPED)
    upgraded(vm)
    assert vm.look(DESTROYED).reason is Reason.HYPERVISOR_BUSY  # it has not sent that stop
    step = vm.look(DESTROYED, after_s=10)
    assert action(step) is Action.START
    assert step.status.operation
    assert step.status.operation.attempt == 1


def test_a_start_of_the_former_version_is_not_on_record_and_is_done_once_more_at_most() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    upgraded(vm)
    assert vm.vm.status.operation is None
    assert action(vm.look(Phase.STOPPED)) is Action.START


# --- 8.3, A13: what could not be reported ----------------------------------------------------------------


def test_8_3_a_look_that_sees_nothing_does_not_lose_a_stop_that_was_not_reported() -> None:
    vm = Vm().in_sync()
    stop = vm.look_unreported(domain(Phase.CRASHED_OFF), events={Evidence.STOPPED_FAILED}).status.last_stop
    assert stop
    vm.look(AWAY, after_s=5)
    assert vm.look(domain(Phase.RUNNING, 2), after_s=60).status.last_stop == stop
    vm.look(domain(Phase.RUNNING, 2))
    assert vm.memory.unreported_stop is None


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (Evidence.STOPPED_FAILED, Evidence.SHUTDOWN_GUEST, Reason.COMPLETED),
        (Evidence.SHUTDOWN_GUEST, Evidence.STOPPED_FAILED, Reason.STARTING),
    ],
)
def test_the_last_of_two_stops_that_were_not_reported_counts(first: Evidence, second: Evidence, reason: Reason) -> None:
    vm = Vm(RUNNING, restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    off = {Evidence.STOPPED_FAILED: domain(Phase.CRASHED_OFF), Evidence.SHUTDOWN_GUEST: domain(Phase.STOPPED)}
    vm.look_unreported(off[first], events={first})
    vm.look_unreported(domain(Phase.RUNNING, 2), after_s=60)
    unreported = vm.look_unreported(off[second], events={second}, after_s=600).status.last_stop
    step = vm.look(off[second], events={second}, after_s=60)
    assert step.status.last_stop == unreported, "with the time of the first pass that found it"
    assert step.reason is reason


def test_8_3_nor_does_a_handover_that_is_not_confirmed() -> None:
    vm = Vm().in_sync()
    stop = vm.look(domain(Phase.CRASHED_OFF), events={Evidence.STOPPED_FAILED}).status.last_stop
    vm.moves_to("node-b")
    vm.edit(power_state=Vm().look(Phase.RUNNING).status.power_state, libvirt_state="RUNNING")
    vm.look(DESTROYED)
    vm.memory = replace(vm.memory, unreported_stop=stop)
    assert vm.look(DESTROYED).reason is Reason.HANDOVER_UNCONFIRMED
    assert vm.memory.unreported_stop == stop


def test_the_outcome_of_a_start_is_not_lost_to_a_look_that_sees_nothing() -> None:
    """It was refused, and the libvirtd died before the look that would have told: it is not called again at once."""
    vm = Vm(STOPPED).in_sync()
    vm.change(desired=RUNNING)
    vm.look(Phase.STOPPED)
    vm.look(AWAY, outcome=Outcome(Action.START, Result.REFUSED, "no such disk"))
    step = vm.look(Phase.STOPPED, after_s=1)
    assert (step.reason, step.action, step.status.operation) == (Reason.START_FAILED, None, None)
    assert "no such disk" in step.message


def test_a_new_process_does_not_take_what_was_reconciled_before_for_the_settle_time() -> None:
    """Reconciling has been True since the domain was busy."""
    vm = Vm(STOPPED).in_sync()
    the_domain_is_locked(vm, AWAY)
    assert vm.look(Phase.RUNNING, after_s=11).reason is Reason.SETTLING
    vm.agent_restarts()
    assert vm.look(Phase.RUNNING).reason is Reason.SETTLING


def test_nor_the_start_that_a_dead_agent_left_over() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.look(DESTROYED)
    vm.change(desired=RUNNING)
    vm.look(DESTROYED)
    vm.agent_restarts()
    assert vm.look(Phase.STOPPED, after_s=60).reason is Reason.SETTLING
    vm.agent_restarts()
    assert vm.look(Phase.STOPPED).reason is Reason.SETTLING


# --- the property ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the world and the user have done before this look, and how long it took."""

    after_s: float
    seen: Observation | None
    """None: as before."""
    change: tuple[tuple[str, object], ...] = ()
    outage: int = 0
    """Which outage comes just before, in the disturbed run."""


@dataclass(frozen=True)
class Done:
    """An act, and what was wanted then."""

    at_s: float
    action: Action
    desired: DesiredPowerState | None
    owed: bool
    """The user has set spec.powerState just before; or it goes on with a stop or a start of the agent's own."""


POLITE = {Action.SHUTDOWN, Action.RESUME, Action.WAKE}
"""Steps of a stop that take nothing from the guest."""
ON = [domain(Phase.RUNNING, 2), domain(Phase.PAUSED, 2), domain(Phase.PAUSED_IO_ERROR, 2), domain(Phase.SUSPENDED, 2)]
OFF = [DESTROYED, domain(Phase.STOPPED), domain(Phase.SAVED), domain(Phase.STOPPED, reason="MIGRATED")]
CHANGES: list[tuple[tuple[str, object], ...]] = [
    (),
    (("holds", (Hold("ann", ""),)),),
    (("holds", ()),),
    (("desired", RUNNING),),
    (("desired", STOPPED),),
    (("desired", PAUSED),),
    (("desired", None),),
    (("shutdown", Shutdown(ShutdownMode.FORCE, 60)),),
]
looks = st.builds(
    Look,
    st.sampled_from([0.1, 3.0, 11.0, 40.0]),
    st.sampled_from([None, None, None, *ON, *OFF, Absent()]),
    st.sampled_from([*CHANGES, (), (), ()]),
    st.integers(0, len(OUTAGES) - 1),
)


def lasts_s(outage: Outage) -> float:
    vm = Vm().in_sync()
    began_s = vm.at_s
    outage(vm, domain(Phase.RUNNING))
    return vm.at_s - began_s


LAST_S = [lasts_s(outage) for outage in OUTAGES]


def is_off(seen: Observation) -> bool:
    return isinstance(seen, Domain) and seen.phase.off


def run(desired: DesiredPowerState, policy: RestartPolicy, story: list[Look], *, disturbed: bool) -> list[Done]:
    """What the agent does, and when: with the outages, or with as much time and no look in their place.

    It is never answered: what it does changes nothing that it sees. There is no backoff, as a look that cannot be
    reported does nothing that could fail.
    """
    vm = Vm(desired, restart_policy=policy, shutdown=Shutdown(grace_s=60)).in_sync()
    vm.waits = replace(vm.waits, backoff_first_s=0.0, backoff_max_s=0.0)
    seen: Observation = domain({RUNNING: Phase.RUNNING, PAUSED: Phase.PAUSED}.get(desired, Phase.STOPPED), 2)
    acts: list[Done] = []
    starting = False
    for look in story:
        operation = vm.vm.status.operation
        on_record = operation is not None and operation.starts
        starting = on_record or (starting and not is_off(seen))
        next_s = vm.at_s + max(look.after_s, LAST_S[look.outage])
        if look.seen and not (is_off(seen) and is_off(look.seen)):  # what is off stays as it is
            seen = look.seen
        for name, value in look.change:
            (vm.annotate if name == "holds" else vm.change)(**{name: value})
        steps = []
        if disturbed:
            OUTAGES[look.outage](vm, seen)
        elif OUTAGES[look.outage] in {the_api_server_is_away, all_of_it}:  # these look, and cannot report it
            steps.append(vm.look(seen, after_s=LAST_S[look.outage], events=GUEST))
        steps.append(vm.look(seen, after_s=max(next_s - vm.at_s, 0.0), events=GUEST))
        ordered = any(name == "desired" for name, _ in look.change)
        for step in steps:
            own = step.status.last_stop is not None and step.status.last_stop.cause is StopCause.AGENT
            if step.action:
                vm.memory = replace(vm.memory, start_called=step.action.kind.starts)
                acts.append(
                    Done(
                        vm.at_s,
                        step.action.kind,
                        vm.vm.desired,
                        ordered or starting or (own and step.action.kind.starts),
                    )
                )
    return acts


HELD = Look(0.1, domain(Phase.RUNNING, 2), (("holds", (Hold("ann", ""),)),))
RELEASED = (("holds", ()),)


@example(STOPPED, RestartPolicy.ALWAYS, [HELD, Look(40.0, None, RELEASED, OUTAGES.index(libvirt_is_away))])
@example(STOPPED, RestartPolicy.ALWAYS, [HELD, Look(40.0, None, RELEASED), Look(3.0, None, (), 1)])
@example(STOPPED, RestartPolicy.ALWAYS, [HELD, Look(40.0, None, RELEASED, OUTAGES.index(all_of_it))])
@settings(max_examples=1000, derandomize=True)
@given(
    st.sampled_from([RUNNING, STOPPED, PAUSED]),
    st.sampled_from(RestartPolicy),
    st.lists(looks, min_size=1, max_size=7),
)
def test_an_outage_leads_to_the_same_act_or_to_a_wait(
    desired: DesiredPowerState, policy: RestartPolicy, story: list[Look]
) -> None:
    """An act that the undisturbed run does not do, neither then nor before, would be an order that nobody gave.

    A stop that is begun anew is polite again: that is a wait.
    """
    plain = run(desired, policy, story, disturbed=False)
    for act in run(desired, policy, story, disturbed=True):
        allowed = {act.action, *POLITE, Action.DESTROY} if act.action in POLITE else {act.action}
        then = [other for other in plain if other.at_s <= act.at_s + 0.01 and other.desired is act.desired]
        assert act.owed or allowed & {other.action for other in then}, (act, plain)

"""The policy, look by look, on a clock that only the tests move."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from controller.api.clock import Now
from controller.api.codec import render_status, status_patch
from controller.api.conditions import READINESS
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import (
    Condition,
    DesiredPowerState,
    DomainRecord,
    Hold,
    LastStop,
    Operation,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    Status,
    StopCause,
    VmKey,
)
from controller.policy.assess import assess
from controller.policy.decide import ROWS, VETOES, row_of
from controller.policy.gates import GATES
from controller.policy.view import (
    POST_COPY_FAILED,
    Absent,
    Action,
    Conflict,
    Evidence,
    Facts,
    Node,
    Observation,
    Outcome,
    Phase,
    Replaced,
    Result,
    Unreadable,
    View,
)
from tests.policy.views import (
    CRASH,
    GUEST,
    PAUSED,
    RUNNING,
    STOPPED,
    T0,
    UID,
    WAITS,
    WORDS,
    Vm,
    action,
    domain,
    done,
    handed_over,
)

DOCS = Path(__file__).parents[2] / "docs" / "decisions.md"

# --- the table is whole ----------------------------------------------------------------------------------

REASONS = [Reason.PENDING, Reason.IN_SYNC, Reason.SETTLING, Reason.STARTING, Reason.SHUTTING_DOWN, Reason.HELD]
OPERATIONS = [None, *OperationType]
HISTORIES = [PowerState.UNKNOWN, PowerState.RUNNING, PowerState.STOPPED, PowerState.SAVED]


FLEET: list[tuple[Maintenance | None, tuple[RunsElsewhere, ...]]] = [
    (None, ()),
    (Maintenance(MaintenanceMode.HOLD, "new RAM"), ()),
    (Maintenance(MaintenanceMode.SHUTDOWN, "new RAM"), ()),
    (None, (RunsElsewhere(UID, "node-b", T0),)),
]
"""What is known of the host and of other hosts."""


@pytest.mark.parametrize("desired", [None, *DesiredPowerState])
@pytest.mark.parametrize(("maintenance", "elsewhere"), FLEET, ids=["plain", "hold", "shutdown", "elsewhere"])
def test_each_look_meets_the_first_veto_that_fits_or_exactly_one_row(
    desired: DesiredPowerState | None, maintenance: Maintenance | None, elsewhere: tuple[RunsElsewhere, ...]
) -> None:
    looks, plain = 0, (maintenance, elsewhere) == FLEET[0]
    reasons = REASONS if plain else [Reason.IN_SYNC, Reason.SHUTTING_DOWN, Reason.HELD]
    histories = HISTORIES if plain else [PowerState.RUNNING, PowerState.STOPPED]
    combinations = itertools.product(
        Phase, RestartPolicy, [None, *StopCause], OPERATIONS, [False, True], reasons, histories
    )
    for phase, policy, cause, operation, restart, reason, before in combinations:
        status = Status(
            observed_generation=1,
            node_name="node-a",
            node_boot_id="boot-1",
            desired=desired,
            power_state=before,
            power_state_transition_time=T0,
            domain=DomainRecord("web", UID, "web", 1),
            last_stop=LastStop(cause, T0, "it stopped") if cause else None,
            operation=Operation(operation, T0, T0 + timedelta(seconds=180), 1) if operation else None,
            conditions=(Condition("Ready", "False", reason, "so it was", T0, 1),),
        )
        vm = replace(
            Vm(desired).vm,
            restart_policy=policy,
            status=status,
            restart_request=T0 if restart else None,
        )
        node = Node("node-a", "boot-1", maintenance=maintenance)
        view = View(vm, domain(phase), node, Now(T0 + timedelta(seconds=60), 60.0), runs_elsewhere=elsewhere)
        situation = assess(view, WAITS)
        vetoes = [row for row in VETOES if row.applies(situation)]
        rows = [row for row in ROWS if row.applies(situation)]
        assert vetoes or len(rows) == 1, (desired, phase, policy, cause, operation, restart, reason, before)
        assert row_of(situation) is (vetoes or rows)[0]
        looks += 1
    assert looks > 10_000


def documented(first_column: str) -> list[str]:
    """The first cell of each line of the tables whose first column has this heading."""
    names, inside = [], False
    for line in DOCS.read_text().partition("## The table")[2].splitlines():
        cell = line.strip("|").split("|")[0].strip() if line.startswith("|") else ""
        inside = cell == first_column or (inside and bool(cell))
        if inside and cell.startswith("`"):
            names.append(cell.strip("`"))
    return names


def test_the_table_in_the_docs_is_the_one_in_the_code() -> None:
    assert documented("row") == [row.name for row in (*VETOES, *ROWS)]


def test_each_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in (*VETOES, *ROWS)]
    assert len(names) == len(set(names))


def test_the_gates_in_the_docs_are_those_in_the_code() -> None:
    assert documented("gate") == [gate.__name__ for gate in GATES]


def test_every_reason_has_a_tone() -> None:
    assert set(READINESS) == set(Reason)


# --- what never happens ----------------------------------------------------------------------------------

SIGHTS: list[Observation] = [
    Unreadable("connection reset"),
    Absent(),
    Replaced(UUID(int=9), "web"),
    Conflict(VmKey("default", "older"), UID),
    domain(Phase.UNKNOWN),
]


@pytest.mark.parametrize("desired", [None, *DesiredPowerState])
@pytest.mark.parametrize("seen", SIGHTS, ids=lambda seen: type(seen).__name__)
@pytest.mark.parametrize("before", [Phase.RUNNING, Phase.STOPPED])
def test_nothing_is_done_on_what_is_not_known(
    desired: DesiredPowerState | None, seen: Observation, before: Phase
) -> None:
    vm = Vm(desired)
    vm.look(before)
    for after_s in (0.1, 60, 3600):
        assert vm.look(seen, after_s=after_s).action is None


@pytest.mark.parametrize("desired", [None, *DesiredPowerState])
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", ["held", "observe-only", "blocked", "crowded"])
def test_nothing_is_done_while_something_forbids_it(desired: DesiredPowerState | None, phase: Phase, kind: str) -> None:
    vm = Vm(desired)
    vm.node = Node(
        "node-a", "boot-1", observe_only=kind == "observe-only", blocked="not now" if kind == "blocked" else ""
    )
    if kind == "held":
        vm.annotate(holds=(Hold("ann", "backup"),))
    for after_s in (0.1, 3600, 3600):
        assert vm.look(phase, after_s=after_s, crowded=kind == "crowded").action is None


def test_libvirt_away_keeps_the_last_power_state() -> None:
    vm = Vm().in_sync()
    step = vm.look(Unreadable("connection reset"))
    assert step.reason is Reason.LIBVIRT_UNREACHABLE
    assert step.status.power_state is PowerState.RUNNING


@pytest.mark.parametrize("desired", [None, *DesiredPowerState])
@pytest.mark.parametrize("phase", Phase)
def test_a_second_look_at_the_same_world_writes_nothing(desired: DesiredPowerState | None, phase: Phase) -> None:
    vm = Vm(desired, shutdown=Shutdown(ShutdownMode.GRACEFUL, 60))
    first = vm.look(phase, after_s=0.1)
    if first.action:
        vm.look(phase, outcome=done(first.action.kind))
    before = render_status(vm.vm.status)
    step = vm.look(phase, after_s=0.01, call=first.action.kind if first.action else None)
    if step.reason == first.reason and first.action is None:
        assert status_patch(before, step.status) is None


# --- the rows --------------------------------------------------------------------------------------------

SPEC_CHANGES = [
    (RUNNING, Phase.STOPPED, Action.START, Reason.STARTING),
    (RUNNING, Phase.SAVED, Action.START, Reason.STARTING),
    (RUNNING, Phase.CRASHED_OFF, Action.START, Reason.STARTING),
    (RUNNING, Phase.PAUSED, Action.RESUME, Reason.RESUMING),
    (RUNNING, Phase.PAUSED_IO_ERROR, Action.RESUME, Reason.PAUSED_BY_IO_ERROR),
    (RUNNING, Phase.PAUSED_BUSY, None, Reason.HYPERVISOR_BUSY),
    (RUNNING, Phase.PAUSED_WATCHDOG, None, Reason.PAUSED_BY_WATCHDOG),
    (RUNNING, Phase.POST_COPY_FAILED, None, Reason.POST_COPY_FAILED),
    (RUNNING, Phase.POST_COPY_FAILED_RUNNING, None, Reason.POST_COPY_FAILED),
    (RUNNING, Phase.CRASHED_KEPT, None, Reason.CRASHED_PRESERVED),
    (RUNNING, Phase.SUSPENDED, Action.WAKE, Reason.WAKING),
    (RUNNING, Phase.STARTING, None, Reason.STARTING),
    (RUNNING, Phase.SHUTTING_DOWN, None, Reason.SHUTTING_DOWN),
    (RUNNING, Phase.RUNNING, None, Reason.IN_SYNC),
    (STOPPED, Phase.RUNNING, Action.SHUTDOWN, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.PAUSED, Action.RESUME, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.SUSPENDED, Action.WAKE, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.PAUSED_IO_ERROR, None, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.CRASHED_KEPT, None, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.SHUTTING_DOWN, None, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.STARTING, None, Reason.SHUTTING_DOWN),
    (STOPPED, Phase.POST_COPY_FAILED, None, Reason.POST_COPY_FAILED),
    (STOPPED, Phase.POST_COPY_FAILED_RUNNING, None, Reason.POST_COPY_FAILED),
    (STOPPED, Phase.STOPPED, None, Reason.IN_SYNC),
    (STOPPED, Phase.SAVED, None, Reason.IN_SYNC),
    (STOPPED, Phase.CRASHED_OFF, None, Reason.IN_SYNC),
    (PAUSED, Phase.RUNNING, Action.SUSPEND, Reason.PAUSING),
    (PAUSED, Phase.STOPPED, Action.START_PAUSED, Reason.STARTING),
    (PAUSED, Phase.PAUSED, None, Reason.IN_SYNC),
    (PAUSED, Phase.PAUSED_IO_ERROR, None, Reason.IN_SYNC),
    (PAUSED, Phase.SUSPENDED, None, Reason.SUSPENDED_BY_GUEST),
    (PAUSED, Phase.POST_COPY_FAILED, None, Reason.POST_COPY_FAILED),
    (PAUSED, Phase.POST_COPY_FAILED_RUNNING, None, Reason.POST_COPY_FAILED),
    (None, Phase.STOPPED, None, Reason.OBSERVED),
    (None, Phase.CRASHED_KEPT, None, Reason.OBSERVED),
]


@pytest.mark.parametrize(("desired", "phase", "act", "reason"), SPEC_CHANGES)
def test_a_change_of_the_spec_is_acted_on_at_once(
    desired: DesiredPowerState | None, phase: Phase, act: Action | None, reason: Reason
) -> None:
    step = Vm(desired).look(phase)
    assert (action(step), step.reason) == (act, reason)


@pytest.mark.parametrize("mode", ShutdownMode)
@pytest.mark.parametrize("phase", sorted(POST_COPY_FAILED, key=str))
def test_no_copy_of_a_failed_post_copy_migration_is_touched_and_each_is_reported_as_it_is(
    phase: Phase, mode: ShutdownMode
) -> None:
    vm = Vm(shutdown=Shutdown(mode, 60)).in_sync()
    for change in ({}, {"restart_request": T0}, {"desired": PAUSED}, {"desired": STOPPED}):
        vm.change(**change)
        for after_s in (0.1, 1000):
            step = vm.look(phase, after_s=after_s)
            assert (action(step), str(step.status.power_state).upper()) == (None, WORDS[phase][0])
    assert step.reason is Reason.POST_COPY_FAILED


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.on and phase not in POST_COPY_FAILED])
def test_mode_force_destroys_whatever_is_on(phase: Phase) -> None:
    step = Vm(STOPPED, shutdown=Shutdown(ShutdownMode.FORCE)).look(phase)
    if phase is Phase.PAUSED_BUSY:
        assert (action(step), step.reason) == (None, Reason.HYPERVISOR_BUSY)
    else:
        assert action(step) is Action.DESTROY
        assert step.status.operation


# --- causes and the restart policy -----------------------------------------------------------------------

POLICIES = [
    (GUEST, Phase.STOPPED, "SHUTDOWN", RestartPolicy.ALWAYS, StopCause.GUEST, Reason.STARTING),
    (GUEST, Phase.STOPPED, "SHUTDOWN", RestartPolicy.ON_FAILURE, StopCause.GUEST, Reason.COMPLETED),
    (GUEST, Phase.STOPPED, "SHUTDOWN", RestartPolicy.NEVER, StopCause.GUEST, Reason.COMPLETED),
    (CRASH, Phase.CRASHED_OFF, "CRASHED", RestartPolicy.ALWAYS, StopCause.CRASH, Reason.STARTING),
    (CRASH, Phase.CRASHED_OFF, "CRASHED", RestartPolicy.ON_FAILURE, StopCause.CRASH, Reason.STARTING),
    (CRASH, Phase.CRASHED_OFF, "CRASHED", RestartPolicy.NEVER, StopCause.CRASH, Reason.FAILED),
    (set(), Phase.STOPPED, "DESTROYED", RestartPolicy.ON_FAILURE, StopCause.EXTERNAL, Reason.STARTING),
    (set(), Phase.STOPPED, "DESTROYED", RestartPolicy.NEVER, StopCause.EXTERNAL, Reason.COMPLETED),
    (set(), Phase.CRASHED_OFF, "CRASHED", RestartPolicy.NEVER, StopCause.UNKNOWN, Reason.COMPLETED),
    (set(), Phase.STOPPED, "MIGRATED", RestartPolicy.ALWAYS, StopCause.MIGRATED, Reason.MIGRATED_AWAY),
    (set(), Phase.STOPPED, "SAVED", RestartPolicy.ALWAYS, StopCause.SAVED, Reason.SAVED_ELSEWHERE),
]


@pytest.mark.parametrize(("events", "phase", "word", "policy", "cause", "answer"), POLICIES)
def test_the_restart_policy_answers_a_stop_by_its_cause(
    events: set[Evidence], phase: Phase, word: str, policy: RestartPolicy, cause: StopCause, answer: Reason
) -> None:
    vm = Vm(restart_policy=policy).in_sync()
    off = domain(phase, reason=word)
    first = vm.look(off, after_s=60, events=events)
    assert first.status.last_stop
    assert first.status.last_stop.cause is cause
    settled = first if first.action else vm.look(off, after_s=10, events=events)
    assert settled.reason is answer
    assert (action(settled) is Action.START) == (answer is Reason.STARTING)
    assert settled.status.restart_count == (answer is Reason.STARTING)
    if answer in {Reason.COMPLETED, Reason.FAILED}:
        assert vm.look(off, after_s=3600).reason is answer


def test_the_answer_to_a_crash_does_not_settle_but_a_stop_does() -> None:
    crashed = Vm().in_sync()
    assert action(crashed.look(Phase.CRASHED_OFF, events=CRASH)) is Action.START
    stopped = Vm().in_sync()
    first = stopped.look(Phase.STOPPED, events=GUEST)
    assert first.reason is Reason.SETTLING
    assert first.recheck_s == pytest.approx(10)
    assert stopped.look(Phase.STOPPED, after_s=9.8, events=GUEST).action is None
    assert action(stopped.look(Phase.STOPPED, after_s=0.3, events=GUEST)) is Action.START


def test_a_stop_settles_though_its_shutdown_was_seen_passing_by() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.SHUTTING_DOWN, events=GUEST).reason is Reason.SHUTTING_DOWN
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.SETTLING


@pytest.mark.parametrize("fraction_s", [0.0, 0.4, 0.95])
def test_a_settle_time_is_not_shortened_by_the_whole_seconds_of_the_status(fraction_s: float) -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.PAUSED, after_s=60 + fraction_s).recheck_s == pytest.approx(900)


def test_better_evidence_replaces_an_unknown_cause() -> None:
    vm = Vm().in_sync()
    first = vm.look(Phase.CRASHED_OFF)
    assert first.status.last_stop
    assert first.status.last_stop.cause is StopCause.UNKNOWN
    second = vm.look(Phase.CRASHED_OFF, events=CRASH)
    assert second.status.last_stop
    assert second.status.last_stop.cause is StopCause.CRASH


def test_a_stop_that_the_agent_recorded_is_its_own_and_has_no_event_of_its_own() -> None:
    vm = Vm().in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    off = vm.look(Phase.STOPPED, events=GUEST)
    assert off.status.last_stop
    assert off.status.last_stop.cause is StopCause.AGENT
    assert off.notices == ()
    assert off.status.operation is None


def test_a_restarted_libvirtd_does_not_make_the_report_forget_the_reason() -> None:
    vm = Vm(STOPPED)
    vm.look(domain(Phase.STOPPED, reason="DESTROYED"))
    step = vm.look(domain(Phase.STOPPED, reason="UNKNOWN"))
    assert step.status.libvirt_reason == "DESTROYED"


# --- stories ---------------------------------------------------------------------------------------------


def test_crash_loop() -> None:
    vm = Vm().in_sync()
    delays = []
    for number in range(2, 12):
        off = vm.look(Phase.CRASHED_OFF, events=CRASH, after_s=0.5)
        if off.action is None:
            assert off.reason is Reason.CRASH_LOOP_BACK_OFF
            assert off.recheck_s is not None
            delays.append(round(off.recheck_s))
            off = vm.look(Phase.CRASHED_OFF, events=CRASH, after_s=off.recheck_s)
        assert action(off) is Action.START
        vm.look(domain(Phase.RUNNING, number), after_s=0.5, outcome=done(Action.START))
    # Each wait counts from the start before it, one second ago, and is told in whole seconds, rounded up.
    assert all(
        wanted - 1 <= delay <= wanted
        for delay, wanted in zip(delays, [10, 20, 40, 80, 160, 300, 300, 300, 300], strict=True)
    )
    assert vm.vm.status.restart_count == 10
    assert vm.look(domain(Phase.RUNNING, 11), after_s=590).status.backoff
    forgotten = vm.look(domain(Phase.RUNNING, 11), after_s=11)
    assert forgotten.status.backoff is None


def test_backup_pause() -> None:
    vm = Vm().in_sync()
    assert vm.look(Phase.PAUSED).reason is Reason.SETTLING
    assert vm.look(Phase.PAUSED, after_s=20).action is None
    back = vm.look(Phase.RUNNING)
    assert (back.reason, back.action) == (Reason.IN_SYNC, None)


def test_a_pause_is_ended_after_a_quarter_of_an_hour() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.PAUSED)
    assert vm.look(Phase.PAUSED, after_s=899).action is None
    assert action(vm.look(Phase.PAUSED, after_s=1.1)) is Action.RESUME


def test_stale_event() -> None:
    vm = Vm().in_sync()
    step = vm.look(Phase.RUNNING, events=CRASH | GUEST)
    assert (step.reason, step.action, step.status.last_stop) == (Reason.IN_SYNC, None, None)


def stop_ignored(vm: Vm) -> list[tuple[float, Action]]:
    """Let a guest that obeys nothing be stopped; what was done, and when."""
    acts: list[tuple[float, Action]] = []
    began_s, outcome = vm.at_s, None
    while vm.at_s - began_s < 300 and (not acts or acts[-1][1] is not Action.DESTROY):
        step = vm.look(Phase.RUNNING, after_s=1, outcome=outcome)
        outcome = done(step.action.kind) if step.action else None
        if step.action:
            acts.append((vm.at_s - began_s, step.action.kind))
    return acts


def test_stop_ignored() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    acts = stop_ignored(vm)
    assert [act for _, act in acts[:-1]] == [Action.SHUTDOWN] * (len(acts) - 1)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(acts[:-1])]
    assert all(10 <= gap <= 12 for gap in gaps)
    assert acts[-1][1] is Action.DESTROY
    assert 60 <= acts[-1][0] <= 63


def test_stop_graceful_only() -> None:
    vm = Vm(shutdown=Shutdown(ShutdownMode.GRACEFUL, 60)).in_sync()
    vm.change(desired=STOPPED)
    acts = stop_ignored(vm)
    assert {act for _, act in acts} == {Action.SHUTDOWN}
    assert acts[-1][0] <= 61
    assert vm.look(Phase.RUNNING).reason is Reason.SHUTDOWN_TIMED_OUT


def test_agent_killed_mid_shutdown_keeps_the_deadline_and_waits_again_before_force() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    first = vm.look(Phase.RUNNING)
    assert first.status.operation
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.agent_restarts()
    again = vm.look(Phase.RUNNING, after_s=120)
    assert action(again) is Action.SHUTDOWN
    assert again.status.operation == first.status.operation
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    assert action(vm.look(Phase.RUNNING, after_s=29)) in {None, Action.SHUTDOWN}
    assert action(vm.look(Phase.RUNNING, after_s=1.1)) is Action.DESTROY


def test_a_guest_that_would_reboot_is_not_asked_to_shut_down() -> None:
    reboots = Facts(reboots_on_poweroff=True)
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    assert vm.look(Phase.RUNNING, facts=reboots).action is None
    assert action(vm.look(Phase.RUNNING, after_s=61, facts=reboots)) is Action.DESTROY


def test_user_start_during_stop() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.change(desired=RUNNING)
    waiting = vm.look(Phase.RUNNING, after_s=5)
    assert (waiting.reason, waiting.action) == (Reason.RESTARTING, None)
    obeyed = vm.look(Phase.STOPPED, after_s=5, events=GUEST)
    assert action(obeyed) is Action.START


def test_a_guest_that_ignored_a_recalled_stop_is_in_sync_after_the_old_deadline() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.change(desired=RUNNING)
    for _ in range(5):
        assert vm.look(Phase.RUNNING, after_s=10).action is None
    assert vm.look(Phase.RUNNING, after_s=15).reason is Reason.IN_SYNC


@pytest.mark.parametrize(
    ("request_at_s", "created_at_s", "restarts"),
    [(50, -1000, True), (-2000, -1000, False), (500, -1000, False)],
    ids=["newer", "older than the object", "in the future"],
)
def test_restart_request(request_at_s: float, created_at_s: float, restarts: bool) -> None:  # noqa: FBT001 - a column
    vm = Vm(created=T0 + timedelta(seconds=created_at_s)).in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=request_at_s))
    step = vm.look(Phase.RUNNING, after_s=100)
    assert (action(step) is Action.SHUTDOWN) == restarts
    assert (step.status.last_restart_time is not None) == restarts


def test_a_restart_is_recorded_before_its_first_act_and_happens_once() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0)
    first = vm.look(Phase.RUNNING)
    assert first.status.last_restart_time == T0
    assert first.status.operation
    assert first.status.operation.type is OperationType.RESTART
    vm.agent_restarts()
    assert vm.look(Phase.STOPPED, events=GUEST).reason is Reason.HYPERVISOR_BUSY  # another process sent that stop
    assert action(vm.look(Phase.STOPPED, after_s=10, events=GUEST)) is Action.START
    again = vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))
    assert (again.reason, again.status.operation, again.status.restart_count) == (Reason.IN_SYNC, None, 0)
    vm.change(restart_request=None)
    assert vm.look(domain(Phase.RUNNING, 2)).action is None
    vm.change(restart_request=T0)
    assert vm.look(domain(Phase.RUNNING, 2)).action is None


def test_restart_survives_kill_under_policy_never() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.change(restart_request=T0)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.agent_restarts()
    assert vm.look(Phase.STOPPED).reason is Reason.HYPERVISOR_BUSY
    assert action(vm.look(Phase.STOPPED, after_s=10)) is Action.START


def test_a_scheduled_restart_needs_two_looks_that_agree() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=100))
    assert vm.look(Phase.RUNNING).recheck_s == pytest.approx(100 - vm.at_s)
    first = vm.look(Phase.RUNNING, after_s=100)
    assert first.action is None
    assert action(vm.look(Phase.RUNNING, after_s=10)) is Action.SHUTDOWN


def test_a_scheduled_restart_of_a_vm_that_is_held_is_not_looked_at_without_end() -> None:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=100), holds=(Hold("ann", "work"),))
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, after_s=100)
    held = vm.look(Phase.RUNNING, after_s=10)
    assert (held.reason, held.recheck_s) == (Reason.HELD, None)


def test_a_restart_request_under_stopped_is_ignored() -> None:
    vm = Vm(STOPPED).in_sync()
    vm.change(restart_request=T0)
    assert vm.look(Phase.STOPPED).reason is Reason.IN_SYNC


def test_completed_is_started_by_a_change_to_running_and_by_a_restart_request() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=11, events=GUEST).reason is Reason.COMPLETED
    vm.change(desired=STOPPED)
    assert vm.look(Phase.STOPPED).reason is Reason.IN_SYNC
    vm.change(desired=RUNNING)
    step = vm.look(Phase.STOPPED)
    assert (action(step), step.status.completion_time) == (Action.START, None)


def test_a_start_that_the_user_asked_for_is_not_judged_when_it_is_delayed() -> None:
    vm = Vm(restart_policy=RestartPolicy.NEVER).in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    vm.look(Phase.STOPPED, after_s=11, events=GUEST)
    vm.change(desired=STOPPED)
    vm.look(Phase.STOPPED)
    vm.change(desired=RUNNING)
    assert vm.look(Phase.STOPPED, facts=Facts(job="backup")).reason is Reason.HYPERVISOR_BUSY
    vm.look(Unreadable("away"), after_s=30)
    vm.agent_restarts()
    assert action(vm.look(Phase.STOPPED, after_s=30)) is Action.START


def test_a_refused_start_is_told_and_tried_again_later() -> None:
    vm = Vm()
    assert action(vm.look(Phase.STOPPED)) is Action.START
    refused = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no such disk"))
    assert (refused.reason, refused.action) == (Reason.START_FAILED, None)
    assert "no such disk" in refused.message
    assert refused.status.backoff
    assert refused.status.backoff.failures == 1
    vm.agent_restarts()
    assert "no such disk" in vm.look(Phase.STOPPED, after_s=5).message
    assert action(vm.look(Phase.STOPPED, after_s=6)) is Action.START


def test_the_record_of_a_start_reports_which_attempt_it_is() -> None:
    vm = Vm()
    attempts = []
    wait_s: float | None = 1.0
    for _ in range(3):
        assert wait_s
        operation = vm.look(Phase.STOPPED, after_s=wait_s).status.operation
        assert operation
        attempts.append(operation.attempt)
        wait_s = vm.look(Phase.STOPPED, outcome=Outcome(Action.START, Result.REFUSED, "no such disk")).recheck_s
    assert attempts == [1, 2, 3]


def test_a_start_that_finds_another_domain_than_expected_again_and_again_backs_off() -> None:
    vm = Vm()
    other = Outcome(Action.START, Result.NOT_CALLED)
    assert action(vm.look(Phase.STOPPED)) is Action.START
    again = vm.look(Phase.STOPPED, outcome=other)
    assert action(again) is Action.START
    assert again.status.backoff
    waits = vm.look(Phase.STOPPED, outcome=other)
    assert (waits.reason, waits.action) == (Reason.CRASH_LOOP_BACK_OFF, None)


def test_hold() -> None:
    vm = Vm().in_sync()
    vm.annotate(holds=(Hold("ann", "backup"),))
    held = vm.look(Phase.STOPPED, after_s=60, events=GUEST)
    assert held.reason is Reason.HELD
    assert "ann (backup)" in held.message
    vm.annotate(holds=())
    released = vm.look(Phase.STOPPED, after_s=3600, events=GUEST)
    assert released.reason is Reason.SETTLING
    assert "HoldReleased" in [notice.reason for notice in released.notices]
    assert vm.look(Phase.STOPPED, after_s=9.8, events=GUEST).action is None
    assert action(vm.look(Phase.STOPPED, after_s=0.3, events=GUEST)) is Action.START


def test_hold_during_stop_is_followed_by_a_new_grace() -> None:
    vm = Vm(shutdown=Shutdown(grace_s=60)).in_sync()
    vm.change(desired=STOPPED)
    vm.look(Phase.RUNNING)
    vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))
    vm.annotate(holds=(Hold("ann", ""),))
    held = vm.look(Phase.RUNNING, after_s=120)
    assert (held.reason, held.action, held.status.operation) == (Reason.HELD, None, None)
    vm.annotate(holds=())
    assert vm.look(Phase.RUNNING, after_s=1).reason is Reason.SETTLING
    again = vm.look(Phase.RUNNING, after_s=10.1)
    assert action(again) is Action.SHUTDOWN
    assert again.status.operation
    assert again.status.operation.start_time > T0 + timedelta(seconds=120)


def test_host_shutdown_is_a_reboot_of_the_node_once_it_has_booted() -> None:
    vm = Vm(restart_policy=RestartPolicy.ON_FAILURE).in_sync()
    vm.node = replace(vm.node, braked_until=Now(T0 + timedelta(seconds=300), 300.0))
    braked = vm.look(Phase.STOPPED, after_s=11, events=GUEST)
    assert vm.look(Phase.STOPPED, after_s=11, events=GUEST).action is None
    assert braked.status.completion_time is None
    vm.agent_restarts()
    vm.node = Node("node-a", "boot-2")
    booted = vm.look(domain(Phase.STOPPED, reason="UNKNOWN"), after_s=60)
    assert booted.status.last_stop
    assert booted.status.last_stop.cause is StopCause.NODE_REBOOT
    assert action(vm.look(domain(Phase.STOPPED, reason="UNKNOWN"), after_s=11)) is Action.START


def test_memory_in_a_file_is_not_forgotten_over_a_reboot() -> None:
    vm = Vm().in_sync()
    assert vm.look(domain(Phase.STOPPED, reason="SAVED")).reason is Reason.SAVED_ELSEWHERE
    vm.agent_restarts()
    vm.node = Node("node-a", "boot-2")
    later = vm.look(domain(Phase.STOPPED, reason="UNKNOWN"), after_s=3600)
    assert (later.reason, later.action) == (Reason.SAVED_ELSEWHERE, None)


# --- whose it is -----------------------------------------------------------------------------------------


def test_a_vm_that_runs_elsewhere_is_not_started_here() -> None:
    vm = handed_over(Phase.RUNNING)
    for seen in (Phase.STOPPED, Absent(), Phase.STOPPED, Unreadable("away"), Phase.STOPPED):
        step = vm.look(seen, after_s=60)
        assert step.action is None
        assert (step.status.node_name, step.status.power_state) == ("node-a", PowerState.RUNNING)
    assert step.reason is Reason.HANDOVER_UNCONFIRMED


def test_a_vm_that_was_off_elsewhere_is_started_here() -> None:
    vm = handed_over(Phase.STOPPED)
    step = vm.look(Phase.STOPPED)
    assert (action(step), step.status.node_name) == (Action.START, "node-b")


def test_a_vm_that_runs_here_is_adopted() -> None:
    step = handed_over(Phase.RUNNING).look(domain(Phase.RUNNING, 9))
    assert (step.reason, step.action, step.status.node_name) == (Reason.IN_SYNC, None, "node-b")


def test_a_vm_that_the_user_vouches_for_is_started() -> None:
    assert action(handed_over(Phase.RUNNING, vouched=True).look(Phase.STOPPED)) is Action.START


def test_another_domain_starts_the_status_anew() -> None:
    vm = Vm().in_sync()
    vm.look(Phase.STOPPED, events=GUEST)
    vm.change(domain_name="other")
    step = vm.look(replace(domain(Phase.STOPPED), uuid=UUID(int=8), name="other"))
    assert step.status.last_stop is None
    assert step.status.domain
    assert (step.status.domain.uuid, step.status.domain.bound_by) == (UUID(int=8), "other")

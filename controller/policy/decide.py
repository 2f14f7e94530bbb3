"""The whole policy: one observation in, one report and at most one action out.

`decide` reads a situation against the table in docs/decisions.md, which a test compares with the one below: the
vetoes in order (vetoes.py), then exactly one row. Pure and total: no clock, no network, no catch-all but an assertion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controller.api.values import replace
from controller.api.virtualmachine import DesiredPowerState, Operation, OperationType, Reason, Status, StopCause
from controller.policy import vetoes
from controller.policy.assess import assess
from controller.policy.backoff import increased
from controller.policy.conclusion import conclude
from controller.policy.gates import clock, due, forbidden, power
from controller.policy.operations import new_operation
from controller.policy.situation import Situation
from controller.policy.stopping import stop
from controller.policy.view import Action, Phase, Step, Verdict, View
from controller.policy.waits import Waits

RUNNING, STOPPED, PAUSED = DesiredPowerState


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    applies: Callable[[Situation], bool]
    verdict: Callable[[Situation], Verdict]


def decide(view: View, waits: Waits) -> Step:
    """What to report about this observation, and what to do."""
    s = assess(view, waits)
    return conclude(s, row_of(s).verdict(s))


def row_of(s: Situation) -> Row:
    """The one line of the table that fits."""
    for veto in VETOES:
        if veto.applies(s):
            return veto
    rows = [row for row in ROWS if row.applies(s)]
    assert len(rows) == 1, f"{len(rows)} rows fit {s}"  # noqa: S101 - a hole in the table must not go unnoticed
    return rows[0]


VETOES = (
    Row("spec-not-understood", vetoes.is_spec_not_understood, vetoes.spec_not_understood),
    Row("libvirt-unreachable", vetoes.is_libvirt_unreachable, vetoes.libvirt_unreachable),
    Row("no-domain", vetoes.is_without_domain, vetoes.no_domain),
    Row("handover", vetoes.is_handover_unresolved, vetoes.handover_unresolved),
    Row("start-in-flight", vetoes.is_start_in_flight, vetoes.start_in_flight),
    Row("power-state-unset", vetoes.is_power_state_unset, vetoes.power_state_unset),
    Row("unknown-state", vetoes.is_unknown_state, vetoes.unknown_state),
    Row("in-sync", vetoes.is_in_sync, vetoes.in_sync),
    Row("post-copy-failed", vetoes.is_post_copy_failed, vetoes.post_copy_failed),
    Row("memory-elsewhere", vetoes.is_memory_elsewhere, vetoes.memory_elsewhere),
    Row("stop-accepted", vetoes.is_stop_accepted, vetoes.stop_accepted),
    Row("guest-suspended", vetoes.is_guest_suspended, vetoes.guest_suspended),
    Row("preserved", vetoes.is_preserved, vetoes.preserved),
    Row("transitioning", vetoes.is_transitioning, vetoes.transitioning),
)


def should_run(s: Situation, *phases: Phase) -> bool:
    """Desired Running and in one of these phases, with no restart due or in flight, and no stop in flight."""
    return s.desired is RUNNING and not s.cycling and not s.stopping and s.phase in phases


def should(s: Situation, desired: DesiredPowerState, *phases: Phase) -> bool:
    """With this desired power state, and in one of these phases."""
    return s.desired is desired and s.phase in phases


def stop_in_flight(s: Situation) -> bool:
    """Desired Running again, after the guest was asked to shut down."""
    return s.desired is RUNNING and not s.cycling and s.stopping


def restart(s: Situation) -> bool:
    """A restart is requested or in progress."""
    return s.desired is RUNNING and s.cycling


def let_it_stop(s: Situation) -> Verdict:
    """The guest was asked to shut down and should run again: an ACPI request cannot be canceled."""
    assert s.memory.stop_attempt  # noqa: S101 - every stop in flight has a StopAttempt
    deadline = s.memory.stop_attempt.deadline
    message = (
        "The guest was asked to shut down before the VM was to run again. virtsync starts the VM once it is off; "
        f"if it is still on at {clock(deadline)}, virtsync leaves it on."
    )
    return forbidden(s) or Verdict(Reason.RESTARTING, message, recheck_s=s.now.until(deadline))


def cycle(s: Situation) -> Verdict:
    """A requested restart: recorded first, then a stop like any other, then a start."""
    status = s.status
    if s.restart_due:
        # A stop that is already in flight becomes the first half of the restart.
        operation = (
            replace(s.operation, type=OperationType.RESTART)
            if s.operation
            else new_operation(OperationType.RESTART, s.domain, s.vm.shutdown, s.now)
        )
        status = replace(status, operation=operation, last_restart_time=s.vm.restart_request)
    if s.off:
        status = recorded(s, status, OperationType.RESTART)
        message = "The VM is being started, to complete the requested restart."
        return due(s, Action.START, Reason.STARTING, message, status=status)
    return stop(s, status, Reason.RESTARTING)


def start(s: Situation) -> Verdict:
    """It is off and should be on."""
    action = Action.START if s.desired is RUNNING else Action.START_PAUSED
    how = "started" if action is Action.START else "started paused"
    if s.phase is Phase.SAVED:
        how = "restored from its saved memory"
    status = s.status
    if s.start.again:  # this start has been counted
        status = replace(status, restart_count=s.history.restart_count, backoff=s.history.backoff)
    else:
        status = _counted(s, status)
    status = recorded(s, status, OperationType.START)
    was = "has crashed" if s.phase is Phase.CRASHED_OFF else f"was {power(s).lower()}"
    cause = f" (cause: {s.cause})" if s.cause else ""
    return due(s, action, Reason.STARTING, f"The VM {was}{cause} and is being {how}.", status=status)


def _counted(s: Situation, status: Status) -> Status:
    """The counters after a start that follows an unwanted stop or another start."""
    unwanted = s.cause not in {None, StopCause.AGENT} and not s.asked
    again = s.status.backoff is not None or s.history.decided in {Reason.STARTING, Reason.START_FAILED}
    if unwanted or again:
        status = replace(status, backoff=increased(status.backoff, s.now, s.waits)[0])
    return replace(status, restart_count=status.restart_count + 1) if unwanted else status


def recorded(s: Situation, status: Status, kind: OperationType) -> Status:
    """The status, with the start that is about to be called recorded; a start already on record stays as it is."""
    attempt = status.backoff.failures if status.backoff else 1
    since = status.operation or Operation(kind, s.now.to_api())
    return replace(status, operation=s.start.again or replace(since, attempt=attempt))


def resume_after_io_error(s: Situation) -> Verdict:
    """Resume; while the error lasts, the VM pauses again at once."""
    status = replace(s.status, backoff=increased(s.status.backoff, s.now, s.waits)[0])
    return due(
        s,
        Action.RESUME,
        Reason.PAUSED_BY_IO_ERROR,
        "The VM was paused by an I/O error (is its disk full?) and is being resumed.",
        status=status,
        backs_off=True,
    )


def resume(s: Situation) -> Verdict:
    """Somebody paused it."""
    return due(s, Action.RESUME, Reason.RESUMING, "The VM is being resumed, because somebody paused it.")


def wake(s: Situation) -> Verdict:
    """The guest suspended itself, and restartPolicy Always wants it awake."""
    return due(s, Action.WAKE, Reason.WAKING, "The VM is being woken up, because its guest suspended itself (S3).")


def suspend(s: Situation) -> Verdict:
    """It runs and should be paused."""
    return due(s, Action.SUSPEND, Reason.PAUSING, "The VM is being paused, as spec.powerState asks.")


def stop_as_wanted(s: Situation) -> Verdict:
    """It is on and should be off."""
    return stop(s, s.status, Reason.SHUTTING_DOWN)


OFF = (Phase.STOPPED, Phase.SAVED, Phase.CRASHED_OFF)
PAUSES = (Phase.PAUSED, Phase.PAUSED_BUSY)
ALIVE = (Phase.RUNNING, Phase.STARTING, Phase.SHUTTING_DOWN)
DEAF = (Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT)

ROWS = (
    Row("stop-in-flight", stop_in_flight, let_it_stop),
    Row("restart", restart, cycle),
    Row("resume-after-io-error", lambda s: should_run(s, Phase.PAUSED_IO_ERROR), resume_after_io_error),
    Row("resume", lambda s: should_run(s, *PAUSES), resume),
    Row("wake", lambda s: should_run(s, Phase.SUSPENDED), wake),
    Row("start", lambda s: should_run(s, *OFF), start),
    Row("stop", lambda s: should(s, STOPPED, *ALIVE), stop_as_wanted),
    Row("stop-paused", lambda s: should(s, STOPPED, *PAUSES), stop_as_wanted),
    Row("stop-suspended", lambda s: should(s, STOPPED, Phase.SUSPENDED), stop_as_wanted),
    Row("stop-unresponsive", lambda s: should(s, STOPPED, *DEAF), stop_as_wanted),
    Row("pause", lambda s: should(s, PAUSED, Phase.RUNNING), suspend),
    Row("start-paused", lambda s: should(s, PAUSED, *OFF), start),
)

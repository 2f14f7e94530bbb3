"""The whole policy: from one view of a VM, decide on one report and at most one action.

`decide` finds the row of the decision table that applies: the first of the vetoes (vetoes.py), otherwise exactly one of
the rows below. docs/decisions.md shows the same table, and a test compares the two. Pure and total: the functions read
no clock and no network, and the only catch-all is an assertion.
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
from controller.policy.gates import due, forbidden
from controller.policy.operations import new_operation
from controller.policy.situation import Situation
from controller.policy.stopping import stop
from controller.policy.view import Action, Phase, Step, Verdict, View
from controller.policy.waits import Waits
from controller.policy.wording import clock, in_maintenance, power

RUNNING, STOPPED, PAUSED = DesiredPowerState


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the decision table."""

    name: str
    applies: Callable[[Situation], bool]
    verdict: Callable[[Situation], Verdict]


def decide(view: View, waits: Waits) -> Step:
    """Return what to report about this view, the action to take, and when to observe again."""
    s = assess(view, waits)
    return conclude(s, row_of(s).verdict(s))


def row_of(s: Situation) -> Row:
    """Return the one row of the table that applies."""
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
    Row("runs-elsewhere", vetoes.is_running_elsewhere, vetoes.running_elsewhere),
    Row("in-sync", vetoes.is_in_sync, vetoes.in_sync),
    Row("post-copy-failed", vetoes.is_post_copy_failed, vetoes.post_copy_failed),
    Row("memory-elsewhere", vetoes.is_memory_elsewhere, vetoes.memory_elsewhere),
    Row("stop-accepted", vetoes.is_stop_accepted, vetoes.stop_accepted),
    Row("guest-suspended", vetoes.is_guest_suspended, vetoes.guest_suspended),
    Row("preserved", vetoes.is_preserved, vetoes.preserved),
    Row("transitioning", vetoes.is_transitioning, vetoes.transitioning),
)


def should_run(s: Situation, *phases: Phase) -> bool:
    """Whether a VM in one of these phases should run, with no restart due or in flight and no stop in flight."""
    return s.desired is RUNNING and not s.cycling and not s.stopping and s.phase in phases


def should(s: Situation, desired: DesiredPowerState, *phases: Phase) -> bool:
    """Whether the VM has this desired power state and is in one of these phases."""
    return s.desired is desired and s.phase in phases


def stop_in_flight(s: Situation) -> bool:
    """Whether the VM should run again while a stop is in flight."""
    return s.desired is RUNNING and not s.cycling and s.stopping


def restart(s: Situation) -> bool:
    """Whether a restart is due or in flight."""
    return s.desired is RUNNING and s.cycling


def let_it_stop(s: Situation) -> Verdict:
    """Wait for the end of a stop that is no longer wanted, because an ACPI shutdown request cannot be canceled.

    The reason shows the next passes whether the user has recalled the stop, or maintenance of the host has ended.
    """
    assert s.memory.stop_attempt  # noqa: S101 - every stop in flight has a StopAttempt
    deadline, ended = s.memory.stop_attempt.deadline, s.memory.held
    before = f"the maintenance of {s.view.node.name} ended" if ended else "spec.powerState became Running"
    why = ", and a shutdown request cannot be canceled" if s.guest_asked else ""
    message = (
        f"A stop of the VM had begun before {before}{why}. virtsync starts the VM when it is off. "
        f"If the VM is still on at {clock(deadline)}, virtsync leaves it on."
    )
    reason = Reason.SHUTTING_DOWN if ended else Reason.RESTARTING
    return forbidden(s) or Verdict(reason, message, recheck_s=s.now.until(deadline))


def cycle(s: Situation) -> Verdict:
    """Take the next step of a requested restart: record the restart, stop the VM like any other stop, then start it."""
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
    """Start a VM that is off and should be on."""
    action = Action.START if s.desired is RUNNING else Action.START_PAUSED
    how = "started" if action is Action.START else "started paused"
    if s.phase is Phase.SAVED:
        how = "restored from its saved memory"
    status = s.status
    if s.start.again:  # this start was counted when it was recorded
        backoff = s.status.backoff if s.unanswered else s.history.backoff
        status = replace(status, restart_count=s.history.restart_count, backoff=backoff)
    else:
        status = _counted(s, status)
    status = recorded(s, status, OperationType.START)
    return due(s, action, Reason.STARTING, f"{_why_off(s)} is being {how}.", status=status)


def _why_off(s: Situation) -> str:
    """Return the first part of the message about a start: why the VM is off."""
    cause = f" (cause: {s.cause})" if s.cause else ""
    if s.phase is not Phase.CRASHED_OFF:
        return f"The VM was {power(s).lower()}{cause} and"
    if s.cause in {None, StopCause.CRASH}:
        return f"The VM has crashed{cause} and"
    unknown = s.cause is StopCause.UNKNOWN
    but = (
        f"virtsync did not observe the stop{cause}"
        if unknown
        else f"virtsync determined the cause of the stop as {s.cause}"
    )
    return f"libvirt reports a crash of the VM, but {but}. The VM"


def _counted(s: Situation, status: Status) -> Status:
    """Return the draft with its counters increased, if the start follows an unwanted stop or another start."""
    unwanted = s.cause not in {None, StopCause.AGENT} and not s.asked
    again = s.status.backoff is not None or s.history.decided in {Reason.STARTING, Reason.START_FAILED}
    if unwanted or again:
        status = replace(status, backoff=increased(status.backoff, s.now, s.waits)[0])
    return replace(status, restart_count=status.restart_count + 1) if unwanted else status


def recorded(s: Situation, status: Status, kind: OperationType) -> Status:
    """Return the draft with a record of the start that is about to be called; an existing record is kept as it is."""
    attempt = status.backoff.failures if status.backoff else 1
    since = status.operation or Operation(kind, s.now.to_api())
    return replace(status, operation=s.start.again or replace(since, attempt=attempt))


def resume_after_io_error(s: Situation) -> Verdict:
    """Resume a VM that was paused by an I/O error, with backoff: if the error persists, the VM pauses again at once."""
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
    """Resume a VM that somebody has paused."""
    return due(s, Action.RESUME, Reason.RESUMING, "The VM is being resumed, because somebody paused it.")


def wake(s: Situation) -> Verdict:
    """Wake up a guest that suspended itself, as restartPolicy Always asks."""
    return due(s, Action.WAKE, Reason.WAKING, "The VM is being woken up, because its guest suspended itself (S3).")


def suspend(s: Situation) -> Verdict:
    """Pause a VM that runs and should be paused."""
    return due(s, Action.SUSPEND, Reason.PAUSING, "The VM is being paused, as spec.powerState asks.")


def stop_as_wanted(s: Situation) -> Verdict:
    """Stop a VM that is on and should be off."""
    verdict, why = stop(s, s.status, Reason.SHUTTING_DOWN), f" {in_maintenance(s)}."
    if not s.view.to_be_shut_down or verdict.message.endswith(why):
        return verdict
    return replace(verdict, message=verdict.message + why)


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

"""The whole policy: one look in, one report and at most one act out.

`decide` reads a situation against the table in docs/decisions.md, which a test compares with the one below: the
vetoes in order, then exactly one row. Pure and total: no clock, no network, no catch-all but an assertion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from controller import causes
from controller.model import (
    Absent,
    Conflict,
    DesiredPowerState,
    Now,
    Operation,
    OperationType,
    Phase,
    PowerState,
    Pursuit,
    Reason,
    Replaced,
    ShutdownMode,
    Status,
    Step,
    StopCause,
    Unreadable,
    Verb,
    Verdict,
    View,
)
from controller.settings import Waits
from controller.situation import Situation, assess, begun, grown, restored, shown
from controller.status import conclude

RUNNING, STOPPED, PAUSED = DesiredPowerState

CALL_PATIENCE_S = 5.0
"""An act that has not returned for so long is told as HypervisorBusy; a start takes about half a second."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    number: int
    title: str
    applies: Callable[[Situation], bool]
    says: Callable[[Situation], Verdict]


def decide(view: View, waits: Waits) -> Step:
    """What to report of this look, and what to do about it."""
    s = assess(view, waits)
    return conclude(s, row_of(s).says(s))


def row_of(s: Situation) -> Row:
    """The one line of the table that fits."""
    for veto in VETOES:
        if veto.applies(s):
            return veto
    rows = [row for row in ROWS if row.applies(s)]
    assert len(rows) == 1, f"{len(rows)} rows fit {s}"  # noqa: S101 - a hole in the table must not pass unseen
    return rows[0]


# --- the vetoes: nothing is done ------------------------------------------------------------


def _unreachable(s: Situation) -> Verdict:
    assert isinstance(s.view.seen, Unreadable)  # noqa: S101
    return Verdict(
        Reason.LIBVIRT_UNREACHABLE,
        f"libvirt on {s.view.node.name} does not answer: {s.view.seen.message}",
        recheck_s=5.0,
    )


def _no_domain(s: Situation) -> Verdict:
    name, seen = s.vm.bound_by, s.view.seen
    if isinstance(seen, Replaced):
        message = f"The domain {name!r} is another one now (UUID {seen.uuid}): set spec.domain or recreate this."
        return Verdict(Reason.DOMAIN_REPLACED, message)
    if isinstance(seen, Conflict):
        return Verdict(
            Reason.DOMAIN_CONFLICT, f"The older VirtualMachine {seen.owner} has the domain with UUID {seen.uuid}."
        )
    return Verdict(Reason.DOMAIN_NOT_FOUND, f"libvirt on {s.view.node.name} has no domain {name!r}.")


def _unconfirmed(s: Situation) -> Verdict:
    old = s.history.node_name
    return Verdict(
        Reason.HANDOVER_UNCONFIRMED,
        f"{old} last reported it {s.history.power_state}: it is left alone here until it is off there; if you know "
        f"that it is, annotate the object with virtsync.dev/confirmed-off={old}.",
    )


def _observed(_s: Situation) -> Verdict:
    return Verdict(Reason.OBSERVED, "spec.powerState is not set: virtsync only watches.")


def _unknown(s: Situation) -> Verdict:
    return Verdict(
        Reason.UNKNOWN_STATE, f"libvirt reports {s.domain.state}/{s.domain.reason}, which virtsync does not know."
    )


def _in_sync(s: Situation) -> bool:
    if s.cycling or s.operation is not None or s.phase is None:
        return False
    if s.desired is STOPPED:
        return s.phase.off
    if s.desired is PAUSED:
        return s.phase.power_state is PowerState.PAUSED
    return s.phase is Phase.RUNNING


def _gone_elsewhere(s: Situation) -> bool:
    return s.wants_on and s.off and (_migrated(s) or _saved_elsewhere(s))


def _migrated(s: Situation) -> bool:
    return s.status.libvirt_reason == "MIGRATED" or (s.cause is StopCause.MIGRATED and _silent(s))


def _saved_elsewhere(s: Situation) -> bool:
    if s.phase is Phase.SAVED or s.cause not in {None, StopCause.SAVED}:
        return False
    return s.status.libvirt_reason == "SAVED" or (s.cause is StopCause.SAVED and _silent(s))


def _silent(s: Situation) -> bool:
    """libvirt does not say why the domain is off, so that the report of before stands."""
    return s.status.libvirt_reason in {"UNKNOWN", ""}


def _elsewhere(s: Situation) -> Verdict:
    if _migrated(s):
        return Verdict(
            Reason.MIGRATED_AWAY, "It was migrated to another host and is never started here: set spec.nodeName."
        )
    return Verdict(
        Reason.SAVED_ELSEWHERE,
        "Somebody saved its memory to a file (virsh save): a start would make that file useless; use virsh restore.",
    )


def _accepted(s: Situation) -> bool:
    """The restartPolicy leaves it off, and the user has asked for nothing since."""
    if not (s.wants_on and s.off) or s.asked or s.cycling:
        return False
    if s.status.completion_time:
        return True
    # A policy speaks once, of a stop that came by itself: not of a start that was decided on already.
    fresh = s.history.reason not in {Reason.STARTING, Reason.START_FAILED, Reason.CRASH_LOOP_BACK_OFF}
    fresh = fresh or s.status.last_stop != s.history.last_stop
    return fresh and s.cause is not None and causes.answer(s.cause, s.vm.restart_policy) is not causes.Answer.START


def _accept(s: Situation) -> Verdict:
    if not s.status.completion_time and (wait := _settling(s) or _braked(s)):
        return wait
    status = replace(s.status, completion_time=s.status.completion_time or shown(s.now))
    if s.cause is StopCause.CRASH:
        return Verdict(
            Reason.FAILED, f"It crashed, and restartPolicy {s.vm.restart_policy} leaves it off.", status=status
        )
    sentence = s.status.last_stop.message if s.status.last_stop else ""
    message = f"{sentence} restartPolicy {s.vm.restart_policy} leaves it off."
    return Verdict(Reason.COMPLETED, message, status=status)


def _sleeps_by_right(s: Situation) -> bool:
    if s.phase is not Phase.SUSPENDED or s.cycling:
        return False
    return s.desired is PAUSED or (s.desired is RUNNING and s.vm.restart_policy != "Always")


def _kept(s: Situation) -> Verdict:
    if s.phase is Phase.PAUSED_WATCHDOG:
        return Verdict(
            Reason.PAUSED_BY_WATCHDOG, "Its watchdog paused it for somebody to look at; virtsync leaves it so."
        )
    return Verdict(Reason.CRASHED_PRESERVED, "The guest crashed and QEMU keeps it for somebody to look at (on_crash).")


def _passing(s: Situation) -> Verdict:
    if s.phase is Phase.STARTING:
        return Verdict(Reason.STARTING, "It is starting.")
    since = s.memory.phase_since or s.now
    limit = since.plus(s.vm.shutdown.grace_s)
    if s.now.until(limit) > 0:
        return Verdict(Reason.SHUTTING_DOWN, "It is shutting down by itself.", recheck_s=s.now.until(limit))
    return Verdict(
        Reason.SHUTDOWN_TIMED_OUT, "Its QEMU does not end; it should run, so virtsync does not force it off."
    )


VETOES = (
    Row(2, "libvirt not readable", lambda s: isinstance(s.view.seen, Unreadable), _unreachable),
    Row(3, "absent, replaced, claimed", lambda s: isinstance(s.view.seen, (Absent, Replaced, Conflict)), _no_domain),
    Row(8, "handover unconfirmed", lambda s: s.unconfirmed, _unconfirmed),
    Row(4, "power state unset", lambda s: s.desired is None, _observed),
    Row(5, "unknown state", lambda s: s.phase is Phase.UNKNOWN, _unknown),
    Row(
        6,
        "in sync",
        _in_sync,
        lambda s: Verdict(Reason.IN_SYNC, f"It is {s.phase.power_state if s.phase else ''}, as wanted."),
    ),
    Row(
        7,
        "post-copy failed",
        lambda s: s.phase is Phase.POST_COPY_FAILED,
        lambda _: Verdict(
            Reason.POST_COPY_FAILED, "Its post-copy migration failed: neither copy may be started or stopped."
        ),
    ),
    Row(8, "migrated, saved to a file", _gone_elsewhere, _elsewhere),
    Row(9, "stop accepted", _accepted, _accept),
    Row(
        10,
        "suspended by the guest",
        _sleeps_by_right,
        lambda _: Verdict(
            Reason.SUSPENDED_BY_GUEST, "The guest suspended itself (S3), and nothing here wants it woken."
        ),
    ),
    Row(
        11,
        "kept for somebody to look at",
        lambda s: s.wants_on and not s.cycling and s.phase in {Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT},
        _kept,
    ),
    Row(
        12,
        "passing",
        lambda s: s.wants_on and not s.cycling and s.phase in {Phase.STARTING, Phase.SHUTTING_DOWN},
        _passing,
    ),
)


# --- the rows: something is due -----------------------------------------------------------


def _due(
    s: Situation, verb: Verb, reason: Reason, message: str, *, status: Status | None = None, backs_off: bool = False
) -> Verdict:
    """An act that is due: done now, unless something forbids it or asks for patience."""
    wait = _forbidden(s) or _busy(s, reason) or _settling(s)
    if wait is None and verb.starts:
        wait = _braked(s)
    if wait is None:
        wait = _backing_off(s, verb, always=verb.starts or backs_off)
    if wait is None and verb.starts and s.view.turn_in_s > 0:
        wait = Verdict(
            Reason.STARTING, "It waits for its turn: VMs of a node start a few at a time.", recheck_s=s.view.turn_in_s
        )
    return wait or Verdict(reason, message, verb, status=status or s.status)


def _forbidden(s: Situation) -> Verdict | None:
    if s.vm.holds:
        holders = ", ".join(f"{who} ({why})" if why else who for who, why in s.vm.holds)
        return Verdict(Reason.HELD, f"It is {_power(s)} and should be {s.desired}; held by {holders}.")
    if s.view.node.observe_only:
        return Verdict(
            Reason.OBSERVE_ONLY, f"It is {_power(s)} and should be {s.desired}; the agent of this node only watches."
        )
    if s.view.node.blocked:
        return Verdict(Reason.ACTION_BLOCKED, s.view.node.blocked)
    return None


def _busy(s: Situation, reason: Reason) -> Verdict | None:
    if s.view.call:
        since = s.view.call_since or s.now
        waited_s = s.now.monotonic_s - since.monotonic_s
        if waited_s < CALL_PATIENCE_S:
            # What was said when the act was decided on still holds; another sentence would be another write.
            ready = s.history.condition("Ready")
            said = ready.message if ready and ready.reason == reason else "libvirt has not answered yet."
            return Verdict(reason, said, recheck_s=CALL_PATIENCE_S - waited_s)
        return Verdict(
            Reason.HYPERVISOR_BUSY,
            f"libvirt has not answered the last request ({s.view.call.name}) yet.",
            recheck_s=10.0,
        )
    if s.view.crowded:
        message = "As many requests as its libvirt bears at a time have not been answered."
        return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=1.0)
    if (s.view.facts and s.view.facts.job) or (s.phase is Phase.PAUSED_BUSY and not _left_over(s)):
        return Verdict(
            Reason.HYPERVISOR_BUSY, "A libvirt job (backup, save, migration) owns the domain.", recheck_s=2.0
        )
    return None


def _left_over(s: Situation) -> bool:
    """PAUSED/MIGRATION that no job explains, seen twice: libvirt 9 shows it for ever of a domain saved while paused."""
    if s.domain.reason != "MIGRATION" or not restored(s.view.evidence) or s.waits.settle_pause_s is None:
        return False
    since = s.memory.jobless_since
    return since is None or s.now.until(since.plus(s.waits.settle_pause_s)) <= 0


def _settling(s: Situation) -> Verdict | None:
    if s.settled_at is None:
        return None
    if s.settles_forever:
        return Verdict(Reason.SETTLING, f"It is {_power(s)}; the agent's settings leave that to whoever did it.")
    left_s = s.now.until(s.settled_at)
    if left_s <= 0:
        return None
    until = _clock(s.settled_at)
    message = f"It is {_power(s)} and should be {s.desired}; left alone until {until} in case somebody is at work."
    return Verdict(Reason.SETTLING, message, recheck_s=left_s)


def _braked(s: Situation) -> Verdict | None:
    until = s.view.node.braked_until
    if until is None or s.now.until(until) <= 0:
        return None
    return Verdict(
        Reason.SETTLING,
        f"Several VMs stopped together on {s.view.node.name}: nothing is started before {_clock(until)}.",
        recheck_s=s.now.until(until),
    )


def _backing_off(s: Situation, verb: Verb, *, always: bool) -> Verdict | None:
    """Patience after failures: for every start and resume, and for any other act that libvirt has refused."""
    next_attempt = s.memory.next_attempt
    failed = s.history.reason in {Reason.START_FAILED, Reason.ACTION_FAILED}
    if next_attempt is None or not (always or s.refusal or failed) or (left_s := s.now.until(next_attempt)) <= 0:
        return None
    at = f"next attempt at {_clock(next_attempt)}"
    if s.refusal:
        reason = Reason.START_FAILED if verb.starts else Reason.ACTION_FAILED
        return Verdict(reason, f"libvirt refused: {s.refusal}; {at}.", recheck_s=left_s)
    ready = s.history.condition("Ready")
    if failed and ready:
        return Verdict(Reason(ready.reason), ready.message, recheck_s=left_s)
    if s.phase is Phase.PAUSED_IO_ERROR:
        return Verdict(
            Reason.PAUSED_BY_IO_ERROR, f"An I/O error pauses it (is its disk full?); {at}.", recheck_s=left_s
        )
    return Verdict(Reason.CRASH_LOOP_BACK_OFF, f"It keeps going off; {at}.", recheck_s=left_s)


def _power(s: Situation) -> PowerState:
    return s.status.power_state


def _clock(moment: Now) -> str:
    return f"{shown(moment):%H:%M:%SZ}"


def _let_it_stop(s: Situation) -> Verdict:
    deadline = s.memory.pursuit.deadline if s.memory.pursuit else s.now.plus(s.vm.shutdown.grace_s)
    message = (
        "It was asked to shut down before it was wanted again: "
        f"it is started once it is off, or left as it is at {_clock(deadline)}."
    )
    return _forbidden(s) or Verdict(Reason.RESTARTING, message, recheck_s=s.now.until(deadline))


def _cycle(s: Situation) -> Verdict:
    """A requested restart: recorded first, then a stop as any other, then a start."""
    status = s.status
    if s.restart_due:
        running = s.operation if s.operation and not s.off else None
        operation = running or begun(OperationType.RESTART, s.domain, s.vm.shutdown, s.now)
        operation = replace(operation, type=OperationType.RESTART)
        status = replace(status, operation=operation, last_restart_time=s.vm.restart_request)
    if s.off:
        return _due(s, Verb.START, Reason.STARTING, "It is being started, as a restart was asked for.", status=status)
    return _stop_as(s, status, Reason.RESTARTING)


def _start(s: Situation) -> Verdict:
    verb = Verb.START if s.desired is RUNNING else Verb.START_PAUSED
    how = "Its saved memory is being restored" if s.phase is Phase.SAVED else "It is being started"
    status = s.status
    unwanted = s.cause not in {None, StopCause.AGENT} and not s.asked
    again = s.status.backoff is not None or s.history.reason in {Reason.STARTING, Reason.START_FAILED}
    if unwanted or again:
        status = replace(status, backoff=grown(status.backoff, s.now, s.waits)[0])
    if unwanted:
        status = replace(status, restart_count=status.restart_count + 1)
    why = f"it was {_power(s)}" + (f", cause {s.cause}" if s.cause else "")
    return _due(s, verb, Reason.STARTING, f"{how}: {why}.", status=status)


def _resume_after_io_error(s: Situation) -> Verdict:
    status = replace(s.status, backoff=grown(s.status.backoff, s.now, s.waits)[0])
    return _due(
        s,
        Verb.RESUME,
        Reason.PAUSED_BY_IO_ERROR,
        "An I/O error paused it (is its disk full?); it is being resumed.",
        status=status,
        backs_off=True,
    )


def _resume(s: Situation) -> Verdict:
    return _due(s, Verb.RESUME, Reason.RESUMING, "It is being resumed: somebody paused it.")


def _stop(s: Situation) -> Verdict:
    return _stop_as(s, s.status, Reason.SHUTTING_DOWN)


def _stop_as(s: Situation, status: Status, reason: Reason) -> Verdict:
    """One step of a stop, polite for as long as it may be; `reason` tells a restart from a stop."""
    kind = OperationType.RESTART if reason is Reason.RESTARTING else OperationType.STOP
    operation = status.operation or begun(kind, s.domain, s.vm.shutdown, s.now)
    status = replace(status, operation=operation)
    if s.vm.shutdown.mode is ShutdownMode.FORCE:
        return _due(s, Verb.DESTROY, reason, "It is being forced off, as spec.shutdown.mode says.", status=status)
    blocked = _forbidden(s) or _busy(s, reason) or _settling(s)
    if blocked:
        return blocked
    deadline, force_at = _limits(s, operation)
    graceful_only = s.vm.shutdown.mode is ShutdownMode.GRACEFUL
    if graceful_only and (_reboots(s) or s.now.until(deadline) <= 0):
        why = (
            "its on_poweroff turns every shutdown into a reboot"
            if _reboots(s)
            else f"it did not shut down by {_clock(deadline)}"
        )
        return Verdict(
            Reason.SHUTDOWN_TIMED_OUT,
            f"It still runs: {why}, and spec.shutdown.mode Graceful forbids force.",
            status=status,
        )
    if force_at is not None and s.now.until(force_at) <= 0:
        return _due(s, Verb.DESTROY, reason, "It is being forced off: its grace period is over.", status=status)
    verb = _polite(s)
    last = "" if graceful_only else f", forced off at {_clock(force_at or deadline)}"
    if verb:
        return _due(s, verb, reason, f"It is being asked to shut down{last}.", status=status)
    return Verdict(
        reason, f"It is being asked to shut down{last}.", status=status, recheck_s=_patience(s, deadline, force_at)
    )


def _limits(s: Situation, operation: Operation) -> tuple[Now, Now | None]:
    """When the grace is over, and when force may follow; None: not before the guest has been asked.

    Force needs that this very process asked this very run and waited, whatever a wall clock or an older record says.
    """
    pursuit = s.memory.pursuit or Pursuit(operation.domain_id, s.now, s.now.plus(s.vm.shutdown.grace_s))
    can_be_asked = s.phase in {Phase.RUNNING, Phase.STARTING, Phase.SHUTTING_DOWN} and not _reboots(s)
    asked = pursuit.asked_first if can_be_asked else pursuit.since
    if asked is None:
        return pursuit.deadline, None
    patient = asked.plus(min(s.vm.shutdown.grace_s, s.waits.force_wait_s))
    return pursuit.deadline, max(pursuit.deadline, patient, key=lambda moment: moment.monotonic_s)


def _polite(s: Situation) -> Verb | None:
    """What asks the guest to shut down, or brings it where it can be asked; None while it is being waited for."""
    match s.phase:
        case Phase.PAUSED | Phase.PAUSED_BUSY:
            return Verb.RESUME
        case Phase.SUSPENDED:
            return Verb.WAKE
        case Phase.RUNNING if not _reboots(s) and _resend_in_s(s) <= 0:
            return Verb.SHUTDOWN
        case _:
            return None


def _reboots(s: Situation) -> bool:
    return s.view.facts is not None and s.view.facts.reboots_on_poweroff


def _resend_in_s(s: Situation) -> float:
    """Seconds to the next press of the power button: one that comes during a boot is lost, so it is repeated."""
    last = s.memory.pursuit.asked_last if s.memory.pursuit else None
    return s.now.until(last.plus(s.waits.acpi_resend_s)) if last else 0.0


def _patience(s: Situation, deadline: Now, force_at: Now | None) -> float | None:
    waits = [s.now.until(moment) for moment in (deadline, force_at) if moment]
    if s.phase is Phase.RUNNING and not _reboots(s):
        waits.append(_resend_in_s(s))
    return min((wait for wait in waits if wait > 0), default=None)


def _wake(s: Situation) -> Verdict:
    return _due(s, Verb.WAKE, Reason.WAKING, "It is being woken: the guest suspended itself (S3).")


def _suspend(s: Situation) -> Verdict:
    return _due(s, Verb.SUSPEND, Reason.PAUSING, "It is being paused, as spec.powerState says.")


def _runs_towards(s: Situation) -> bool:
    """Desired Running, with neither a stop that cannot be recalled nor a restart in the way."""
    return s.desired is RUNNING and not s.cycling and not (s.stopping and not s.off)


ROWS = (
    Row(
        13,
        "a stop in flight",
        lambda s: s.desired is RUNNING and not s.cycling and s.stopping and not s.off,
        _let_it_stop,
    ),
    Row(14, "restart", lambda s: s.desired is RUNNING and s.cycling, _cycle),
    Row(
        15,
        "paused by I/O error",
        lambda s: _runs_towards(s) and s.phase is Phase.PAUSED_IO_ERROR,
        _resume_after_io_error,
    ),
    Row(16, "paused", lambda s: _runs_towards(s) and s.phase in {Phase.PAUSED, Phase.PAUSED_BUSY}, _resume),
    Row(17, "suspended, Always", lambda s: _runs_towards(s) and s.phase is Phase.SUSPENDED, _wake),
    Row(18, "off", lambda s: _runs_towards(s) and s.off, _start),
    Row(
        19,
        "running",
        lambda s: s.desired is STOPPED and s.phase in {Phase.RUNNING, Phase.STARTING, Phase.SHUTTING_DOWN},
        _stop,
    ),
    Row(20, "paused", lambda s: s.desired is STOPPED and s.phase in {Phase.PAUSED, Phase.PAUSED_BUSY}, _stop),
    Row(21, "suspended", lambda s: s.desired is STOPPED and s.phase is Phase.SUSPENDED, _stop),
    Row(
        22,
        "cannot be asked",
        lambda s: (
            s.desired is STOPPED and s.phase in {Phase.PAUSED_IO_ERROR, Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT}
        ),
        _stop,
    ),
    Row(23, "running", lambda s: s.desired is PAUSED and s.phase is Phase.RUNNING, _suspend),
    Row(24, "off", lambda s: s.desired is PAUSED and s.off, _start),
)

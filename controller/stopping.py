"""One step of a stop, polite for as long as it may be. Pure."""

from __future__ import annotations

from dataclasses import replace

from controller.model import (
    Now,
    Operation,
    OperationType,
    Phase,
    Pursuit,
    Reason,
    ShutdownMode,
    Status,
    Verb,
    Verdict,
)
from controller.patience import busy, clock, due, forbidden, settling
from controller.situation import Situation, begun


def stop(s: Situation, status: Status, reason: Reason) -> Verdict:
    """One step of a stop, polite for as long as it may be; `reason` tells a restart from a stop."""
    kind = OperationType.RESTART if reason is Reason.RESTARTING else OperationType.STOP
    operation = status.operation or begun(kind, s.domain, s.vm.shutdown, s.now)
    status = replace(status, operation=operation)
    if s.vm.shutdown.mode is ShutdownMode.FORCE:
        return due(s, Verb.DESTROY, reason, "It is being forced off, as spec.shutdown.mode says.", status=status)
    deadline, force_at = _limits(s, operation)
    graceful_only = s.vm.shutdown.mode is ShutdownMode.GRACEFUL
    if not graceful_only and force_at is not None and s.now.until(force_at) <= 0:
        return due(s, Verb.DESTROY, reason, "It is being forced off: its grace period is over.", status=status)
    blocked = forbidden(s) or busy(s, reason) or settling(s)
    if blocked:
        # The grace of a QEMU that hangs runs, though it could not be asked.
        return replace(blocked, status=status) if _hangs(s) else blocked
    if graceful_only and (_reboots(s) or s.now.until(deadline) <= 0):
        why = (
            "its on_poweroff turns every shutdown into a reboot"
            if _reboots(s)
            else f"it did not shut down by {clock(deadline)}"
        )
        return Verdict(
            Reason.SHUTDOWN_TIMED_OUT,
            f"It still runs: {why}, and spec.shutdown.mode Graceful forbids force.",
            status=status,
        )
    how = "Every shutdown of it would be a reboot (on_poweroff)" if _reboots(s) else "It is being asked to shut down"
    message = f"{how}." if graceful_only else f"{how}, forced off at {clock(force_at or deadline)}."
    if verb := _polite(s):
        return due(s, verb, reason, message, status=status)
    return Verdict(reason, message, status=status, recheck_s=_patience(s, deadline, force_at))


def _limits(s: Situation, operation: Operation) -> tuple[Now, Now | None]:
    """When the grace is over, and when force may follow; None: not before the guest has been asked.

    Force needs that this very process asked this very run and waited, whatever a wall clock or an older record says.
    """
    pursuit = s.memory.pursuit or Pursuit(operation.domain_id, s.now, s.now.plus(s.vm.shutdown.grace_s))
    can_be_asked = s.phase is Phase.RUNNING and not (_reboots(s) or _hangs(s))
    asking = s.view.call_since if s.view.call is Verb.SHUTDOWN else None
    asked = pursuit.asked_first or asking if can_be_asked else pursuit.since
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


def _hangs(s: Situation) -> bool:
    return s.view.facts is not None and s.view.facts.hangs


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

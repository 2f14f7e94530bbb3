"""One step of a stop, polite for as long as it may be. Pure."""

from __future__ import annotations

from dataclasses import replace

from controller.model import (
    Now,
    OperationType,
    Phase,
    Pursuit,
    Reason,
    ShutdownMode,
    Status,
    Verb,
    Verdict,
)
from controller.patience import busy, clock, due, forbidden, overdue, settling
from controller.situation import Situation, begun, pursued


def stop(s: Situation, status: Status, reason: Reason) -> Verdict:
    """One step of a stop, polite for as long as it may be; `reason` tells a restart from a stop."""
    operation = status.operation or begun(OperationType.STOP, s.domain, s.vm.shutdown, s.now)
    status = replace(status, operation=operation)
    if s.vm.shutdown.mode is ShutdownMode.FORCE:
        return due(s, Verb.DESTROY, reason, "It is being forced off, as spec.shutdown.mode says.", status=status)
    pursuit = pursued(operation, s.view, s.memory)
    ends_at = _ends_at(s, pursuit)
    over = s.now.until(ends_at) <= 0
    graceful_only = s.vm.shutdown.mode is ShutdownMode.GRACEFUL
    if over and not graceful_only and _waits_since(s, pursuit):
        return due(s, Verb.DESTROY, reason, "It is being forced off: its grace period is over.", status=status)
    wait = busy(s, reason)
    if wait and (_hangs(s) or overdue(s)):  # its grace runs, though it could not be asked
        wait = replace(wait, status=status)
    if wait := forbidden(s) or wait or settling(s):
        return wait
    if graceful_only and (over or _reboots(s)):
        why = (
            "its on_poweroff turns every shutdown into a reboot"
            if _reboots(s)
            else f"it did not shut down by {clock(ends_at)}"
        )
        return Verdict(
            Reason.SHUTDOWN_TIMED_OUT,
            f"It still runs: {why}, and spec.shutdown.mode Graceful forbids force.",
            status=status,
        )
    how = "Every shutdown of it would be a reboot (on_poweroff)" if _reboots(s) else "It is being asked to shut down"
    message = f"{how}." if graceful_only else f"{how}, forced off at {clock(ends_at)}."
    if verb := _polite(s):
        return due(s, verb, reason, message, status=status)
    waits = (s.now.until(ends_at), _press_in_s(s))
    return Verdict(reason, message, status=status, recheck_s=min(wait for wait in waits if wait))


def _ends_at(s: Situation, pursuit: Pursuit) -> Now:
    """When politeness is over: at the deadline, but force also needs that this very process has waited."""
    if s.vm.shutdown.mode is ShutdownMode.GRACEFUL:
        return pursuit.deadline
    patient = (_waits_since(s, pursuit) or s.now).plus(min(s.vm.shutdown.grace_s, s.waits.force_wait_s))
    return max(pursuit.deadline, patient, key=lambda moment: moment.monotonic_s)


def _waits_since(s: Situation, pursuit: Pursuit) -> Now | None:
    """Since when this process waits for it to go off; None: the guest could be asked, and has not been."""
    if s.phase is not Phase.RUNNING or _reboots(s) or _hangs(s):
        return pursuit.since
    return pursuit.asked_first or s.view.call_since


def _polite(s: Situation) -> Verb | None:
    """What asks the guest to shut down, or brings it where it can be asked; None while it is being waited for."""
    if s.phase in {Phase.PAUSED, Phase.PAUSED_BUSY}:
        return Verb.RESUME
    if s.phase is Phase.SUSPENDED:
        return Verb.WAKE
    return Verb.SHUTDOWN if _press_in_s(s) == 0 else None


def _press_in_s(s: Situation) -> float | None:
    """Seconds to the next press of the power button, repeated because a boot loses it; None where it is no use."""
    if s.phase is not Phase.RUNNING or _reboots(s):
        return None
    last = s.memory.pursuit.asked_last if s.memory.pursuit else None
    return s.now.until(last.plus(s.waits.acpi_resend_s)) if last else 0.0


def _hangs(s: Situation) -> bool:
    return s.view.facts is not None and s.view.facts.hangs


def _reboots(s: Situation) -> bool:
    return s.view.facts is not None and s.view.facts.reboots_on_poweroff

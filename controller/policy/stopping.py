"""One step of a stop: ask the guest to shut down, wait for the guest, or force the VM off. Pure."""

from __future__ import annotations

from controller.api.clock import Now
from controller.api.values import replace
from controller.api.virtualmachine import OperationType, Reason, ShutdownMode, Status
from controller.policy.gates import (
    BESIDE,
    DueAction,
    asks_before_force,
    due,
    end_of_pause,
    forbidden,
    job_kind,
    job_owns,
    last_failure,
    libvirt_busy,
    overdue,
    settling,
)
from controller.policy.operations import attempted_stop, new_operation
from controller.policy.situation import Situation
from controller.policy.vetoes import LINGER_RECHECK_S, LINGERS
from controller.policy.view import Action, Phase, StopAttempt, Verdict
from controller.policy.wording import NEVER_SETTLES, clock

CANNOT_REACT = {
    Phase.STARTING: "The VM is still starting",
    Phase.PAUSED_IO_ERROR: "The VM is paused by an I/O error",
    Phase.PAUSED_WATCHDOG: "The VM is paused by its watchdog",
    Phase.CRASHED_KEPT: "The guest has crashed",
}
"""The phases in which a guest cannot react to a shutdown request, as messages explain them."""


def stop(s: Situation, status: Status, reason: Reason) -> Verdict:
    """Return the verdict for one step of a stop; `reason` shows whether the stop is part of a restart."""
    operation = status.operation or new_operation(
        OperationType.STOP, s.domain, s.vm.shutdown, s.now, for_maintenance=s.view.to_be_shut_down or None
    )
    status = replace(status, operation=operation)
    stop_attempt = attempted_stop(operation, s.view, s.memory)
    early = _lingers(s, stop_attempt, status, reason) or _left_to_its_tool(s) or _waits_for_job(s, stop_attempt, status)
    return early or _ask_or_force(s, stop_attempt, status, reason)


def _ask_or_force(s: Situation, stop_attempt: StopAttempt, status: Status, reason: Reason) -> Verdict:
    """Force the VM off if that is due; otherwise ask the guest to shut down, or wait for the guest."""
    if why := _why_unasked(s):
        return due(s, Action.DESTROY, reason, f"The VM is being forced off, {why}.", status=status)
    ends_at = _ends_at(s, stop_attempt)
    over = s.now.until(ends_at) <= 0
    graceful_only = s.vm.shutdown.mode is ShutdownMode.GRACEFUL
    if over and not graceful_only and _waits_since(s, stop_attempt):
        message = f"The VM is being forced off, because {_why_forced(s, stop_attempt)}."
        return due(s, Action.DESTROY, reason, message, status=status)
    if delayed := forbidden(s) or _busy(s, status, reason) or settling(s):
        return delayed
    if graceful_only and (over or _reboots(s)):
        message = (
            f"The VM is still on, because {_why_on(s, ends_at)}. spec.shutdown.mode Graceful does not allow "
            "virtsync to force it off."
        )
        return Verdict(Reason.SHUTDOWN_TIMED_OUT, message, status=status)
    message = _stop_message(s)
    if not graceful_only:
        message += f" virtsync forces the VM off at {clock(ends_at)} if it is still on."
    if action := _polite(s):
        verdict, left_s = due(s, action, reason, message, status=status), s.now.until(ends_at)
        # Whatever delays this action, it must not delay the forced stop.
        if not graceful_only and left_s > 0 and verdict.recheck_s is not None:
            verdict = replace(verdict, recheck_s=min(verdict.recheck_s, left_s))
        return verdict
    verdict = _failed_press(s, reason) or Verdict(reason, message, recheck_s=_press_in_s(s))
    waits_s = (s.now.until(ends_at), verdict.recheck_s)
    return replace(verdict, status=status, recheck_s=min(wait_s for wait_s in waits_s if wait_s))


def _failed_press(s: Situation, reason: Reason) -> Verdict | None:
    """Return the verdict until the power button is pressed again, if libvirt failed the last time; None: it did not.

    It is pressed again when `--acpi-resend` and the backoff are over.
    """
    left_s = _press_in_s(s)
    if s.memory.failed is not Action.SHUTDOWN or left_s is None:
        return None
    press = DueAction(reason, Action.SHUTDOWN)
    moments = [s.now.plus(left_s)]
    if s.memory.next_attempt and not asks_before_force(s, press):
        moments.append(s.memory.next_attempt)
    return last_failure(s, press, max(moments, key=lambda moment: moment.monotonic_s))


def _busy(s: Situation, status: Status, reason: Reason) -> Verdict | None:
    """Return the verdict while libvirt delays the request to the guest; None: libvirt does not delay it."""
    busy = libvirt_busy(s, DueAction(reason))
    if busy and (_hangs(s) or overdue(s)):  # record the stop, so that its grace period runs although libvirt hangs
        return replace(busy, status=status)
    return busy


def _why_forced(s: Situation, stop_attempt: StopAttempt) -> str:
    """Return why virtsync forces the VM off at the end of its grace period, as text for a message."""
    if s.phase is Phase.RUNNING and stop_attempt.refused_first and not stop_attempt.asked_first:
        return "libvirt refused to ask its guest to shut down and its grace period is over"
    return "its grace period is over"


def _why_on(s: Situation, ends_at: Now) -> str:
    """Return why a VM is still on that virtsync must not force off, as text for a message."""
    if _reboots(s):
        return "its definition turns every shutdown into a reboot (on_poweroff)"
    if s.guest_asked or s.phase is Phase.SHUTTING_DOWN:
        return f"its guest did not shut down by {clock(ends_at)}"
    return f"its guest could not be asked to shut down by {clock(ends_at)}"


def _stop_message(s: Situation) -> str:
    """Return the first part of the message about a stop: what virtsync is doing, or why it does not ask the guest."""
    if s.phase in CANNOT_REACT:
        return f"{CANNOT_REACT[s.phase]} and cannot react, so virtsync does not ask the guest to shut down."
    if s.phase is Phase.SHUTTING_DOWN:
        return "The guest is already shutting down."
    if _reboots(s):
        why = "The definition of the VM turns every shutdown into a reboot (on_poweroff)"
        return f"{why}, so virtsync does not ask the guest to shut down."
    if s.phase is Phase.RUNNING:
        return "The guest is being asked to shut down."
    how = "woken up" if s.phase is Phase.SUSPENDED else "resumed"
    return f"The VM is being {how}, so that its guest can be asked to shut down."


def _lingers(s: Situation, stop_attempt: StopAttempt, status: Status, reason: Reason) -> Verdict | None:
    """Return the verdict for a VM whose QEMU has not exited after a forced stop; None: there is no such QEMU.

    virtsync can only wait until QEMU exits.
    """
    if not s.domain.lingers:
        return None
    late = s.now.until(stop_attempt.deadline) <= 0
    return Verdict(Reason.SHUTDOWN_TIMED_OUT if late else reason, LINGERS, status=status, recheck_s=LINGER_RECHECK_S)


def _why_unasked(s: Situation) -> str:
    """Return why virtsync forces the VM off without asking the guest; empty: virtsync asks the guest first."""
    if s.vm.shutdown.mode is ShutdownMode.FORCE:
        return "as spec.shutdown.mode asks"
    # If a VM has not run, virtsync does not resume it only to ask its guest to shut down.
    return "" if _has_run(s) else "because it was started paused and has not run since"


def _has_run(s: Situation) -> bool:
    """Whether the CPUs of the VM have run since its start, or might have. Then the guest might have unsaved data."""
    return s.phase is not Phase.PAUSED or s.view.facts is None or not s.view.facts.never_ran


def _left_to_its_tool(s: Situation) -> Verdict | None:
    """Return the verdict for a VM that was started paused and has not run since; None: continue with the stop.

    A tool might be using the VM. So virtsync waits for the settle time of a pause, even after a change of the spec.
    """
    if _has_run(s) or forbidden(s):
        return None
    if s.waits.settle_pause_s is None:
        message = (
            "The VM was started paused and has not run since, so a tool might be using it. virtsync does not stop it, "
            f"{NEVER_SETTLES}."
        )
        return Verdict(Reason.SETTLING, message)
    until = (s.memory.phase_since or s.now).plus(s.waits.settle_pause_s)
    left_s = s.now.until(until)
    message = (
        f"The VM was started paused and has not run since. virtsync waits until {clock(until)} before stopping it, in "
        "case an administrator or a backup is using it."
    )
    return Verdict(Reason.SETTLING, message, recheck_s=left_s) if left_s > 0 else None


def _waits_for_job(s: Situation, stop_attempt: StopAttempt, status: Status) -> Verdict | None:
    """Return the verdict while a libvirt job delays the stop; None: continue with the stop.

    The stop waits for any job for one grace period. After that, the stop continues during a backup; other jobs still
    prevent the stop.
    """
    kind = job_kind(s)
    if not kind or forbidden(s) or settling(s):
        return None
    left_s = s.now.until(stop_attempt.deadline)
    if left_s > 0:
        waits = f"virtsync waits until {clock(stop_attempt.deadline)} for the job to end"
        message = f"{job_owns(s)}. {waits}.{end_of_pause(s)}"
        return Verdict(Reason.HYPERVISOR_BUSY, message, status=status, recheck_s=min(left_s, 2.0))
    if kind in BESIDE:
        return None
    message = (
        f"{job_owns(s)}. virtsync does not stop a VM during such a job: abort the job, or wait for it to end."
        f"{end_of_pause(s)}"
    )
    return Verdict(Reason.SHUTDOWN_TIMED_OUT, message, status=status, recheck_s=10.0)


def _ends_at(s: Situation, stop_attempt: StopAttempt) -> Now:
    """Return when virtsync no longer waits for the guest: at the deadline, or later if this process has not yet waited.

    This process waits at least `force_wait_s`, or the grace period if that is shorter. The wait begins when this
    process first asks the guest; if the guest cannot be asked, when this process first observes the stop. With mode
    Graceful, if a backup job or refusals of libvirt have used the grace period, the guest has a whole grace period of
    its own.
    """
    least_s = min(s.vm.shutdown.grace_s, s.waits.force_wait_s)
    if s.vm.shutdown.mode is ShutdownMode.GRACEFUL and (job_kind(s) or stop_attempt.refused_first):
        least_s = s.vm.shutdown.grace_s
    patient = (_waits_since(s, stop_attempt) or s.now).plus(least_s)
    return max(stop_attempt.deadline, patient, key=lambda moment: moment.monotonic_s)


def _waits_since(s: Situation, stop_attempt: StopAttempt) -> Now | None:
    """Return since when this process waits for the VM to go off; None: it must first ask the guest.

    If libvirt refuses to ask the guest, the forced stop waits for no other request. Without force, virtsync continues
    to ask, because no guest has ignored it.
    """
    if s.phase is not Phase.RUNNING or _reboots(s) or _hangs(s):
        return stop_attempt.since
    refused = None if s.vm.shutdown.mode is ShutdownMode.GRACEFUL else stop_attempt.refused_first
    return stop_attempt.asked_first or refused or (s.view.call.since if s.view.call else None)


def _polite(s: Situation) -> Action | None:
    """Return the action that asks the guest to shut down, or that makes this possible; None: wait for the guest."""
    if s.phase in {Phase.PAUSED, Phase.PAUSED_BUSY}:
        return Action.RESUME
    if s.phase is Phase.SUSPENDED:
        return Action.WAKE
    return Action.SHUTDOWN if _press_in_s(s) == 0 else None


def _press_in_s(s: Situation) -> float | None:
    """Return in how many seconds to press the power button; None: pressing it would not shut the VM down.

    virtsync presses the button repeatedly, because a guest that is booting ignores it.
    """
    if s.phase is not Phase.RUNNING or _reboots(s):
        return None
    last = s.memory.stop_attempt.tried_last if s.memory.stop_attempt else None
    return s.now.until(last.plus(s.waits.acpi_resend_s)) if last else 0.0


def _hangs(s: Situation) -> bool:
    return s.view.facts is not None and s.view.facts.hangs


def _reboots(s: Situation) -> bool:
    return s.view.facts is not None and s.view.facts.reboots_on_poweroff

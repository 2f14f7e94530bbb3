"""The rows of the table in which nothing is done, and what they say instead. Pure."""

from __future__ import annotations

from dataclasses import replace

from controller import causes
from controller.model import (
    Absent,
    Conflict,
    DesiredPowerState,
    Phase,
    PowerState,
    Reason,
    Replaced,
    StopCause,
    Unreadable,
    Verdict,
)
from controller.patience import braked, settling
from controller.situation import Situation, shown


def is_unreachable(s: Situation) -> bool:
    """libvirt gave no answer."""
    return isinstance(s.view.seen, Unreadable)


def has_no_domain(s: Situation) -> bool:
    """There is no domain for this object: none at all, another one, or one that an older object has."""
    return isinstance(s.view.seen, (Absent, Replaced, Conflict))


def is_unconfirmed(s: Situation) -> bool:
    """It may still run on the node that had it before."""
    return s.unconfirmed


def is_observed(s: Situation) -> bool:
    """The user wants nothing of it."""
    return s.desired is None


def is_unknown(s: Situation) -> bool:
    """libvirt shows a state that this version does not know."""
    return s.phase is Phase.UNKNOWN


def post_copy_failed(s: Situation) -> bool:
    """Its memory is on two hosts."""
    return s.phase is Phase.POST_COPY_FAILED


def is_kept(s: Situation) -> bool:
    """Somebody has configured that it stays for a look at it."""
    return s.wants_on and not s.cycling and s.phase in {Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT}


def is_passing(s: Situation) -> bool:
    """It is on its way from off to on or from on to off."""
    return s.wants_on and not s.cycling and s.phase in {Phase.STARTING, Phase.SHUTTING_DOWN}


def is_in_sync(s: Situation) -> bool:
    """It is as wanted, and nothing is under way."""
    if s.cycling or s.operation is not None or s.phase is None:
        return False
    if s.desired is DesiredPowerState.STOPPED:
        return s.phase.off
    if s.desired is DesiredPowerState.PAUSED:
        return s.phase.power_state is PowerState.PAUSED
    return s.phase is Phase.RUNNING


def in_sync(s: Situation) -> Verdict:
    """All is as wanted."""
    return Verdict(Reason.IN_SYNC, f"It is {s.status.power_state}, as wanted.")


def torn(_s: Situation) -> Verdict:
    """Neither copy may be touched."""
    return Verdict(Reason.POST_COPY_FAILED, "Its post-copy migration failed: neither copy may be started or stopped.")


def asleep(_s: Situation) -> Verdict:
    """The guest's own suspend is left alone."""
    return Verdict(Reason.SUSPENDED_BY_GUEST, "The guest suspended itself (S3), and nothing here wants it woken.")


def unreachable(s: Situation) -> Verdict:
    """libvirt does not answer."""
    assert isinstance(s.view.seen, Unreadable)  # noqa: S101
    return Verdict(
        Reason.LIBVIRT_UNREACHABLE,
        f"libvirt on {s.view.node.name} does not answer: {s.view.seen.message}",
        recheck_s=5.0,
    )


def no_domain(s: Situation) -> Verdict:
    """Say why there is no domain for this object."""
    name, seen = s.vm.bound_by, s.view.seen
    if isinstance(seen, Replaced):
        message = f"The domain {name!r} is another one now (UUID {seen.uuid}): set spec.domain or recreate this."
        return Verdict(Reason.DOMAIN_REPLACED, message)
    if isinstance(seen, Conflict):
        return Verdict(
            Reason.DOMAIN_CONFLICT, f"The older VirtualMachine {seen.owner} has the domain with UUID {seen.uuid}."
        )
    return Verdict(Reason.DOMAIN_NOT_FOUND, f"libvirt on {s.view.node.name} has no domain {name!r}.")


def unconfirmed(s: Situation) -> Verdict:
    """Ask the user to vouch for the other node."""
    old = s.history.node_name
    return Verdict(
        Reason.HANDOVER_UNCONFIRMED,
        f"{old} last reported it {s.history.power_state}: it is left alone here until it is off there; if you know "
        f"that it is, annotate the object with virtsync.dev/confirmed-off={old}.",
    )


def observed(_s: Situation) -> Verdict:
    """Only watched."""
    return Verdict(Reason.OBSERVED, "spec.powerState is not set: virtsync only watches.")


def unknown_state(s: Situation) -> Verdict:
    """Passed through."""
    return Verdict(
        Reason.UNKNOWN_STATE, f"libvirt reports {s.domain.state}/{s.domain.reason}, which virtsync does not know."
    )


def is_elsewhere(s: Situation) -> bool:
    """Its memory is somewhere else: on another host, or in a file."""
    return s.wants_on and s.off and (_migrated(s) or _saved_elsewhere(s))


def _migrated(s: Situation) -> bool:
    return s.status.libvirt_reason == "MIGRATED" or (s.cause is StopCause.MIGRATED and _silent(s))


def _saved_elsewhere(s: Situation) -> bool:
    if s.phase is Phase.SAVED or s.cause not in {None, StopCause.SAVED}:
        return False
    return s.status.libvirt_reason == "SAVED" or (s.cause is StopCause.SAVED and _silent(s))


def _silent(s: Situation) -> bool:
    """libvirt does not say why the domain is off, so that the report of before stands."""
    return s.status.libvirt_reason == "UNKNOWN"


def elsewhere(s: Situation) -> Verdict:
    """Say where its memory is, and how to go on."""
    if _migrated(s):
        return Verdict(
            Reason.MIGRATED_AWAY, "It was migrated to another host and is never started here: set spec.nodeName."
        )
    return Verdict(
        Reason.SAVED_ELSEWHERE,
        "Somebody saved its memory to a file (virsh save): a start would make that file useless; use virsh restore.",
    )


def is_accepted(s: Situation) -> bool:
    """The restartPolicy leaves it off, and the user has asked for nothing since."""
    if not s.wants_on or s.asked or s.cycling:
        return False
    if s.status.completion_time:
        return True
    # A policy speaks once, of a stop that came by itself: not of a start that was decided on already.
    fresh = s.history.reason not in {Reason.STARTING, Reason.START_FAILED, Reason.CRASH_LOOP_BACK_OFF}
    fresh = fresh or s.status.last_stop != s.history.last_stop
    return fresh and s.cause is not None and causes.answer(s.cause, s.vm.restart_policy) is not causes.Answer.START


def accept(s: Situation) -> Verdict:
    """The restartPolicy speaks, once."""
    if not s.status.completion_time and (wait := settling(s) or braked(s)):
        return wait
    status = replace(s.status, completion_time=s.status.completion_time or shown(s.now))
    if s.cause is StopCause.CRASH:
        return Verdict(
            Reason.FAILED, f"It crashed, and restartPolicy {s.vm.restart_policy} leaves it off.", status=status
        )
    sentence = f"{s.status.last_stop.message} " if s.status.last_stop else ""
    message = f"{sentence}restartPolicy {s.vm.restart_policy} leaves it off."
    return Verdict(Reason.COMPLETED, message, status=status)


def sleeps_by_right(s: Situation) -> bool:
    """The guest suspended itself, and nothing wants it woken."""
    if s.phase is not Phase.SUSPENDED or s.cycling:
        return False
    return s.desired is DesiredPowerState.PAUSED or (
        s.desired is DesiredPowerState.RUNNING and s.vm.restart_policy != "Always"
    )


def kept(s: Situation) -> Verdict:
    """Say for whom it is kept."""
    if s.phase is Phase.PAUSED_WATCHDOG:
        return Verdict(
            Reason.PAUSED_BY_WATCHDOG, "Its watchdog paused it for somebody to look at; virtsync leaves it so."
        )
    return Verdict(Reason.CRASHED_PRESERVED, "The guest crashed and QEMU keeps it for somebody to look at (on_crash).")


def passing(s: Situation) -> Verdict:
    """Wait; say so when it takes too long."""
    if s.phase is Phase.STARTING:
        return Verdict(Reason.STARTING, "It is starting.")
    since = s.memory.phase_since or s.now
    limit = since.plus(s.vm.shutdown.grace_s)
    if s.now.until(limit) > 0:
        return Verdict(Reason.SHUTTING_DOWN, "It is shutting down by itself.", recheck_s=s.now.until(limit))
    return Verdict(
        Reason.SHUTDOWN_TIMED_OUT, "Its QEMU does not end; it should run, so virtsync does not force it off."
    )

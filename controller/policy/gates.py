"""The gates that every due action must pass: each gate can forbid or delay the action. Pure.

`due` calls the `GATES` in order, and the first gate that returns a verdict decides. docs/decisions.md lists the gates
for users, and a test compares that list with `GATES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controller.api.clock import Now, api_time
from controller.api.libvirt_words import PauseReason
from controller.api.values import replace
from controller.api.virtualmachine import DesiredPowerState, Reason, ShutdownMode, Status
from controller.policy.situation import Situation
from controller.policy.starts import OFF_CONFIRM_S
from controller.policy.stops import restored
from controller.policy.view import Action, Phase, Qemu, Result, Verdict
from controller.policy.wording import (
    NEVER_SETTLES,
    REQUESTS,
    clock,
    confirming,
    drift_sentence,
    holders,
    in_maintenance,
)

BESIDE = {"backup"}
"""Kinds of jobs during which libvirt permits a shutdown or a destroy of the domain; only the job itself is lost."""
ACTION_OVERDUE_S = 5.0
"""An action that has not returned after this time is reported as HypervisorBusy. A start, which usually takes about
half a second, is reported as Starting, with the time at which it began."""
FAILURES = {Reason.START_FAILED, Reason.ACTION_FAILED}
"""The reasons under which the last attempt of an action has failed."""
WAYS_ON = {Action.RESUME: "resume it", Action.WAKE: "wake it up"}
"""The actions that make the CPUs of a VM run that is on, and how a message names them."""


@dataclass(frozen=True, slots=True)
class DueAction:
    """A due action: the input of the gates."""

    reason: Reason
    action: Action | None = None
    """None: virtsync only waits, for example until a guest has shut down."""
    backs_off: bool = False
    """Whether the backoff delays the action although the action starts nothing."""
    again: bool = False
    """Whether the action is a recorded start that was not called, or whose call has no known result. It has already
    waited for settle time, brake and backoff."""

    @property
    def starts(self) -> bool:
        """Whether the action starts a QEMU."""
        return self.action is not None and self.action.starts


Gate = Callable[[Situation, DueAction], Verdict | None]


def due(
    s: Situation, action: Action, reason: Reason, message: str, *, status: Status | None = None, backs_off: bool = False
) -> Verdict:
    """Return the verdict for a due action: take the action now, unless a gate forbids or delays it."""
    due_action = DueAction(reason, action, backs_off, again=action.starts and s.start.again is not None)
    for gate in GATES:
        if verdict := gate(s, due_action):
            return replace(verdict, status=status) if due_action.again and not forbidden(s) else verdict
    # If the call never returns, only this recheck leads to another pass.
    return Verdict(reason, message, action, status=status or s.status, recheck_s=ACTION_OVERDUE_S)


def forbidden(s: Situation) -> Verdict | None:
    """Return the verdict of the first gate that forbids every action; None: actions are allowed."""
    return next((verdict for gate in FORBIDDING if (verdict := gate(s))), None)


def held(s: Situation, _: DueAction | None = None) -> Verdict | None:
    """Forbid every action while a hold annotation is on the VM, or while its host is in maintenance.

    Maintenance with mode Shutdown does not forbid a stop.
    """
    if not s.view.held:
        return None
    if s.vm.holds:
        message = f"{drift_sentence(s)} virtsync takes no action while the VM is held by {holders(s)}."
    else:
        message = f"{in_maintenance(s)}: {drift_sentence(s)} virtsync takes no action before the maintenance ends."
    return Verdict(Reason.HELD, message)


def observe_only(s: Situation, _: DueAction | None = None) -> Verdict | None:
    """Forbid every action if the agent runs with --observe-only."""
    if not s.view.node.observe_only:
        return None
    return Verdict(Reason.OBSERVE_ONLY, f"{drift_sentence(s)} The agent of this node only observes (--observe-only).")


def not_allowed(s: Situation, _: DueAction | None = None) -> Verdict | None:
    """Forbid every action if this agent lacks the host lock, the Lease or its Hypervisor, or is stopping."""
    return Verdict(Reason.ACTION_BLOCKED, s.view.node.blocked) if s.view.node.blocked else None


def runs_elsewhere(s: Situation, due_action: DueAction) -> Verdict | None:
    """Forbid to resume or wake up a VM that runs on another host: its CPUs stand still here, so it writes nothing."""
    return not_here(s, WAYS_ON[due_action.action]) if due_action.action in WAYS_ON and s.runs_only_elsewhere else None


def not_here(s: Situation, what: str) -> Verdict:
    """Return the verdict about a VM that runs on another host: where, and what the user can do.

    `what`: what virtsync therefore does not do here, such as "start it".
    """
    assert s.view.running_elsewhere  # noqa: S101
    there = s.view.running_elsewhere
    message = (
        f"The VM runs on {there.node_name} (observed since {api_time(there.since)}), so virtsync does not {what} on "
        f"{s.view.node.name}. Set spec.nodeName to {there.node_name}, or stop the VM there. If {there.node_name} is "
        f"lost and you are sure that the VM is off, confirm it: {confirming(s, there.confirmation)}"
    )
    return Verdict(Reason.RUNS_ELSEWHERE, message)


def qemu_alive(s: Situation, due_action: DueAction) -> Verdict | None:
    """Delay a start while the last QEMU might not have exited, although libvirt reports the domain off."""
    if not due_action.starts:
        return None
    qemu = s.view.facts.qemu if s.view.facts else Qemu.GONE
    since = s.memory.off_since or s.now
    if qemu is Qemu.ALIVE:
        late = s.now.until(since.plus(s.vm.shutdown.grace_s)) <= 0
        reason = Reason.SHUTDOWN_TIMED_OUT if late else Reason.HYPERVISOR_BUSY
        message = (
            f"libvirt has reported the VM off since {clock(since)}, but its QEMU process has not exited (is its "
            "storage stuck?). virtsync does not start the VM before QEMU has exited."
        )
        return Verdict(reason, message, recheck_s=5.0)
    if qemu is Qemu.GONE and not s.memory.off_doubted:
        return None
    confirmed_at = since.plus(OFF_CONFIRM_S)
    left_s = s.now.until(confirmed_at)
    if left_s <= 0:
        return None
    message = (
        "The last QEMU process of the VM might not have exited: an earlier agent process stopped the VM, or the pid "
        f"file of QEMU cannot be read. virtsync starts the VM if it is still off at {clock(confirmed_at)}."
    )
    return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=left_s)


def libvirt_busy(s: Situation, due_action: DueAction) -> Verdict | None:
    """Delay an action while a libvirt job owns the domain, or while libvirt has not answered an earlier request.

    A forced stop does not wait for a request that hangs, because the forced stop ends that request.
    """
    view, reason, force = s.view, due_action.reason, due_action.action is Action.DESTROY
    if left_s := answer_in_s(s):
        # The message of the last report is still correct; another message would cause another write.
        reported = s.history.message_of(reason)
        message = "libvirt has not answered the last request for this VM yet." if reported is None else reported
        return Verdict(reason, message, recheck_s=left_s)
    if view.call and (not force or view.call.action is Action.DESTROY):
        message = f"libvirt has not answered the last request (to {REQUESTS[view.call.action]}) yet."
        return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=2.0)
    if view.crowded:
        message = (
            "virtsync has reached its limit of concurrent requests, because libvirt has not answered them. This VM "
            "waits until libvirt answers one of them."
        )
        return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=1.0)
    if view.facts and view.facts.hangs and not force:
        return Verdict(Reason.HYPERVISOR_BUSY, "The QEMU process of the VM does not answer libvirt.", recheck_s=2.0)
    return _job(s)


def _job(s: Situation) -> Verdict | None:
    """Delay an action while a libvirt job owns the domain; a stop waits for a backup at most for one grace period."""
    kind, stop_attempt = job_kind(s), s.memory.stop_attempt
    if not kind or (kind in BESIDE and stop_attempt and s.now.until(stop_attempt.deadline) <= 0):
        return None
    message = f"{job_owns(s)}. virtsync waits for the job to end.{end_of_pause(s)}"
    return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=2.0)


def job_owns(s: Situation) -> str:
    """Return which job owns the domain, and since when, as text for a message.

    The text contains a time and not a duration, so that the message does not change while the job runs.
    """
    if _is_inferred(s):
        since = clock(s.memory.phase_since or s.now)
        return f"libvirt has shown the VM paused ({s.domain.reason}) since {since}, as it does during a job"
    return f"A libvirt job ({job_kind(s)}) has been working on the VM since {clock(s.memory.job_since or s.now)}"


def end_of_pause(s: Situation) -> str:
    """Return what the user can do if the job has left its pause behind, as a sentence; empty: there is a job.

    virtsync does not resume the VM, because it might be the copy that an incoming migration has not completed.
    """
    if not _is_inferred(s):
        return ""
    return (
        " If no migration of the VM runs and virsh domjobinfo shows no job, end the pause with virsh resume, or the VM "
        "with virsh destroy."
    )


def _is_inferred(s: Situation) -> bool:
    """Whether only the reason of the pause shows the job. A job that has failed can leave its pause behind."""
    return not (s.view.facts and s.view.facts.job)


def job_kind(s: Situation) -> str:
    """Return the kind of the libvirt job that owns the domain; empty: there is no job."""
    if s.view.facts and s.view.facts.job:
        return s.view.facts.job
    return s.domain.reason.lower() if s.phase is Phase.PAUSED_BUSY and not _left_over(s) else ""


def overdue(s: Situation) -> bool:
    """Whether a call on the domain has not returned within ACTION_OVERDUE_S."""
    return answer_in_s(s) == 0


def answer_in_s(s: Situation) -> float | None:
    """Return in how many seconds the call on the domain is overdue; None: there is no call."""
    call = s.view.call
    return s.now.until(call.since.plus(ACTION_OVERDUE_S)) if call else None


def _left_over(s: Situation) -> bool:
    """Whether PAUSED/MIGRATION is only a remnant of a restore, and not a job.

    libvirt 9 always reports it for a restored domain that was paused when its memory was saved. It counts as a remnant
    when no job has been observed for the settle time of a pause, or before the host was asked for jobs.
    """
    if s.domain.reason != PauseReason.MIGRATION or not restored(s.view.evidence) or s.waits.settle_pause_s is None:
        return False
    since = s.memory.jobless_since
    return since is None or s.now.until(since.plus(s.waits.settle_pause_s)) <= 0


def settling(s: Situation, due_action: DueAction | None = None) -> Verdict | None:
    """Delay an action while the settle time (a debounce) runs, because an administrator might be working on the VM."""
    if s.settled_at is None or (due_action and due_action.again):
        return None
    if s.settles_forever:
        return Verdict(Reason.SETTLING, f"{drift_sentence(s)} virtsync takes no action, {NEVER_SETTLES}.")
    left_s = s.now.until(s.settled_at)
    if left_s <= 0:
        return None
    until = clock(s.settled_at)
    if s.phase is Phase.SHUTTING_DOWN and s.desired is DesiredPowerState.STOPPED:
        message = (
            f"The VM is already shutting down. virtsync begins its own stop at {until} if the VM is still on; it waits "
            "in case an administrator is working on the VM."
        )
    else:
        correction = "before beginning the restart" if s.cycling else "before correcting this"
        message = (
            f"{drift_sentence(s)} virtsync waits until {until} {correction}, in case an administrator is working on it."
        )
    return Verdict(Reason.SETTLING, message, recheck_s=left_s)


def braked(s: Situation, due_action: DueAction | None = None) -> Verdict | None:
    """Delay a start, or the acceptance of a stop, while the brake (a circuit breaker) is on.

    The brake does not delay a start that follows a change of spec.powerState or a requested restart.
    """
    if due_action and (due_action.again or not due_action.starts):
        return None
    until = s.view.node.braked_until
    if s.asked or s.cycling or until is None or s.now.until(until) <= 0:
        return None
    return Verdict(
        Reason.SETTLING,
        f"Several VMs stopped together on {s.view.node.name}, so the host might be shutting down. virtsync does not "
        f"start this VM before {clock(until)}.",
        recheck_s=s.now.until(until),
    )


def backing_off(s: Situation, due_action: DueAction) -> Verdict | None:
    """Delay an action while the exponential backoff runs.

    The backoff delays each start, a resume after an I/O error, and any action after one has failed. A failed request to
    the guest does not delay the forced stop. A recorded start without a known result is called again once at once.
    """
    next_attempt = s.memory.next_attempt
    # After a restart of the agent it is not known which action has failed.
    forces = due_action.action is Action.DESTROY and s.memory.failed not in {None, Action.DESTROY}
    concerned = (
        due_action.starts
        or due_action.backs_off
        or ((s.refusal or s.history.decided in FAILURES) and not forces and not asks_before_force(s, due_action))
    )
    at_once = due_action.again and s.memory.start_unanswered < 2
    if at_once or next_attempt is None or not concerned or (left_s := s.now.until(next_attempt)) <= 0:
        return None
    if due_action.again:
        message = (
            "libvirt gave no result of several requests to start the VM. virtsync tries again at "
            f"{clock(next_attempt)}."
        )
        return Verdict(due_action.reason, message, recheck_s=left_s)
    if verdict := last_failure(s, due_action, next_attempt):
        return verdict
    again = f"virtsync tries again at {clock(next_attempt)}."
    if s.phase is Phase.PAUSED_IO_ERROR:
        message = f"An I/O error keeps pausing the VM (is its disk full?). {again}"
        return Verdict(Reason.PAUSED_BY_IO_ERROR, message, recheck_s=left_s)
    message = f"The VM keeps stopping. virtsync starts it again at {clock(next_attempt)}."
    return Verdict(Reason.CRASH_LOOP_BACK_OFF, message, recheck_s=left_s)


def asks_before_force(s: Situation, due_action: DueAction) -> bool:
    """Whether the action asks a guest that is forced off at the deadline whether it was asked or not.

    The backoff must not use up the time in which libvirt might accept the request. A request that was not sent begins
    no wait for force, so the backoff applies to it, unless an earlier process has recorded the failure.
    """
    attempt = s.memory.stop_attempt
    forces = s.vm.shutdown.mode is not ShutdownMode.GRACEFUL
    new = attempt is None or attempt.tried_last is None
    refused = attempt is not None and attempt.refused_first is not None and attempt.asked_first is None
    return due_action.action is Action.SHUTDOWN and forces and (new or refused)


def last_failure(s: Situation, due_action: DueAction, again_at: Now) -> Verdict | None:
    """Return the verdict that reports the failure of the last attempt; None: it has not failed."""
    left_s, again = s.now.until(again_at), f"virtsync tries again at {clock(again_at)}."
    if s.refusal:
        reason = Reason.START_FAILED if due_action.starts else Reason.ACTION_FAILED
        return Verdict(reason, f"{_failure(s)}: {s.refusal.rstrip('.')}. {again}", recheck_s=left_s)
    if s.history.decided in FAILURES:
        reported = s.history.message_of(s.history.decided)
        message = f"The last attempt failed. {again}" if reported is None else reported
        return Verdict(Reason(s.history.decided), message, recheck_s=left_s)
    return None


def no_turn(s: Situation, due_action: DueAction) -> Verdict | None:
    """Delay a start or a forced stop until the rate limit of the node gives the VM its turn."""
    if s.view.turn_in_s <= 0:
        return None
    does = "starts" if due_action.starts else "forces off"
    message = f"The VM waits for its turn, because virtsync {does} only a few VMs of a node at a time."
    return Verdict(due_action.reason, message, recheck_s=s.view.turn_in_s)


FORBIDDING = (held, observe_only, not_allowed)
GATES: tuple[Gate, ...] = (
    *FORBIDDING,
    libvirt_busy,
    qemu_alive,
    settling,
    runs_elsewhere,
    braked,
    backing_off,
    no_turn,
)


def _failure(s: Situation) -> str:
    """Return which request has failed, as text for a message."""
    outcome = s.view.memory.outcome
    request = REQUESTS[outcome.action if outcome else Action.START]  # without an outcome, a recorded start was refused
    if outcome and outcome.result is Result.UNSENT:
        return f"The request to {request} was not sent to libvirt"
    unknown = outcome is not None and outcome.result is Result.UNKNOWN
    return f"libvirt gave no result of the request to {request}" if unknown else f"libvirt refused to {request}"

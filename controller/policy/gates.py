"""The gates before an action that is due: what forbids it, and what delays it. Pure.

`GATES` are asked in order, and the first that returns a verdict decides; docs/decisions.md lists them for users, and a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controller.api.clock import Now
from controller.api.libvirt_words import PauseReason
from controller.api.names import ConditionType
from controller.api.values import replace
from controller.api.virtualmachine import PowerState, Reason, Status
from controller.policy.situation import Situation
from controller.policy.starts import OFF_CONFIRM_S
from controller.policy.stops import restored
from controller.policy.view import Action, Phase, Qemu, Verdict

BESIDE = {"backup"}
"""Jobs during which libvirt allows to shut down or destroy a domain; only the job itself is lost."""
ACTION_OVERDUE_S = 5.0
"""An action that has not returned for this long is reported as HypervisorBusy; a start, which takes about half a
second, as Starting and since when."""


PREDICATES = {PowerState.CRASHED: "has crashed", PowerState.SHUTTING_DOWN: "is shutting down"}
"""Power states whose own word does not fit into a sentence."""
REQUESTS = {
    Action.START: "start it",
    Action.START_PAUSED: "start it paused",
    Action.RESUME: "resume it",
    Action.WAKE: "wake it up",
    Action.SUSPEND: "pause it",
    Action.SHUTDOWN: "shut it down",
    Action.DESTROY: "force it off",
}
"""The actions in the words of messages about the VM."""
NEVER_SETTLES = "the agent runs with --settle-pause never"


@dataclass(frozen=True, slots=True)
class DueAction:
    """An action that is due, as the gates see it."""

    reason: Reason
    action: Action | None = None
    """None: only a wait, such as for a guest to shut down."""
    backs_off: bool = False
    """Failures lead to a backoff, although the action starts nothing."""
    again: bool = False
    """A recorded start that was not called: settle time, brake and backoff have been waited for already."""

    @property
    def starts(self) -> bool:
        """Whether the action starts a QEMU."""
        return self.action is not None and self.action.starts


Gate = Callable[[Situation, DueAction], Verdict | None]


def due(
    s: Situation, action: Action, reason: Reason, message: str, *, status: Status | None = None, backs_off: bool = False
) -> Verdict:
    """An action that is due: done now, unless a gate forbids or delays it."""
    due_action = DueAction(reason, action, backs_off, again=action.starts and s.start.again is not None)
    for gate in GATES:
        if verdict := gate(s, due_action):
            return replace(verdict, status=status) if due_action.again and not forbidden(s) else verdict
    # If the call never returns, only this recheck leads to another pass.
    return Verdict(reason, message, action, status=status or s.status, recheck_s=ACTION_OVERDUE_S)


def forbidden(s: Situation) -> Verdict | None:
    """What forbids every action: a hold, observe-only, or an agent that is not allowed to act."""
    return next((verdict for gate in FORBIDDING if (verdict := gate(s))), None)


def held(s: Situation, _: DueAction | None = None) -> Verdict | None:
    """The user holds the VM."""
    if not s.vm.holds:
        return None
    return Verdict(
        Reason.HELD, f"{drift_sentence(s)} virtsync does not correct this while the VM is held by {holders(s)}."
    )


def observe_only(s: Situation, _: DueAction | None = None) -> Verdict | None:
    """The agent of this node never acts."""
    if not s.view.node.observe_only:
        return None
    return Verdict(Reason.OBSERVE_ONLY, f"{drift_sentence(s)} The agent of this node only observes (--observe-only).")


def not_allowed(s: Situation, _: DueAction | None = None) -> Verdict | None:
    """This agent must not act: it lacks the host lock or the Lease, or it is stopping."""
    return Verdict(Reason.ACTION_BLOCKED, s.view.node.blocked) if s.view.node.blocked else None


def holders(s: Situation) -> str:
    """Who holds the VM, and why."""
    return ", ".join(f"{who} ({why})" if why else who for who, why in s.vm.holds)


def qemu_alive(s: Situation, due_action: DueAction) -> Verdict | None:
    """Before a start: the last QEMU might not have exited, although libvirt shows the domain off."""
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
        "The last QEMU process of the VM might not have exited: another process of virtsync stopped it, or its pid "
        f"file cannot be read. virtsync starts the VM if it is still off at {clock(confirmed_at)}."
    )
    return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=left_s)


def libvirt_busy(s: Situation, due_action: DueAction) -> Verdict | None:
    """libvirt is working on the domain, or has not answered. Force does not wait for a hanging call: force ends it."""
    view, reason, force = s.view, due_action.reason, due_action.action is Action.DESTROY
    if answer_in_s := _answer_in_s(s):
        # The message of the decision still holds; another message would cause another write.
        ready = s.history.condition(ConditionType.READY)
        said = (
            ready.message
            if ready and ready.reason == reason
            else "libvirt has not answered the last request for this VM yet."
        )
        return Verdict(reason, said, recheck_s=answer_in_s)
    if view.call and (not force or view.call is Action.DESTROY):
        message = f"libvirt has not answered the last request (to {REQUESTS[view.call]}) yet."
        return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=2.0)
    if view.crowded:
        message = (
            "virtsync has sent as many requests to libvirt as it sends at a time, and libvirt has not answered them. "
            "This VM waits until one of them returns."
        )
        return Verdict(Reason.HYPERVISOR_BUSY, message, recheck_s=1.0)
    if view.facts and view.facts.hangs and not force:
        return Verdict(Reason.HYPERVISOR_BUSY, "The QEMU process of the VM does not answer libvirt.", recheck_s=2.0)
    return _job(s)


def _job(s: Situation) -> Verdict | None:
    """A libvirt job owns the domain, and its grace period is not over."""
    kind, stop_attempt = job_kind(s), s.memory.stop_attempt
    if not kind or (kind in BESIDE and stop_attempt and s.now.until(stop_attempt.deadline) <= 0):
        return None
    return Verdict(Reason.HYPERVISOR_BUSY, f"{job_owns(s)}. virtsync waits for it to end.", recheck_s=2.0)


def job_owns(s: Situation) -> str:
    """Which job owns the domain, and since when: a moment, so that the message stays constant."""
    known = s.view.facts is not None and s.view.facts.job
    since = (s.memory.job_since if known else s.memory.phase_since) or s.now
    return f"A libvirt job ({job_kind(s)}) has been working on the VM since {clock(since)}"


def job_kind(s: Situation) -> str:
    """Which libvirt job owns the domain; empty: none."""
    if s.view.facts and s.view.facts.job:
        return s.view.facts.job
    return s.domain.reason.lower() if s.phase is Phase.PAUSED_BUSY and not _left_over(s) else ""


def overdue(s: Situation) -> bool:
    """A call on the domain has not returned within ACTION_OVERDUE_S."""
    return _answer_in_s(s) == 0


def _answer_in_s(s: Situation) -> float | None:
    """Seconds until the call on the domain is overdue; None: there is no call."""
    since = s.view.call_since
    return s.now.until(since.plus(ACTION_OVERDUE_S)) if since else None


def _left_over(s: Situation) -> bool:
    """PAUSED/MIGRATION without a job, observed twice: libvirt 9 always shows it for a domain saved while paused."""
    if s.domain.reason != PauseReason.MIGRATION or not restored(s.view.evidence) or s.waits.settle_pause_s is None:
        return False
    since = s.memory.jobless_since
    return since is None or s.now.until(since.plus(s.waits.settle_pause_s)) <= 0


def settling(s: Situation, due_action: DueAction | None = None) -> Verdict | None:
    """An administrator might be working on the VM: the settle time (a debounce) runs."""
    if s.settled_at is None or (due_action and due_action.again):
        return None
    if s.settles_forever:
        return Verdict(Reason.SETTLING, f"{drift_sentence(s)} virtsync does not correct this: {NEVER_SETTLES}.")
    left_s = s.now.until(s.settled_at)
    if left_s <= 0:
        return None
    until = clock(s.settled_at)
    message = (
        f"{drift_sentence(s)} virtsync waits until {until} before correcting this, in case an administrator is working "
        "on it."
    )
    return Verdict(Reason.SETTLING, message, recheck_s=left_s)


def braked(s: Situation, due_action: DueAction | None = None) -> Verdict | None:
    """The host might be shutting down: only what the user has just requested is started (a circuit breaker)."""
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
    """The exponential backoff after failures runs: it delays each start, and any other action that libvirt refused."""
    next_attempt = s.memory.next_attempt
    failed = s.history.decided in {Reason.START_FAILED, Reason.ACTION_FAILED}
    concerned = due_action.starts or due_action.backs_off or s.refusal or failed
    if due_action.again or next_attempt is None or not concerned or (left_s := s.now.until(next_attempt)) <= 0:
        return None
    again = f"virtsync tries again at {clock(next_attempt)}."
    if s.refusal:
        reason = Reason.START_FAILED if due_action.starts else Reason.ACTION_FAILED
        what = "to start the VM" if due_action.starts else "the action"
        return Verdict(reason, f"libvirt refused {what}: {s.refusal.rstrip('.')}. {again}", recheck_s=left_s)
    if failed:
        ready = s.history.condition(ConditionType.READY)
        said = (
            ready.message
            if ready and ready.reason == s.history.decided
            else f"libvirt refused the last attempt. {again}"
        )
        return Verdict(Reason(s.history.decided), said, recheck_s=left_s)
    if s.phase is Phase.PAUSED_IO_ERROR:
        message = f"An I/O error keeps pausing the VM (is its disk full?). {again}"
        return Verdict(Reason.PAUSED_BY_IO_ERROR, message, recheck_s=left_s)
    message = f"The VM keeps stopping. virtsync starts it again at {clock(next_attempt)}."
    return Verdict(Reason.CRASH_LOOP_BACK_OFF, message, recheck_s=left_s)


def no_turn(s: Situation, due_action: DueAction) -> Verdict | None:
    """The rate limit of the node: starts and forced stops take turns."""
    if s.view.turn_in_s <= 0:
        return None
    does = "starts" if due_action.starts else "forces off"
    message = f"The VM waits for its turn, because virtsync {does} only a few VMs of a node at a time."
    return Verdict(due_action.reason, message, recheck_s=s.view.turn_in_s)


FORBIDDING: tuple[Callable[[Situation], Verdict | None], ...] = (held, observe_only, not_allowed)
GATES: tuple[Gate, ...] = (
    held,
    observe_only,
    not_allowed,
    libvirt_busy,
    qemu_alive,
    settling,
    braked,
    backing_off,
    no_turn,
)


def power(s: Situation) -> PowerState:
    """The reported power state."""
    return s.status.power_state


def power_predicate(s: Situation) -> str:
    """The power state as the predicate of a sentence about the VM."""
    return PREDICATES.get(power(s), f"is {power(s).lower()}")


def drift_sentence(s: Situation) -> str:
    """The sentence that compares the VM with its spec."""
    return f"The VM {power_predicate(s)} and should be {str(s.desired).lower()}."


def clock(moment: Now) -> str:
    """A moment as messages show it."""
    return f"{moment.to_api():%H:%M:%SZ}"

"""The settle time (a debounce): how long virtsync waits before it corrects a drift from the spec. Pure."""

from __future__ import annotations

from controller.api.clock import Now
from controller.api.names import EventReason
from controller.api.notice import Notice
from controller.api.values import replace
from controller.api.virtualmachine import DesiredPowerState, PowerState, Reason, StopCause
from controller.policy.situation import UNSEEN, Situation
from controller.policy.view import Drift, Phase


def settled(s: Situation, *, spec_changed: bool) -> Situation:
    """Return the situation with the end of the settle time.

    The settle time begins when this process first observes that somebody else changed the domain.
    """
    if s.phase is None or s.desired is None:
        return s
    drift = _drift(s, s.phase)
    settle_s = _settle_s(s, drift)
    wait_s = settle_s or 0.0
    released = _released(s)
    since = s.now if released else _drift_since(s, drift, wait_s, spec_changed=spec_changed)
    notices = s.notices
    if released and s.view.node.maintenance is None:
        note = (
            "The hold, the maintenance of the host, or the run on another host that prevented actions on the VM has "
            "ended. If an action is due, it begins after the settle time, with a new grace period."
        )
        notices = (*notices, Notice(EventReason.HOLD_RELEASED, note))
    return replace(
        s,
        memory=replace(s.memory, drift=drift, drift_since=since),
        notices=notices,
        settled_at=since.plus(wait_s) if since else None,
        settles_forever=settle_s is None,
    )


def _released(s: Situation) -> bool:
    """Whether actions on the VM were forbidden in the last decision and are allowed now, and no stop is in flight.

    False while the agent is not allowed to act (ActionBlocked). A pass after that can return True.
    """
    blocked = s.view.node.blocked and not s.view.node.observe_only
    forbidden = s.view.held or blocked or s.runs_only_elsewhere
    return s.memory.held and s.operation is None and not forbidden


def _drift_since(  # noqa: PLR0911 - one rule a line
    s: Situation, drift: Drift, wait_s: float, *, spec_changed: bool
) -> Now | None:
    """Return since when the domain has drifted from the spec; None: no settle time applies."""
    history, memory = s.history, s.memory
    if spec_changed and (s.asked or s.restart_due):
        return None
    same = memory.drift is drift
    if history.decided == Reason.SETTLING and history.was_on != s.off and not _paused_again(s):
        return _settling_since(s, drift, wait_s)
    # No settle time after a crash or an I/O error, because no administrator causes these. Only the backoff applies.
    if s.phase is Phase.PAUSED_IO_ERROR:
        return None
    if s.operation or s.cause in {StopCause.AGENT, StopCause.CRASH}:
        return None
    if history.decided in UNSEEN:  # written by an older version, which did not report what it waited for
        return memory.drift_since if same and memory.drift_since else s.now
    if s.asked or s.restart_due:
        return None
    if s.start.ran:
        return s.now
    started = history.decided == Reason.STARTING and history.was_off  # the start might have caused the present state
    if started or history.power_state in {PowerState.UNKNOWN, PowerState.ABSENT}:
        return None
    if same and memory.drift_since:
        return memory.drift_since
    changed = s.status.power_state_transition_time
    watched = history.decided == Reason.OBSERVE_ONLY
    if watched or changed is None or history.power_state is not s.status.power_state:
        return s.now
    return s.now.recall(changed, at_most_s=wait_s)


def _paused_again(s: Situation) -> bool:
    """Whether an I/O error paused the VM after this process had observed it in another phase."""
    return s.phase is Phase.PAUSED_IO_ERROR and s.view.memory.phase not in {None, s.phase}


def _settling_since(s: Situation, drift: Drift, wait_s: float) -> Now | None:
    """Return since when the settle time runs, if the last decision was to wait for it or for the brake.

    None: only the brake delays the correction.
    """
    memory, decided = s.memory, s.history.decided_transition_time
    if memory.drift is drift:
        return memory.drift_since
    if not decided or memory.drift is not None:
        return s.now
    # This is a new process. The domain might have changed within the settle time, so the latest time counts.
    stop, changed = s.status.last_stop if s.off else None, s.status.power_state_transition_time
    times = (decided, changed, stop and stop.time)
    return s.now.recall(max(time for time in times if time), at_most_s=wait_s)


def _drift(s: Situation, phase: Phase) -> Drift:
    """Return the kind of drift. It does not change while a domain that should be off starts or shuts down.

    Maintenance does not shorten the settle time of a pause, which a backup might need.
    """
    if phase.off:
        return Drift.OFF
    if s.vm.desired is DesiredPowerState.STOPPED:
        return Drift.ON
    if phase.power_state is PowerState.PAUSED:
        return Drift.PAUSED
    if phase is Phase.SUSPENDED:
        return Drift.SUSPENDED
    return Drift.ON if s.desired is DesiredPowerState.STOPPED else Drift.RUNNING


def _settle_s(s: Situation, drift: Drift) -> float | None:
    """Return the settle time of this kind of drift in seconds; None: virtsync never corrects it."""
    patient = drift in {Drift.PAUSED, Drift.SUSPENDED}
    return s.waits.settle_pause_s if patient or s.cause is StopCause.SAVED else s.waits.settle_power_s

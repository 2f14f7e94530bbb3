"""What a look means: the report of before, brought up to date with what was seen just now.

Everything that the rows of the table ask for is found here once: whether the user changed the spec, what operation is
still in flight, why a domain went off, since when it is as it is. Pure; `assess` reads top to bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from controller.api.clock import Now
from controller.api.text import untimed
from controller.api.values import replace
from controller.api.virtualmachine import (
    BEYOND,
    Backoff,
    DesiredPowerState,
    DomainRecord,
    LastStop,
    Operation,
    OperationType,
    PowerState,
    Reason,
    Shutdown,
    Status,
    StopCause,
    VirtualMachine,
)
from controller.policy import handover, starts
from controller.policy import stops as causes
from controller.policy.handover import Elsewhere
from controller.policy.starts import Start
from controller.policy.view import (
    Absent,
    Domain,
    Drift,
    Evidence,
    Memory,
    Notice,
    Outcome,
    Phase,
    Pursuit,
    Result,
    Unreadable,
    View,
)
from controller.policy.waits import Waits

NO_START = Start()
UNSEEN = {Reason.LIBVIRT_UNREACHABLE, Reason.AGENT_UNREACHABLE}
"""Reasons of Ready under which the domain was not seen."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A view, understood. `status` is the draft of the report; the conditions are still those of before."""

    view: View
    waits: Waits
    history: Status
    """The report that this look builds on: empty where the user has bound the object to another domain."""
    status: Status
    memory: Memory
    asked: bool = False
    """The user has changed spec.powerState, and it has not been served yet."""
    restart_due: bool = False
    refusal: str = ""
    """libvirt's words, when the act before this look was refused."""
    settled_at: Now | None = None
    """When the settle time is over; None: nothing settles."""
    settles_forever: bool = False
    elsewhere: Elsewhere | None = None
    """Why the report of another host forbids a start here; while it does, that report is kept whole."""
    start: Start = NO_START
    """What has become of the start that is on record."""
    recheck_s: float | None = None
    notices: tuple[Notice, ...] = ()

    @property
    def vm(self) -> VirtualMachine:
        """The object."""
        return self.view.vm

    @property
    def now(self) -> Now:
        """The moment of the look."""
        return self.view.now

    @property
    def desired(self) -> DesiredPowerState | None:
        """What the user wants."""
        return self.view.vm.desired

    @property
    def domain(self) -> Domain:
        """The domain that was seen; asked for only where one was."""
        assert isinstance(self.view.seen, Domain)  # noqa: S101 - the vetoes before it have taken every other sight
        return self.view.seen

    @property
    def phase(self) -> Phase | None:
        """What the domain is doing, where one was seen."""
        return self.view.seen.phase if isinstance(self.view.seen, Domain) else None

    @property
    def wants_on(self) -> bool:
        """The user wants a QEMU."""
        return self.view.vm.wants_on

    @property
    def off(self) -> bool:
        """The domain is there and off."""
        return self.phase is not None and self.phase.off

    @property
    def operation(self) -> Operation | None:
        """The operation that is still in flight."""
        return self.status.operation

    @property
    def cycling(self) -> bool:
        """A restart is asked for or under way."""
        return self.restart_due or (self.operation is not None and self.operation.type is OperationType.RESTART)

    @property
    def restart_scheduled(self) -> bool:
        """A restart is asked for whose time has not come."""
        request = self.vm.restart_request
        return self.recheck_s is not None and request is not None and request > self.now.wall

    @property
    def stopping(self) -> bool:
        """A stop is in flight, and no restart."""
        return self.operation is not None and self.operation.type is OperationType.STOP

    @property
    def cause(self) -> StopCause | None:
        """Why it is off, as far as a stop was seen."""
        return self.status.last_stop.cause if self.off and self.status.last_stop else None


def assess(view: View, waits: Waits) -> Situation:
    """Understand one look."""
    vm, now = view.vm, view.now
    memory = view.memory if view.memory.uid == vm.uid else Memory(uid=vm.uid)
    history = vm.status
    if vm.misunderstood:
        return Situation(view, waits, history, history, memory)
    if elsewhere := handover.unresolved(history, view):
        status = replace(history, observed_generation=vm.generation)
        return Situation(view, waits, history, status, replace(memory, outcome=None), elsewhere=elsewhere)
    history = _history(vm)
    memory = replace(memory, held=memory.held or history.decided == Reason.HELD)
    if handover.is_foreign(history, view.node):
        history = handover.taken_over(history, view)

    start = _start(history, view, memory)
    news = vm.generation != history.observed_generation
    if start.ran and not news:  # so the wish that it was started for has been served
        history = replace(history, desired=vm.desired)
    asked = vm.desired != history.desired
    restart_due, recheck_s, memory = _restart_due(vm, history, memory, now, waits)
    status = replace(history, observed_generation=vm.generation)
    status, notices = _seen(status, view, memory, ran=start.ran)
    memory = _watched(memory, status, view)
    if isinstance(view.seen, Domain):
        memory = _timed(memory, history, view.seen.phase, now, waits)
        memory = replace(memory, jobless_since=_jobless_since(memory, view, view.seen))

    outcome, memory = _outcome(memory, view)
    status = replace(status, operation=_operation(history, view, memory, start))
    if start.withdrawn and memory.start_counted:
        status = replace(status, restart_count=max(status.restart_count - 1, 0))
    memory = replace(memory, pursuit=pursuit_of(status.operation, view, memory))
    if outcome and outcome.result is not Result.STALE and outcome.verb.name == "SHUTDOWN" and memory.pursuit:
        first = memory.pursuit.asked_first or now
        memory = replace(memory, pursuit=replace(memory.pursuit, asked_first=first, asked_last=now))

    if history.last_restart_time == BEYOND and vm.restart_request:  # nobody can tell whether it was served
        status = replace(status, last_restart_time=vm.restart_request)
    if (asked and news) or (restart_due and news):
        status = replace(status, backoff=None)
    if asked or restart_due or (isinstance(view.seen, Domain) and view.seen.phase.on):
        status = replace(status, completion_time=None)

    refusal = untimed(outcome.message) if outcome and outcome.result is Result.REFUSED else start.refusal
    status, memory = _backed_off(status, memory, view, waits, refused=bool(refusal))
    situation = Situation(
        view=view,
        waits=waits,
        history=history,
        status=status,
        memory=memory,
        asked=asked,
        restart_due=restart_due,
        refusal=refusal,
        start=start,
        recheck_s=recheck_s,
        notices=notices,
    )
    return _settling(situation, news=news)


# --- whose history this is -------------------------------------------------------------------------------------------


def _history(vm: VirtualMachine) -> Status:
    """The last report; a new one when the user has bound the object to another domain.

    The same domain in other words, as by its UUID instead of its name, is no other: what is known of it stays.
    """
    record = vm.status.domain
    if not record or not record.bound_by or record.bound_by == vm.bound_by:
        return vm.status
    same = record.uuid == vm.domain_uuid if vm.domain_uuid else record.name == vm.bound_by
    return vm.status if same else Status(conditions=vm.status.conditions)


# --- what the user asks for ------------------------------------------------------------------------------------------


def _restart_due(
    vm: VirtualMachine, history: Status, memory: Memory, now: Now, waits: Waits
) -> tuple[bool, float | None, Memory]:
    """Whether a requested restart is to begin now, and else when to look again for it.

    A time that this process has seen in the future counts as come only when two looks some seconds apart agree: one
    jump of the wall clock must not restart a fleet.
    """
    request = vm.restart_request
    if vm.desired is not DesiredPowerState.RUNNING or request is None or request <= vm.created:
        return False, None, memory
    if history.last_restart_time and request <= history.last_restart_time:
        return False, None, memory
    if request > now.wall:
        ahead_s = (request - now.wall).total_seconds()
        return False, ahead_s, replace(memory, scheduled=request, scheduled_passed=None)
    if memory.scheduled != request:
        return True, None, memory
    passed = memory.scheduled_passed or now
    left_s = waits.schedule_confirm_s - (now.monotonic_s - passed.monotonic_s)
    # What is due looks again by itself; while it may not be served a wait of no time would be no wait.
    return left_s <= 0, left_s if left_s > 0 else None, replace(memory, scheduled_passed=passed)


# --- what was seen ---------------------------------------------------------------------------------------------------


def _seen(status: Status, view: View, memory: Memory, *, ran: bool) -> tuple[Status, tuple[Notice, ...]]:
    """The report with the sight written into it; `ran`: it has run since the report, and is off again."""
    if isinstance(view.seen, Unreadable):
        return status, ()
    status = replace(status, node_name=view.node.name, node_boot_id=view.node.boot_id, host_uuid=view.node.host_uuid)
    if isinstance(view.seen, Domain):
        return _seen_domain(status, view, view.seen, memory, ran=ran)
    gone = PowerState.ABSENT if isinstance(view.seen, Absent) else PowerState.UNKNOWN
    # It has run since the stop that is on record, and only events tell how that ended.
    unseen = isinstance(view.seen, Absent) and (status.was_on or ran)
    before = replace(status, node_boot_id=view.vm.status.node_boot_id)
    return (
        replace(
            _in_power_state(status, gone, view.now),
            desired=None,
            libvirt_state="",
            libvirt_reason="",
            domain=status.domain and replace(status.domain, id=None),
            last_stop=_stop(causes.cause_of_end(before, view), view.now) if unseen else status.last_stop,
            completion_time=None,
        ),
        (),
    )


def _seen_domain(
    status: Status, view: View, domain: Domain, memory: Memory, *, ran: bool
) -> tuple[Status, tuple[Notice, ...]]:
    stop, notices = _last_stop(status, view, domain, memory, ran=ran)
    # libvirtd forgets why a domain is off when it restarts; the report remembers.
    forgotten = domain.state == status.libvirt_state == "SHUTOFF" and domain.reason == "UNKNOWN"
    bound = view.vm.bound_by
    run = status.domain.id if status.domain and domain.lingers else domain.id
    return (
        replace(
            _in_power_state(status, domain.phase.power_state, view.now),
            libvirt_state=domain.state,
            libvirt_reason=status.libvirt_reason if forgotten else domain.reason,
            domain=DomainRecord(domain.name, domain.uuid, bound, run, domain.persistent, domain.autostart),
            last_stop=stop,
            # An acceptance belongs to the stop that it accepted.
            completion_time=status.completion_time if stop == status.last_stop else None,
        ),
        notices,
    )


def _in_power_state(status: Status, power_state: PowerState, now: Now) -> Status:
    if power_state is status.power_state:
        return status
    return replace(status, power_state=power_state, power_state_transition_time=shown(now))


def _last_stop(
    history: Status, view: View, domain: Domain, memory: Memory, *, ran: bool
) -> tuple[LastStop | None, tuple[Notice, ...]]:
    """Why it is off, found once and kept until it has run again; better evidence may still replace Unknown."""
    stop, unreported = history.last_stop, memory.unreported_stop
    if not domain.phase.off:
        newer = unreported and (stop is None or stop.time < unreported.time)
        return (unreported if newer else stop), ()
    # `history` is already told of this boot; the report that was there knows the boot in which it ran.
    before = replace(history, node_boot_id=view.vm.status.node_boot_id)
    if before.was_on or ran:
        cause = causes.cause_of_stop(domain, before, view)
        if unreported and unreported.cause is not StopCause.UNKNOWN:
            return unreported, _stop_notices(view, unreported)
        found = _stop(cause, view.now)
        return found, _stop_notices(view, found)
    if stop is None:
        return None, ()
    return _reconsidered(stop, before, view, domain), ()


def _reconsidered(stop: LastStop, before: Status, view: View, domain: Domain) -> LastStop:
    """What is learnt of a stop while the domain is still off."""
    if stop.cause is StopCause.SAVED and before.power_state is PowerState.SAVED and domain.phase is Phase.STOPPED:
        # Somebody threw the saved memory away: that is no memory which waits elsewhere.
        return replace(stop, cause=StopCause.EXTERNAL, message="Somebody removed its saved memory.")
    rebooted = before.node_boot_id != view.node.boot_id
    may_be_host = stop.cause in {StopCause.GUEST, StopCause.EXTERNAL, StopCause.UNKNOWN} or (
        stop.cause is StopCause.SAVED and domain.phase is Phase.SAVED
    )
    if rebooted and may_be_host and before.completion_time is None and view.vm.desired == before.desired:
        return replace(stop, cause=StopCause.NODE_REBOOT, message=causes.MESSAGES[StopCause.NODE_REBOOT])
    if stop.cause is StopCause.UNKNOWN and not rebooted:
        cause = causes.cause_of_stop(domain, before, view)
        return replace(stop, cause=cause, message=causes.MESSAGES[cause])
    return stop


def _stop(cause: StopCause, now: Now) -> LastStop:
    return LastStop(cause, shown(now), causes.MESSAGES[cause])


def _stop_notices(view: View, stop: LastStop) -> tuple[Notice, ...]:
    """The Event of a stop that virtsync did not cause; its own acts have Events of their own."""
    if stop.cause is StopCause.AGENT:
        return ()
    vm = view.vm
    unwanted = vm.wants_on and causes.answer(stop.cause, vm.restart_policy) is not causes.Answer.COMPLETED
    note = f"{stop.message} Cause: {stop.cause}; spec generation {vm.generation}."
    return (Notice("StoppedUnexpectedly" if unwanted else "Stopped", note, warning=unwanted),)


# --- what is in flight -----------------------------------------------------------------------------------------------


def _start(history: Status, view: View, memory: Memory) -> Start:
    """What has become of the start that is on record, if one is and this host can be seen."""
    if history.operation is None or not history.operation.starts:
        return NO_START
    if isinstance(view.seen, Unreadable):
        return Start(history.operation)
    return starts.follow(history, view, memory)


def _outcome(memory: Memory, view: View) -> tuple[Outcome | None, Memory]:
    """What came of the last act; that of a start waits for a look that sees what it has led to."""
    if isinstance(view.seen, Unreadable) and memory.outcome and memory.outcome.verb.starts:
        return None, memory
    return memory.outcome, replace(memory, outcome=None)


def _operation(  # noqa: PLR0911 - one rule a line
    history: Status, view: View, memory: Memory, start: Start
) -> Operation | None:
    """The operation that is still in flight after this look, or None when it is done, void or dropped."""
    vm, seen = view.vm, view.seen
    starting = history.operation is not None and history.operation.starts
    operation = start.operation if starting else history.operation
    if operation is None or operation.starts or isinstance(seen, Unreadable):
        return operation
    unwanted = vm.holds or vm.desired in {None, DesiredPowerState.PAUSED}
    if unwanted or vm.status.node_boot_id != view.node.boot_id or not isinstance(seen, Domain):
        return None
    if vm.desired is DesiredPowerState.STOPPED:
        operation = replace(operation, type=OperationType.STOP)
    if seen.phase.off:
        return operation if operation.type is OperationType.RESTART else None
    if seen.lingers:
        return operation
    # libvirtd gives out its ids anew when it restarts while nothing runs.
    watched = memory.pursuit is not None and memory.pursuit.start_time == operation.start_time
    other_run = not watched and starts.began_since(seen.run_since, operation, view.now)
    if seen.id != operation.domain_id or other_run or _recalled_and_over(operation, view, memory):
        return None
    if history.reason in UNSEEN:
        return begun(operation.type, seen, vm.shutdown, view.now)
    return replace(operation, deadline=operation.start_time + timedelta(seconds=vm.shutdown.grace_s))


def _recalled_and_over(operation: Operation, view: View, memory: Memory) -> bool:
    """The user wants it on again after all, and the guest has let its old grace period pass."""
    if view.vm.desired is not DesiredPowerState.RUNNING or operation.type is not OperationType.STOP:
        return False
    return view.now.until(deadline_of(operation, memory.pursuit, view.vm.shutdown, view.now)) <= 0


def begun(kind: OperationType, domain: Domain, shutdown: Shutdown, now: Now) -> Operation:
    """A new operation on this run of the domain, with its whole grace period."""
    start = shown(now)
    return Operation(kind, start, start + timedelta(seconds=shutdown.grace_s), domain.id)


def deadline_of(operation: Operation, pursuit: Pursuit | None, shutdown: Shutdown, now: Now) -> Now:
    """When an operation's grace is over; what status tells only seeds it, whatever the wall clock does later.

    A change of the grace period counts for the stop in flight: it moves the deadline by as much.
    """
    told = operation.deadline or operation.start_time
    if pursuit and pursuit.domain_id == operation.domain_id and pursuit.start_time == operation.start_time:
        return pursuit.deadline.plus((told - pursuit.deadline.wall).total_seconds())
    return now.expect(told, at_most_s=shutdown.grace_s)


def pursuit_of(operation: Operation | None, view: View, memory: Memory) -> Pursuit | None:
    """What this process knows of the stop in flight; ends with it, and with any look that could not see."""
    if operation is None or operation.starts or isinstance(view.seen, Unreadable):
        return None
    return pursued(operation, view, memory)


def pursued(operation: Operation, view: View, memory: Memory) -> Pursuit:
    """The pursuit of this operation: the one that is known, or a new one."""
    known = memory.pursuit
    deadline = deadline_of(operation, known, view.vm.shutdown, view.now)
    if known and (known.domain_id, known.start_time) == (operation.domain_id, operation.start_time):
        return replace(known, deadline=deadline)
    return Pursuit(operation.domain_id, operation.start_time, since=view.now, deadline=deadline)


# --- since when ------------------------------------------------------------------------------------------------------


def _watched(memory: Memory, status: Status, view: View) -> Memory:
    """Remember since when it is off without doubt, which job it has, and what is now on record of its stop."""
    seen, before = view.seen, view.vm.status.operation
    off = isinstance(seen, Domain) and seen.phase.off and view.call is None
    stop = before is not None and not before.starts and view.vm.status.node_boot_id == view.node.boot_id
    unsent = memory.pursuit is None or (before is not None and memory.pursuit.domain_id != before.domain_id)
    doubted = memory.off_doubted and (off or isinstance(seen, Unreadable))
    unreported = memory.unreported_stop
    written = unreported and status.last_stop and status.last_stop.time >= unreported.time
    return replace(
        memory,
        off_since=(memory.off_since or view.now) if off else None,
        off_doubted=doubted or (off and memory.off_since is None and stop and unsent),
        unreported_stop=None if written else unreported,
        **_job(memory, view),
    )


def _job(memory: Memory, view: View) -> dict[str, Any]:
    """The libvirt job that owns the domain, and since when; only an act that is due asks for it."""
    if view.facts is None or view.facts.job == memory.job:
        return {}
    return {"job": view.facts.job, "job_since": view.now if view.facts.job else None}


def _timed(memory: Memory, history: Status, phase: Phase, now: Now, waits: Waits) -> Memory:
    """Remember since when the domain is in this phase."""
    if memory.phase is phase and memory.phase_since:
        return memory
    since = now
    if history.power_state is phase.power_state and history.power_state_transition_time:
        since = now.recall(history.power_state_transition_time, at_most_s=waits.backoff_forget_s)
    return replace(memory, phase=phase, phase_since=since)


def _jobless_since(memory: Memory, view: View, domain: Domain) -> Now | None:
    """Since when a pause that looks like a job's is known to have no job behind it."""
    if domain.phase is not Phase.PAUSED_BUSY or (view.facts and view.facts.job):
        return None
    return memory.jobless_since or (view.now if view.facts else None)


def _backed_off(status: Status, memory: Memory, view: View, waits: Waits, *, refused: bool) -> tuple[Status, Memory]:
    """The backoff after this look: grown by a refusal, forgotten after a long good run."""
    backoff, now, since = status.backoff, view.now, memory.phase_since
    runs = isinstance(view.seen, Domain) and view.seen.phase is Phase.RUNNING
    if backoff and runs and since and since.plus(waits.backoff_forget_s).monotonic_s <= now.monotonic_s:
        backoff = None
    next_attempt = _next_attempt(backoff, memory, now, waits)
    if refused and (next_attempt is None or now.until(next_attempt) <= 0):
        backoff, next_attempt = grown(backoff, now, waits)
    told = backoff.next_attempt_time if backoff else None
    return replace(status, backoff=backoff), replace(memory, next_attempt=next_attempt, next_attempt_told=told)


def _next_attempt(backoff: Backoff | None, memory: Memory, now: Now, waits: Waits) -> Now | None:
    if backoff is None:
        return None
    if memory.next_attempt and memory.next_attempt_told == backoff.next_attempt_time:
        return memory.next_attempt
    return now.expect(backoff.next_attempt_time, at_most_s=waits.backoff_max_s)


def grown(backoff: Backoff | None, now: Now, waits: Waits) -> tuple[Backoff, Now]:
    """The backoff after one more attempt, and the moment of the next one."""
    failures = backoff.failures if backoff else 0
    # The exponent is bounded so that a year of failures is still a number.
    delay_s = min(waits.backoff_first_s * 2 ** min(failures, 30), waits.backoff_max_s)
    moment = now.plus(delay_s)
    # Rounded up: a wait that is told in whole seconds must not be shorter than it was meant.
    return Backoff(failures + 1, shown(moment.plus(1))), moment


def _settling(s: Situation, *, news: bool) -> Situation:
    """Find when the settle time is over, counted from the first sign that somebody changed the domain."""
    if s.phase is None or s.desired is None:
        return s
    drift = _drift(s.desired, s.phase)
    settle_s = _settle_s(s, drift)
    wait_s = settle_s or 0.0
    released = s.memory.held and not s.vm.holds
    since = s.now if released else _drift_since(s, drift, wait_s, news=news)
    notices = s.notices
    if released:
        note = "The last hold is gone; what is due begins after the settle time, with a new grace period."
        notices = (*notices, Notice("HoldReleased", note))
    return replace(
        s,
        memory=replace(s.memory, drift=drift, drift_since=since),
        notices=notices,
        settled_at=since.plus(wait_s) if since else None,
        settles_forever=settle_s is None,
    )


def _drift_since(s: Situation, drift: Drift, wait_s: float, *, news: bool) -> Now | None:  # noqa: PLR0911 - one rule a line
    """Since when the domain is what nobody asked for; None where no settle time applies."""
    history, memory = s.history, s.memory
    if news and (s.asked or s.restart_due):
        return None
    same = memory.drift is drift
    if history.decided == Reason.SETTLING and history.was_on != s.off and not _pauses_anew(s):
        return _settling_since(s, drift, wait_s)
    # Nobody is at work on what has crashed, or what an I/O error paused; only the backoff asks for patience.
    if s.phase is Phase.PAUSED_IO_ERROR:
        return None
    if s.operation or s.cause in {StopCause.AGENT, StopCause.CRASH}:
        return None
    if history.decided in UNSEEN:  # an older version wrote this: what it waited for before is not known
        return memory.drift_since if same and memory.drift_since else s.now
    if s.asked or s.restart_due:
        return None
    if s.start.ran:
        return s.now
    started = history.decided == Reason.STARTING and history.was_off  # what is there now may have come of that
    if started or history.power_state in {PowerState.UNKNOWN, PowerState.ABSENT}:
        return None
    if same and memory.drift_since:
        return memory.drift_since
    changed = s.status.power_state_transition_time
    watched = history.decided == Reason.OBSERVE_ONLY
    if watched or changed is None or history.power_state is not s.status.power_state:
        return s.now
    return s.now.recall(changed, at_most_s=wait_s)


def _pauses_anew(s: Situation) -> bool:
    """An I/O error pauses it, and it was paused by something else before: so it has run in between."""
    return s.phase is Phase.PAUSED_IO_ERROR and s.view.memory.phase not in {None, s.phase}


def _settling_since(s: Situation, drift: Drift, wait_s: float) -> Now | None:
    """Since when what the last look decided to leave alone settles."""
    memory, reconciling = s.memory, s.history.condition("Reconciling")
    if memory.drift is drift:  # None: what waits is not this, it is the brake
        return memory.drift_since
    if not reconciling or memory.drift is not None:
        return s.now
    # A new process; and something else may have been reconciled before.
    stop, changed = s.status.last_stop if s.off else None, s.status.power_state_transition_time
    times = (reconciling.last_transition_time, changed, stop and stop.time)
    return s.now.recall(max(time for time in times if time), at_most_s=wait_s)


def _drift(desired: DesiredPowerState, phase: Phase) -> Drift:
    """What sort of drift this is; a domain that only goes through a start or a shutdown has not changed sorts."""
    if phase.off:
        return Drift.OFF
    if desired is DesiredPowerState.STOPPED:
        return Drift.ON
    if phase.power_state is PowerState.PAUSED:
        return Drift.PAUSED
    return Drift.SUSPENDED if phase is Phase.SUSPENDED else Drift.RUNNING


def _settle_s(s: Situation, drift: Drift) -> float | None:
    """How long this sort of drift is left alone; None: for ever."""
    patient = drift in {Drift.PAUSED, Drift.SUSPENDED}
    return s.waits.settle_pause_s if patient or s.cause is StopCause.SAVED else s.waits.settle_power_s


def shown(now: Now) -> datetime:
    """A moment as the API shows it: whole seconds."""
    return now.wall.replace(microsecond=0)


def restored(evidence: frozenset[Evidence]) -> bool:
    """The last start brought memory back."""
    return Evidence.STARTED_RESTORED in evidence

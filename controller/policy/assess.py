"""Make a situation from a view: what this observation means. Pure; `assess` has all steps, from top to bottom.

Theory of operation
-------------------

libvirt shows a state, not what led to it: "off" can mean a crash, a finished job, or a host that shuts down. So a
decision also needs what earlier passes have observed. Four values contain this knowledge. They differ in who writes
them, and in which restarts they survive.

history   The last report, `vm.status`. The agent of the node writes it in each pass in which the report changes. It
          survives restarts of the agent, of libvirtd and of the host, and a move to another node (handover.py). No
          other of these values is durable.
status    The draft of the next report. It begins as a copy of history, and the steps below change it. If the API server
          does not accept it, it is lost at the end of the pass; then no action is taken, and the next pass drafts it
          again.
memory    `VmMemory`: monotonic moments, the last recorded start, the outcome of the last action. This process writes it
          after a report was written (agent/memories.py) or an action has ended. It survives restarts of libvirtd and of
          the API server, and is lost when the agent restarts.
evidence  Details of libvirt's events, such as STOPPED/CRASHED. The event thread writes it (hypervisor/events.py). It
          survives restarts of libvirtd and of the API server. It is lost when the agent restarts, and when the domain
          is started or defined again.

- The agent restarts: history is enough for a correct decision. It contains each action, recorded before the call, and
  each wait. A wait can begin again, but never becomes longer than its setting. Without memory, two decisions come
  later: that a recorded start has ended (starts.py), and a forced stop, because the new process asks the guest first
  (stopping.py).
- libvirtd restarts: it forgets why a domain is off (UNKNOWN), but history keeps the reason. While libvirt does not
  answer, the observation is `Unreadable`. Such an observation changes no power state, and removes `stop_attempt` and
  `off_since` from memory, because the domain might change unobserved.
- The host restarts: its boot id differs from the one in history. So no recorded operation is in flight. A VM that was
  on and is off now has the cause NodeReboot, unless it was migrated, saved or stopped by virtsync before.
- The API server does not answer: memory keeps the last stop if it could not be reported (`unreported_stop`), because a
  later start removes its evidence.
- The wall clock is set: history contains wall-clock times. Each of them is converted once to a monotonic moment, which
  memory keeps, so no wait becomes longer than its setting.

Example: a crash loop with the default settings. Each line is one pass, and begins with its time in seconds. A test in
tests/policy/test_situation.py repeats this example.

  0    observed off, evidence STOPPED/FAILED; history Running    cause Crash; start; failures 1, next attempt at 11
  1    on, run 2; memory: the start is DONE                      InSync; the record of the start ends; failures stay
  5    off, evidence STOPPED/FAILED                              CrashLoopBackOff until 11
  11   off, the wait is over                                     start; failures 2, next attempt at 32
  12   on, run 3                                                 InSync
  15   the agent has restarted: memory and evidence are empty    InSync; memory takes "next attempt at 32" from history
  20   off, evidence STOPPED/FAILED, from the new process        CrashLoopBackOff until 32: the restart skips no wait
  32   off, the wait is over                                     start; failures 3, next attempt at 73
  33   on, run 4                                                 InSync; next observation in 600 s, if none before
  633  on, run 4, for 600 s                                      InSync; the backoff is forgotten, restartCount stays 3
"""

from __future__ import annotations

from typing import Any

from controller.api.clock import Now
from controller.api.libvirt_words import OffReason, State
from controller.api.notice import Notice
from controller.api.text import without_log_times
from controller.api.values import replace
from controller.api.virtualmachine import (
    BEYOND,
    DesiredPowerState,
    DomainRecord,
    Operation,
    OperationType,
    PowerState,
    Status,
    VirtualMachine,
)
from controller.policy import handover, starts
from controller.policy import stops as causes
from controller.policy.backoff import backed_off
from controller.policy.operations import in_flight, stop_attempt_of
from controller.policy.settling import settled
from controller.policy.situation import FORBIDDEN, NO_START, Situation
from controller.policy.starts import Start
from controller.policy.stops import last_stop_of
from controller.policy.view import (
    Absent,
    Action,
    Conflict,
    Domain,
    Evidence,
    Outcome,
    Phase,
    Replaced,
    Result,
    StopAttempt,
    Unreadable,
    View,
    VmMemory,
)
from controller.policy.waits import Waits

CLOCK_CHECK_S = 600.0
"""A VM with a restart that is scheduled for later is observed again after this time at the latest, because the wall
clock might have been set meanwhile."""
NO_WORDS = "it gave no reason"
"""What a message says about an action that has failed without a message."""


def assess(view: View, waits: Waits) -> Situation:
    """Return what one view means: the changes of the spec, the operation in flight, and the draft of the report."""
    vm, now = view.vm, view.now
    memory = view.memory if view.memory.uid == vm.uid else VmMemory(uid=vm.uid)
    history = vm.status
    if vm.misunderstood:
        return Situation(view, waits, history, _with_node(history, view), memory)
    if unresolved := handover.unresolved(history, view):
        status = replace(history, observed_generation=vm.generation)
        return Situation(view, waits, history, status, replace(memory, outcome=None), unresolved=unresolved)
    history = _history_of_domain(view)
    if history is not vm.status:
        memory = VmMemory(uid=vm.uid)
    spec_changed = vm.generation != history.observed_generation
    memory = replace(memory, held=memory.held or _was_held(history, vm, spec_changed=spec_changed))
    if handover.is_foreign(history, view.node):
        history = handover.taken_over(history, view)
    history = _with_call(history, view)
    history, memory = _without_unsent(history, view, memory)

    start = _start(history, view, memory)
    if start.ran and not spec_changed:  # the VM was started for this spec, so the spec has been served
        history = replace(history, desired=vm.desired)
    asked = vm.desired != history.desired
    restart_due, recheck_s, memory = _restart_due(view, history, memory, waits)
    status = replace(history, observed_generation=vm.generation)
    status, notices = _observed(status, view, memory, ran=start.ran)
    memory = _with_off_and_job(memory, status, view)
    if isinstance(view.observed, Domain):
        memory = _with_phase(memory, history, view.observed.phase, now, waits)
        memory = replace(memory, jobless_since=_jobless_since(memory, view, view.observed))
    elif isinstance(view.observed, (Absent, Replaced)):  # a domain that is defined here later has not run since
        memory = replace(memory, phase=None, phase_since=None, jobless_since=None)

    outcome, memory = _outcome(memory, view)
    status = replace(status, operation=in_flight(history, view, memory, start))
    if start.withdrawn and memory.start_counted:
        status = replace(status, restart_count=max(status.restart_count - 1, 0))
    memory = replace(memory, stop_attempt=stop_attempt_of(status.operation, view, memory))
    memory = _with_called(memory, outcome, view)

    if history.last_restart_time == BEYOND and vm.restart_request:  # not known whether this request was served
        status = replace(status, last_restart_time=vm.restart_request)
    if spec_changed and (asked or restart_due):
        status = replace(status, backoff=None)
    if asked or restart_due or (isinstance(view.observed, Domain) and view.observed.phase.on):
        status = replace(status, completion_time=None)

    refusal = without_log_times(outcome.message or NO_WORDS) if outcome and _failed(outcome, view) else start.refusal
    unanswered = bool(start.again and outcome and outcome.unanswered and memory.start_unanswered > 1)
    status, memory = backed_off(status, memory, view, waits, failed=bool(refusal) or unanswered)
    situation = Situation(
        view=view,
        waits=waits,
        history=history,
        status=status,
        memory=memory,
        asked=asked,
        restart_due=restart_due,
        refusal=refusal,
        unanswered=unanswered,
        start=start,
        recheck_s=recheck_s,
        notices=notices,
    )
    return settled(situation, spec_changed=spec_changed)


# --- which history applies -------------------------------------------------------------------------------------------


def _history_of_domain(view: View) -> Status:
    """Return the last report; only what is not about its domain, if the user has bound the object to another domain."""
    report = view.vm.status
    if handover.is_of_the_domain(report, view):
        return report
    return Status(
        decided_reason=report.decided,
        last_restart_time=report.last_restart_time,  # a request that was served is not served again
        run_transition_time=report.run_transition_time,  # each of these times is later than the one before
    )


def _with_call(history: Status, view: View) -> Status:
    """Return the history with the start that this process has called and libvirt has not answered yet.

    The record of the call is missing if the object was created again, or referred to another domain meanwhile.
    """
    recorded = history.operation is not None and history.operation.starts
    off = isinstance(view.observed, Domain) and view.observed.phase.off
    if recorded or not off or view.call is None or not view.call.action.starts:
        return history
    return replace(history, operation=Operation(OperationType.START, view.call.since.to_api(), attempt=1))


def _without_unsent(history: Status, view: View, memory: VmMemory) -> tuple[Status, VmMemory]:
    """Return the history and the memory without a shutdown request that was recorded and that no guest has received.

    The object changed between the report and the call, the domain was not as expected, or libvirt refused the request
    or could not be asked. If the VM should run now, the stop itself is dropped, too.
    """
    unsent, outcome = memory.unsent_shutdown, memory.outcome
    if unsent is None or view.call:
        return history, memory
    if outcome and _might_be_received(outcome):
        return history, replace(memory, unsent_shutdown=None)
    if isinstance(view.observed, Unreadable):
        return history, memory
    domain, operation, memory = history.domain, history.operation, replace(memory, unsent_shutdown=None)
    if domain is None or domain.shutdown_request_time != unsent:
        return history, memory
    if operation and operation.type is OperationType.STOP and view.desired is DesiredPowerState.RUNNING:
        operation = None
    return replace(history, domain=replace(domain, shutdown_request_time=None), operation=operation), memory


def _might_be_received(outcome: Outcome) -> bool:
    """Whether the guest might have received the shutdown request that this process has recorded before the action."""
    # The outcome of a shutdown that a forced stop has overtaken is dropped: the forced stop shows that it was sent.
    sent = outcome.action is Action.SHUTDOWN and outcome.called and outcome.result is not Result.REFUSED
    return sent or outcome.action is Action.DESTROY


# --- what the user requests ------------------------------------------------------------------------------------------


def _was_held(history: Status, vm: VirtualMachine, *, spec_changed: bool) -> bool:
    """Whether in the last decision the due action was forbidden, or maintenance of the host shut down the VM."""
    operation = history.operation
    stopping = operation is not None and bool(operation.for_maintenance) and not spec_changed
    return history.decided in FORBIDDEN or (stopping and vm.desired is DesiredPowerState.RUNNING)


def _restart_due(view: View, history: Status, memory: VmMemory, waits: Waits) -> tuple[bool, float | None, VmMemory]:
    """Return whether a requested restart is due, in how many seconds to observe again for it, and the memory.

    Maintenance that shuts down the VM does not serve the request: the restart is still due afterwards.
    If this process has observed that the requested time is in the future, the restart is due only when two observations
    some seconds apart agree that the time has passed. So one jump of the wall clock cannot restart all VMs.
    """
    vm, now, request = view.vm, view.now, view.vm.restart_request
    if view.desired is not DesiredPowerState.RUNNING or request is None or request <= vm.created:
        return False, None, memory
    if history.last_restart_time and request <= history.last_restart_time:
        return False, None, memory
    if request > now.wall:
        ahead_s = (request - now.wall).total_seconds()
        return False, min(ahead_s, CLOCK_CHECK_S), replace(memory, scheduled=request, scheduled_passed=None)
    # The start of a VM that is off is its restart. One that has completed would be started only for the request.
    starting = isinstance(view.observed, Domain) and view.observed.phase.off and history.completion_time is None
    if memory.scheduled != request or starting:
        return True, None, memory
    passed = memory.scheduled_passed or now
    left_s = waits.schedule_confirm_s - (now.monotonic_s - passed.monotonic_s)
    # A due restart needs no recheck here. If a gate delays it, a recheck in 0 s would cause a busy loop.
    return left_s <= 0, left_s if left_s > 0 else None, replace(memory, scheduled_passed=passed)


# --- what was observed -----------------------------------------------------------------------------------------------


def _observed(status: Status, view: View, memory: VmMemory, *, ran: bool) -> tuple[Status, tuple[Notice, ...]]:
    """Return the draft with the observation, and the Event of a stop.

    `ran` means that the VM has run since the last report, and is off again.
    """
    if isinstance(view.observed, Unreadable):
        return _with_node(status, view), ()
    status = _of_node(status, view)
    if isinstance(view.observed, Domain):
        return _observed_domain(status, view, view.observed, memory, ran=ran)
    gone = PowerState.ABSENT if isinstance(view.observed, Absent) else PowerState.UNKNOWN
    ran = ran or (Evidence.STOPPED_MIGRATED in view.evidence and not handover.sent_away(status))
    ended = isinstance(view.observed, (Absent, Replaced))
    stop = causes.end_of(status, view, memory, ran=ran) if ended else status.last_stop
    # A domain that is not found, or belongs to another object, is not the request to run it again.
    kept = isinstance(view.observed, Conflict) or (status.completion_time is not None and stop == status.last_stop)
    record = status.domain or DomainRecord("", None, view.vm.bound_by)
    return (
        replace(
            _in_power_state(status, gone, view, memory),
            desired=status.desired if kept else None,
            libvirt_state="",
            libvirt_reason="",
            domain=replace(record, id=None, shutdown_request_time=None),
            last_stop=stop,
            completion_time=status.completion_time if kept else None,
        ),
        (),
    )


def _of_node(status: Status, view: View) -> Status:
    return replace(status, node_name=view.node.name, node_boot_id=view.node.boot_id, host_uuid=view.node.host_uuid)


def _with_node(status: Status, view: View) -> Status:
    """Return the draft of a report without an observation: it names this node, unless it keeps a report that does.

    Without the name, another node would not know that the VM might run on this one.
    """
    return status if status.node_name else _of_node(status, view)


def _observed_domain(
    status: Status, view: View, domain: Domain, memory: VmMemory, *, ran: bool
) -> tuple[Status, tuple[Notice, ...]]:
    """Return the draft with the observed domain, and the Event of a stop."""
    stop, notices = last_stop_of(status, view, domain, memory, ran=ran)
    # When libvirtd restarts, it forgets why a domain is off. The report keeps the reason.
    forgotten = domain.state == status.libvirt_state == State.SHUTOFF and domain.reason == OffReason.UNKNOWN
    bound = view.vm.bound_by
    last = status.domain
    run = last.id if last and domain.lingers else domain.id
    same_run = last and run is not None and (last.uuid, last.id) == (domain.uuid, run) and not view.rebooted
    asked = last.shutdown_request_time if last and same_run else None
    return (
        replace(
            _in_power_state(status, domain.phase.power_state, view, memory),
            libvirt_state=domain.state,
            libvirt_reason=status.libvirt_reason if forgotten else domain.reason,
            domain=DomainRecord(domain.name, domain.uuid, bound, run, domain.persistent, domain.autostart, asked),
            last_stop=stop,
            # The completion time is valid only for the stop that completed the VM.
            completion_time=status.completion_time if stop == status.last_stop else None,
        ),
        notices,
    )


def _in_power_state(status: Status, power_state: PowerState, view: View, memory: VmMemory) -> Status:
    """Return the draft with this power state; its transition time changes only with the power state.

    If an earlier pass observed this power state and could not report it, the time is that of the first such pass.
    """
    if power_state is status.power_state:
        return status
    known = memory.phase is not None and memory.phase.power_state is power_state
    since = memory.phase_since if known and memory.phase_since else view.now
    return replace(status, power_state=power_state, power_state_transition_time=since.to_api())


# --- what is in flight -----------------------------------------------------------------------------------------------


def _start(history: Status, view: View, memory: VmMemory) -> Start:
    """Return the state of the recorded start; if libvirt gave no answer, the record stays unchanged."""
    if history.operation is None or not history.operation.starts:
        return NO_START
    if isinstance(view.observed, Unreadable):
        return Start(history.operation)
    return starts.follow(history, view, memory)


def _outcome(memory: VmMemory, view: View) -> tuple[Outcome | None, VmMemory]:
    """Return the outcome of the last action, and the memory without it.

    If libvirt gave no answer, the outcome of a start stays in memory until a pass observes the domain.
    """
    if isinstance(view.observed, Unreadable) and memory.outcome and memory.outcome.action.starts:
        return None, memory
    return memory.outcome, replace(memory, outcome=None)


def _failed(outcome: Outcome, view: View) -> bool:
    """Whether the action has failed: libvirt has refused it, or the domain shows that it was not done.

    The domain shows it if libvirt gave no result, or did not answer before the call. What a start without a result has
    done becomes known later (starts.py).
    """
    if outcome.result is Result.REFUSED:
        return True
    seen, action = view.observed, outcome.action
    undone = outcome.result is Result.UNSENT or (outcome.result is Result.UNKNOWN and not action.starts)
    return undone and isinstance(seen, Domain) and not action.achieved_in(seen.phase)


def _with_called(memory: VmMemory, outcome: Outcome | None, view: View) -> VmMemory:
    """Return the memory with what the end of an action shows: which one has failed, and when the guest was asked."""
    if outcome is None or outcome.result is Result.NOT_CALLED:
        return memory
    failed = outcome.action if _failed(outcome, view) else None
    attempt = memory.stop_attempt
    if outcome.action is Action.SHUTDOWN and attempt:
        attempt = _attempted(attempt, outcome, view.now)
    unanswered = outcome.action.starts and outcome.unanswered
    return replace(
        memory, stop_attempt=attempt, failed=failed, start_unanswered=memory.start_unanswered + int(unanswered)
    )


def _attempted(attempt: StopAttempt, outcome: Outcome, now: Now) -> StopAttempt:
    """Return the StopAttempt after this request to the guest."""
    attempt = replace(attempt, tried_last=now)
    if outcome.result is Result.REFUSED:
        return replace(attempt, refused_first=attempt.refused_first or now)
    return replace(attempt, asked_first=attempt.asked_first or now) if outcome.called else attempt


# --- since when ------------------------------------------------------------------------------------------------------


def _with_off_and_job(memory: VmMemory, status: Status, view: View) -> VmMemory:
    """Return the memory with the job of the domain, since when the domain is off, and whether "off" is in doubt.

    Also remove the unreported stop when the report contains it.
    """
    seen, before = view.observed, view.vm.status.operation
    off = isinstance(seen, Domain) and seen.phase.off and view.call is None
    stop = before is not None and not before.starts and not view.rebooted
    unsent = memory.stop_attempt is None or (before is not None and memory.stop_attempt.domain_id != before.domain_id)
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


def _job(memory: VmMemory, view: View) -> dict[str, Any]:
    """Return the changed fields of memory for the libvirt job that owns the domain; empty: nothing has changed.

    The host is asked about jobs only when an action is due.
    """
    if view.facts is None or view.facts.job == memory.job:
        return {}
    return {"job": view.facts.job, "job_since": view.now if view.facts.job else None}


def _with_phase(memory: VmMemory, history: Status, phase: Phase, now: Now, waits: Waits) -> VmMemory:
    """Return the memory with this phase, and with the moment since when the domain has been in this phase."""
    if memory.phase is phase and memory.phase_since:
        return memory
    since = now
    if history.power_state is phase.power_state and history.power_state_transition_time:
        since = now.recall(history.power_state_transition_time, at_most_s=waits.backoff_forget_s)
    return replace(memory, phase=phase, phase_since=since)


def _jobless_since(memory: VmMemory, view: View, domain: Domain) -> Now | None:
    """Return since when it is known that no job causes the pause; None: a job causes it, or it is not known.

    The result is None in every phase except PAUSED_BUSY.
    """
    if domain.phase is not Phase.PAUSED_BUSY or (view.facts and view.facts.job):
        return None
    return memory.jobless_since or (view.now if view.facts else None)

"""One reconcile pass over one VM: observe, decide, report, act.

A pass writes its report before it acts. The report informs users and is the write-ahead record of the action. If the
report can be written, the object has not changed since the decision (optimistic concurrency). A pass begins at most one
action; the next pass observes the result. The protocols below declare what a pass needs from libvirt, the API server,
the queue and the metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import structlog

from controller.agent.acting import NO_TURN, ActionRunner, Actuator, Turn, now, past_tense
from controller.agent.brake import NodeBrake
from controller.agent.domain_index import DomainIndex
from controller.agent.lookups import Lookups
from controller.agent.memories import PassMemories
from controller.api.clock import Now
from controller.api.hypervisor import RunsElsewhere
from controller.api.names import EventReason
from controller.api.notice import Notice
from controller.api.values import replace
from controller.api.virtualmachine import Address, OperationType, Reason, Status, StopCause, VirtualMachine, VmKey
from controller.policy.decide import decide
from controller.policy.start_limiter import StartLimiter
from controller.policy.view import (
    Absent,
    Action,
    Conflict,
    Domain,
    Evidence,
    Facts,
    Misnamed,
    Node,
    Observation,
    Outcome,
    PowerAction,
    Replaced,
    Result,
    Step,
    Unreadable,
    View,
)
from controller.policy.waits import Waits
from controller.policy.wording import REQUESTS
from controller.runtime.errors import Conflicted, Lingers, Rejected, Transient, Vanished

log = structlog.get_logger()


class Host(Actuator, Protocol):
    """Observes the domains of this node and acts on them. Thread-safe. A call blocks until libvirt answers."""

    def observe(self, address: Address) -> Domain | Absent | Replaced:
        """Return the current state of one domain. Raises Transient."""

    def facts(self, domain: Domain) -> Facts:
        """Return the facts that are needed only before an action. Raises Transient, Vanished."""

    def evidence(self, uuid: UUID) -> frozenset[Evidence]:
        """Return the details of the events about this domain since its last start. Does not call libvirt."""

    def forget_arrival(self, uuid: UUID) -> None:
        """Discard the evidence that the domain arrived by a migration. Does not call libvirt."""


class Store(Protocol):
    """Reads the objects of this node and writes their status. Thread-safe."""

    def read(self, key: VmKey) -> VirtualMachine | None:
        """Return the object from the cache, without a request; None: the cache does not have it."""

    def refresh_uncertain(self, key: VmKey) -> None:
        """Read the object again if the stored version might not be the current one. Raises Transient, Rejected."""

    def refresh(self, key: VmKey) -> VirtualMachine | None:
        """Request the object from the API server and return it; None: it is gone. Raises Transient, Rejected."""

    def report(self, vm: VirtualMachine, status: Status) -> VirtualMachine:
        """Write the changes of the status, unless the object is newer than `vm`. Return the new version of the object.

        If the status does not change, sends no request and returns `vm` itself. Raises Conflicted if the object is
        newer, and Vanished, Transient, Rejected.
        """


class Recorder(Protocol):
    """Writes Kubernetes Events."""

    def record(self, vm: VirtualMachine, notice: Notice) -> None:
        """Queue the Event, which another thread writes. Never raises an exception, never waits."""


class Queue(Protocol):
    """The work queue. Thread-safe. No method waits."""

    def add(self, key: VmKey) -> None:
        """Queue the VM for a pass as soon as possible."""

    def add_after(self, key: VmKey, seconds: float) -> None:
        """Queue the VM for a pass after this time, or earlier."""


class Gauges(Protocol):
    """The metrics of passes and actions. Thread-safe. No method waits."""

    def reported(self, vm: VirtualMachine, status: Status, since_s: float | None) -> None:
        """Note that a status was written.

        `since_s` is the monotonic time of the event that led to the status; None: there was no event.
        """

    def observed(self, vm: VirtualMachine, status: Status) -> None:
        """Note that a pass has confirmed the current status, and has written nothing."""

    def acted(self, action: Action, result: Result) -> None:
        """Note that an action has ended."""

    def forgotten(self, key: VmKey) -> None:
        """Note that the object is gone or belongs to another node."""


class Reconciler:
    """Runs reconcile passes. Thread-safe, but a VM must not have two passes at the same time; the queue ensures this.

    `report_overdue_lookups` can report on a VM while the VM's pass hangs in libvirt. If both write a report, the API
    server rejects the later one, because its resource version is outdated. Only the pass changes the memory of the VM.
    """

    def __init__(
        self,
        *,
        host: Host,
        store: Store,
        recorder: Recorder,
        queue: Queue,
        domain_index: DomainIndex,
        brake: NodeBrake,
        start_limiter: StartLimiter,
        gauges: Gauges,
        node_name: str,
        node: Callable[[], Node],
        waits: Waits,
        runs_elsewhere: Callable[[UUID | None], tuple[RunsElsewhere, ...]],
        on_report: Callable[[], None] = lambda: None,
        spawn: Callable[[Callable[[], None]], None] | None = None,
        clock: Callable[[], Now] = now,
    ) -> None:
        """`node` returns the current state of the node. `spawn` runs an action; the default uses a daemon thread.

        `runs_elsewhere` returns on which other hosts a domain runs. `on_report` is called after each written status.
        """
        self._host, self._store, self._recorder, self._queue = host, store, recorder, queue
        self._domain_index, self._brake, self._gauges = domain_index, brake, gauges
        self._node_name, self._node, self._waits, self._clock = node_name, node, waits, clock
        self._runs_elsewhere, self._on_report = runs_elsewhere, on_report
        self._runner = ActionRunner(host, start_limiter, ended=self._action_ended, spawn=spawn, clock=clock)
        self._lookups, self._memories = Lookups(clock), PassMemories()
        self._stopping = False

    def reconcile(self, key: VmKey) -> None:
        """Run one pass: observe the VM, decide, report, and begin at most one action. Raises Transient, Rejected."""
        since_s = self._memories.take_event(key)
        vm = self._store.read(key)
        if vm is None or not self._is_ours(vm):
            self.forget(key)
            return
        self.index(vm)
        view = self._observe(vm)
        step, turn = self._decide(view)
        with turn:
            reported = self._report(view, step, since_s)
            if reported is None:  # without a record in the status, no action may begin
                return
            if step.recheck_s is not None:
                self._queue.add_after(key, step.recheck_s)
            if step.action and self._is_current(vm, reported) and self._may_act(view):
                self._runner.begin(reported, step, step.action, turn.keep())
                if step.action.kind.starts:
                    self._memories.start_called(key)

    def _is_ours(self, vm: VirtualMachine) -> bool:
        """Whether this agent reports on the object: it is bound to this node, and nobody is deleting it."""
        return vm.node_name == self._node_name and not vm.deleting

    def forget(self, key: VmKey) -> None:
        """Drop the in-process state of an object that is gone or belongs to another node. Does not act or report."""
        self._memories.forget(key)
        self._runner.forget(key)
        self._brake.forget(key)
        self._gauges.forgotten(key)
        self._wake(self._domain_index.leave(key))

    def event(self, key: VmKey, at_s: float) -> None:
        """Note the monotonic time of an event about this VM, and queue the VM. The event thread calls this."""
        self._memories.event(key, at_s)
        self._queue.add(key)

    def report_overdue_lookups(self) -> None:
        """Report LibvirtUnreachable or HypervisorBusy for each VM whose lookup is overdue (`Lookups`). Does not act.

        One thread must call this periodically, because the thread of the VM's own pass is blocked in libvirt. When that
        pass continues, its report is outdated, and the pass is repeated. A report that fails does not affect other VMs.
        """
        for key, busy in self._lookups.overdue().items():
            if (vm := self._store.read(key)) and self._is_ours(vm):
                view = self._view(vm, _overdue(busy=busy))
                step = decide(view, self._waits)
                try:
                    self._publish(view, step, self._store.report(vm, step.status), None)
                except (Conflicted, Vanished):
                    continue  # the VM's own pass has reported, or the watch delivers the newer version
                except (Transient, Rejected) as error:
                    log.warning("could not report that libvirt does not answer", vm=str(key), error=str(error))
                finally:
                    # The VM's own pass might have ended during this write without a report, so it is repeated.
                    self._queue.add(key)

    def hanging(self, action: Action) -> int:
        """Return the number of actions of this kind that hang in libvirt."""
        return self._runner.hanging(action)

    def oldest_event_s(self) -> float | None:
        """Return the monotonic time of the oldest libvirt event whose status is not written; None: there is none."""
        return self._memories.oldest_event_s()

    def quiet_since_s(self) -> float | None:
        """Return the monotonic time since which no action has been in flight or about to begin; None: an action is."""
        return self._runner.quiet_since_s()

    def stop_acting(self) -> None:
        """Begin no further action. Passes continue to report."""
        self._stopping = True

    def wait_for_actions(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for the actions in flight. libvirt continues to execute the others."""
        self._runner.wait(timeout_s)

    # --- observe

    def _observe(self, vm: VirtualMachine) -> View:
        locked = self._runner.locked(vm.address.uuid)
        locked = locked if locked and vm.may_mean(locked.name) else None
        observed = self._owned(vm, locked) if locked else self._lookup(vm)
        uuid = _uuid(vm, observed)
        outcome, call = self._runner.progress(vm.key, uuid)
        if locked and not self._runner.locked(uuid):  # the call has returned since the first check
            observed = self._lookup(vm)
        view = self._view(vm, observed)
        return replace(
            view,
            memory=replace(view.memory, outcome=outcome) if outcome else view.memory,
            evidence=self._host.evidence(uuid) if uuid else frozenset(),
            call=call,
        )

    def _lookup(self, vm: VirtualMachine) -> Observation:
        try:
            with self._lookups.asking(vm.key):
                observed: Observation = self._host.observe(vm.address)
                if isinstance(observed, Domain) and not vm.may_mean(observed.name):
                    observed = self._named(vm.bound_by, observed)
        except Transient as error:
            return Unreadable(str(error), busy=isinstance(error, Lingers))
        return self._owned(vm, observed) if isinstance(observed, Domain) else observed

    def _named(self, name: str, other: Domain) -> Replaced | Misnamed:
        """Observe the domain with this name. `other` is a domain with another name and the UUID in the report."""
        observed = self._host.observe(Address(name=name))
        if isinstance(observed, Domain):
            return Replaced(observed.uuid, observed.name)
        return Misnamed(other.uuid, other.name)

    def _owned(self, vm: VirtualMachine, domain: Domain) -> Domain | Conflict:
        owner = self._domain_index.owner(domain, vm.key)
        return domain if owner is None or owner == vm.key else Conflict(owner, domain.uuid)

    def _view(self, vm: VirtualMachine, observed: Observation) -> View:
        node, now = self._node(), self._clock()
        if self._stopping:
            node = replace(node, blocked="The agent is stopping.")
        node = replace(node, braked_until=self._brake.until(now))
        elsewhere = self._runs_elsewhere(_uuid(vm, observed))
        return View(vm, observed, node, now, self._memories.of(vm.key), runs_elsewhere=elsewhere)

    # --- decide

    def _decide(self, view: View) -> tuple[Step, Turn]:
        """Return the step, and the turn for its action. Decides again after each addition to the view."""
        step = decide(view, self._waits)
        if step.action:
            # The brake must count the stop of this VM too, which no earlier pass might have observed.
            self._brake.note(view.vm.key, step.status, view.now)
            view = replace(view, node=replace(view.node, braked_until=self._brake.until(view.now)))
            # Most passes need no action, so the facts that are needed only for an action are requested here.
            view = self._informed(view, step.action)
            step = decide(view, self._waits)
        if not step.action:
            return step, NO_TURN
        urgent = view.vm.desired != view.vm.status.desired
        turn = self._runner.turn(view.vm.key, step.action.kind, view.now.monotonic_s, urgent=urgent)
        if turn.granted:
            return step, turn
        return decide(replace(view, crowded=turn.crowded, turn_in_s=turn.wait_s), self._waits), NO_TURN

    def _informed(self, view: View, action: PowerAction) -> View:
        if view.call:  # libvirt would not answer before the call in flight has returned
            return view
        try:
            with self._lookups.asking(view.vm.key):
                return replace(view, facts=self._host.facts(action.domain))
        except (Transient, Vanished) as error:
            return replace(view, observed=Unreadable(str(error)))

    # --- report

    def _report(self, view: View, step: Step, since_s: float | None) -> VirtualMachine | None:
        """Write the report, and return the new version of the object.

        Returns None if somebody else has changed or deleted the object; then no action may begin.
        """
        vm, key = view.vm, view.vm.key
        try:
            reported = self._store.report(vm, step.status)
        except Conflicted:
            self._memories.remember_unreported(view, step)
            self._store.refresh(key)
            # After several conflicts in a row, the pass is retried with backoff: another writer might write as often
            # as this agent, or the API server might return older versions than before.
            if self._memories.conflicted(key) > 1:
                raise
            self._queue.add(key)
            return None
        except Vanished:
            self._store.refresh(key)
            self._queue.add(key)
            return None
        except (Transient, Rejected):
            self._memories.remember_unreported(view, step)
            raise
        self._memories.remember(key, step.memory)
        self._forget_arrival(view, step)
        self._publish(view, step, reported, since_s)
        return reported

    def _forget_arrival(self, view: View, step: Step) -> None:
        """Forget that the VM arrived by a migration if the report shows it: a later report of another node is newer."""
        arrived, own = Evidence.STARTED_MIGRATED in view.evidence, step.status.node_name == self._node_name
        if arrived and own and isinstance(view.observed, Domain):
            self._host.forget_arrival(view.observed.uuid)

    def _publish(self, view: View, step: Step, reported: VirtualMachine, since_s: float | None) -> None:
        """Pass a report to the brake, the domain index, the metrics, the log and the Events, after it was written."""
        vm, key = view.vm, view.vm.key
        self._brake.note(key, step.status, view.now)
        self.index(reported)
        if reported is vm:
            self._gauges.observed(vm, step.status)
        else:
            self._gauges.reported(reported, step.status, since_s)
            self._on_report()
            if vm.status.reason != step.reason:
                log.info("status reported", vm=str(key), reason=str(step.reason), message=step.message)
        for notice in step.notices:
            self._recorder.record(reported, notice)

    def _is_current(self, vm: VirtualMachine, reported: VirtualMachine) -> bool:
        """Whether the object has not changed since the decision, apart from its status.

        If a report was written, the API server has compared the versions, and the watch can only have brought a change
        that came later. If not, this method reads the object from the API server. It queues the VM if the object has
        changed. Raises Transient, Rejected.
        """
        if reported is vm:
            fresh = self._store.refresh(vm.key)
        else:
            self._store.refresh_uncertain(vm.key)
            fresh = self._store.read(vm.key)
        if fresh is not None and _identity(fresh) == _identity(vm):
            return True
        self._queue.add(vm.key)
        return False

    def _may_act(self, view: View) -> bool:
        """Whether this agent may still act, and `maintenance` and `runs_elsewhere` are those of its decision.

        If not, queues another pass, which replaces the report of this action.
        """
        node = self._node()
        elsewhere = self._runs_elsewhere(_uuid(view.vm, view.observed))
        obeyed = (view.node.maintenance, view.runs_elsewhere)
        if self._stopping or node.blocked or (node.maintenance, elsewhere) != obeyed:
            self._queue.add(view.vm.key)
            return False
        return True

    # --- act

    def _action_ended(self, vm: VirtualMachine, step: Step, outcome: Outcome) -> None:
        self._queue.add(vm.key)
        self._gauges.acted(outcome.action, outcome.result)
        if outcome.action.starts and outcome.result is Result.DONE and _answers_guest(vm):
            self._brake.answered(vm.key, self._clock())
        for notice in _notices(vm, step, outcome):
            self._recorder.record(vm, notice)

    def index(self, vm: VirtualMachine) -> None:
        """Update the domain index for this object.

        An object whose spec is not fully understood might refer to another domain than it seems. It keeps the domain
        that is in its last report, and gets no other one. Skips an object that is being deleted.
        """
        if vm.misunderstood:
            record = vm.status.domain
            if record is None or record.uuid is None:
                return
            vm = replace(vm, domain_uuid=record.uuid)
        if not vm.deleting:
            self._wake(self._domain_index.enter(vm))

    def _wake(self, keys: set[VmKey]) -> None:
        for key in keys:
            self._queue.add(key)


def _uuid(vm: VirtualMachine, observed: Observation) -> UUID | None:
    """Return the UUID of the observed domain, or that by which the object refers to its domain."""
    return observed.uuid if isinstance(observed, Domain) else vm.address.uuid


def _notices(vm: VirtualMachine, step: Step, outcome: Outcome) -> tuple[Notice, ...]:
    """Return the Event of an action that has ended. Only actions that were done or refused have an Event.

    A request to shut down is repeated every few seconds while libvirt refuses it. Only the first refusal in a stop has
    an Event, because an agent writes few of them.
    """
    action = outcome.action
    why = f"{past_tense(step.message, outcome.result)} Reason: {step.reason}; spec generation {vm.generation}."
    if outcome.result is Result.REFUSED:
        attempt = step.memory.stop_attempt
        again = action is Action.SHUTDOWN and attempt is not None and attempt.refused_first is not None
        if outcome.overtaken or again:
            return ()
        reason = Reason.START_FAILED if action.starts else Reason.ACTION_FAILED
        refused = f"libvirt refused to {REQUESTS[action]}: {outcome.message}"
        return (Notice(reason, refused, warning=True, action=action.name.title()),)
    if outcome.result is not Result.DONE:
        return ()
    operation = step.status.operation
    restarted = action is Action.START and operation is not None and operation.type is OperationType.RESTART
    return (Notice(EventReason.RESTARTED if restarted else action.event, why, action=action.name.title()),)


def _answers_guest(vm: VirtualMachine) -> bool:
    """Whether this start follows a power-off by the guest and not a change of the spec."""
    stop = vm.status.last_stop
    return stop is not None and stop.cause is StopCause.GUEST and vm.desired == vm.status.desired


def _identity(vm: VirtualMachine) -> VirtualMachine:
    """Return the object without its status and its resourceVersion. This part must not change before the action.

    It is not enough to compare the generation, because after a restore of etcd the same generation occurs twice.
    """
    return replace(vm, resource_version="", status=Status())


def _overdue(*, busy: bool) -> Unreadable:
    """Return the observation of a domain whose lookup is overdue; `busy`: libvirt has answered another lookup since."""
    if busy:
        return Unreadable(
            "libvirt does not report the state of the VM, because another call on it has not returned.", busy
        )
    return Unreadable("it has not returned the state of this VM")

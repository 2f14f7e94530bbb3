"""One pass over one VM: observe, decide, report, act.

The report goes out before the action: it tells users, it records what is about to be done, and its success proves that
the object is current. At most one act a pass; then look again. The adapters are behind protocols in our words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol
from uuid import UUID

import structlog

from controller.agent.acting import NO_TURN, ActionRunner, Actuator, Turn, now
from controller.agent.brake import NodeBrake
from controller.agent.domain_index import DomainIndex
from controller.agent.lookups import Lookups
from controller.agent.memories import PassMemories
from controller.api.clock import Now
from controller.api.names import EventReason
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
    Node,
    Notice,
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
from controller.runtime.errors import Conflicted, Rejected, Transient, Vanished

log = structlog.get_logger()


class Host(Actuator, Protocol):
    """The hypervisor of this node, to look at as well. Any thread may call it, for as long as libvirt takes."""

    def look(self, address: Address) -> Domain | Absent | Replaced:
        """See one domain as it is now. Raises Transient."""

    def facts(self, domain: Domain) -> Facts:
        """Learn what only an act needs to know. Raises Transient, Vanished."""

    def evidence(self, uuid: UUID) -> frozenset[Evidence]:
        """What events said of this domain since it was last started. No call."""


class Store(Protocol):
    """The objects of this node. Any thread may call it."""

    def read(self, key: VmKey) -> VirtualMachine | None:
        """The object as it was last heard of. No request."""

    def refresh(self, key: VmKey) -> VirtualMachine | None:
        """The object as it is now; None: it is gone. Raises Transient, Rejected."""

    def report(self, vm: VirtualMachine, status: Status) -> VirtualMachine:
        """Write what differs, onto this very version; without a request when nothing does, and then returns `vm`.

        Raises Conflicted, Vanished, Transient, Rejected.
        """


class Recorder(Protocol):
    """Where Kubernetes Events go."""

    def record(self, vm: VirtualMachine, notice: Notice) -> None:
        """Write it in a while. Never raises, never waits."""


class Queue(Protocol):
    """Where keys wait."""

    def add(self, key: VmKey) -> None:
        """Look at it as soon as may be."""

    def add_after(self, key: VmKey, seconds: float) -> None:
        """Look at it then, or before."""


class Gauges(Protocol):
    """What a pass tells the metrics."""

    def reported(self, vm: VirtualMachine, status: Status, since_s: float | None) -> None:
        """A status has been written; `since_s` is the monotonic time of the event that led to it, if one did."""

    def seen(self, vm: VirtualMachine, status: Status) -> None:
        """A look has found that this status, which is there, is right."""

    def acted(self, action: Action, result: Result) -> None:
        """An act has ended."""

    def forgotten(self, key: VmKey) -> None:
        """The object is no longer this node's."""


class Reconciler:
    """Passes over VMs. Any thread may call it; the queue gives one key to one thread at a time.

    `report_overdue_lookups` reports on a key while its own pass hangs in libvirt. The resource version onto which each
    report is written keeps the two apart, and only the pass remembers anything.
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
        spawn: Callable[[Callable[[], None]], None] | None = None,
        clock: Callable[[], Now] = now,
    ) -> None:
        """`spawn` runs an act; left out, on a daemon thread of its own."""
        self._host, self._store, self._recorder, self._queue = host, store, recorder, queue
        self._domain_index, self._brake, self._gauges = domain_index, brake, gauges
        self._node_name, self._node, self._waits, self._clock = node_name, node, waits, clock
        self._runner = ActionRunner(host, start_limiter, ended=self._act_ended, spawn=spawn, clock=clock)
        self._lookups, self._memories = Lookups(clock), PassMemories()
        self._stopping = False

    def reconcile(self, key: VmKey) -> None:
        """Observe one VM, decide, report, and do at most one thing about it. Raises Transient, Rejected."""
        since_s = self._memories.take_event(key)
        vm = self._store.read(key)
        if vm is None or vm.deleting or vm.node_name != self._node_name:
            self.forget(key)
            return
        self._index(vm)
        view = self._observe(vm)
        step, turn = self._decide(view)
        with turn:
            reported = self._report(view, step, since_s)
            if reported is None:  # it could not be written, so nothing may be done
                return
            if step.recheck_s is not None:
                self._queue.add_after(key, step.recheck_s)
            if step.action and self._is_current(vm, reported) and self._may_act(key):
                self._runner.begin(reported, step, step.action, turn.keep())
                if step.action.kind.starts:
                    self._memories.start_called(key)

    def forget(self, key: VmKey) -> None:
        """The object is gone, or another node's: nothing is written and nothing is done, whatever was in flight."""
        self._memories.forget(key)
        self._runner.forget(key)
        self._brake.forget(key)
        self._gauges.forgotten(key)
        self._wake(self._domain_index.leave(key))

    def event(self, key: VmKey, at_s: float) -> None:
        """An event named this VM, at this monotonic time. For the event thread: it never waits for a call."""
        self._memories.event(key, at_s)
        self._queue.add(key)

    def report_overdue_lookups(self) -> None:
        """Report LibvirtUnreachable, or HypervisorBusy, for VMs whose lookup is overdue: see `Lookups`.

        To be called now and then, from one thread. Nothing is done about such a VM, and its own pass finds its report
        outdated and starts again. One VM that cannot be reported hinders no other.
        """
        for key, busy in self._lookups.overdue().items():
            if vm := self._store.read(key):
                view = self._view(vm, _overdue(busy=busy))
                step = decide(view, self._waits)
                try:
                    self._publish(view, step, self._store.report(vm, step.status), None)
                except (Conflicted, Vanished):
                    continue  # its pass has gone on, or the watch tells what has been written in between
                except (Transient, Rejected) as error:
                    log.warning("could not report an overdue lookup", vm=str(key), error=str(error))
                finally:
                    # Its own pass may have ended while this was written, and then has found nothing to write.
                    self._queue.add(key)

    def hanging(self, action: Action) -> int:
        """How many acts of this kind hang in libvirt."""
        return self._runner.hanging(action)

    def stop_acting(self) -> None:
        """From now on only report."""
        self._stopping = True

    def outlast_acts(self, timeout_s: float) -> None:
        """Wait so long for acts that are with libvirt, then leave them to it."""
        self._runner.wait(timeout_s)

    # --- observe

    def _observe(self, vm: VirtualMachine) -> View:
        locked = self._runner.locked(vm.address.uuid)
        seen = locked or self._look(vm)
        uuid = seen.uuid if isinstance(seen, Domain) else vm.address.uuid
        outcome, call = self._runner.news(vm.key, uuid)
        if locked and not self._runner.locked(uuid):  # it has returned meanwhile
            seen = self._look(vm)
        view = self._view(vm, seen)
        return replace(
            view,
            memory=replace(view.memory, outcome=outcome) if outcome else view.memory,
            evidence=self._host.evidence(uuid) if uuid else frozenset(),
            call=call[0] if call else None,
            call_since=call[1] if call else None,
        )

    def _look(self, vm: VirtualMachine) -> Observation:
        try:
            with self._lookups.asking(vm.key):
                seen = self._host.look(vm.address)
        except Transient as error:
            return Unreadable(str(error))
        owner = self._domain_index.owner(seen) if isinstance(seen, Domain) else None
        if isinstance(seen, Domain) and owner not in {None, vm.key}:
            assert owner is not None  # noqa: S101 - for the type checker
            return Conflict(owner, seen.uuid)
        return seen

    def _view(self, vm: VirtualMachine, seen: Observation) -> View:
        node, now = self._node(), self._clock()
        if self._stopping:
            node = replace(node, blocked="The agent is stopping.")
        node = replace(node, braked_until=self._brake.until(now))
        return View(vm, seen, node, now, self._memories.of(vm.key))

    # --- decide

    def _decide(self, view: View) -> tuple[Step, Turn]:
        """What to do, and the turn to do it; decides again whenever the view has learned something."""
        step = decide(view, self._waits)
        if step.action:
            # Its own stop, which this view may be the first to show, counts for the brake.
            self._brake.note(view.vm.key, step.status, view.now)
            view = replace(view, node=replace(view.node, braked_until=self._brake.until(view.now)))
            # Most views end without an action, so that what only an action needs is asked now.
            view = self._informed(view, step.action)
            step = decide(view, self._waits)
        if not step.action:
            return step, NO_TURN
        urgent = view.vm.desired != view.vm.status.desired
        turn = self._runner.turn(view.vm.key, step.action.kind, view.now.monotonic_s, urgent=urgent)
        if turn.granted:
            return step, turn
        return decide(replace(view, crowded=turn.wait_s == 0, turn_in_s=turn.wait_s), self._waits), NO_TURN

    def _informed(self, view: View, action: PowerAction) -> View:
        if view.call:  # the answer would wait for that call to return
            return view
        try:
            with self._lookups.asking(view.vm.key):
                return replace(view, facts=self._host.facts(action.domain))
        except (Transient, Vanished) as error:
            return replace(view, observed=Unreadable(str(error)))

    # --- report

    def _report(self, view: View, step: Step, since_s: float | None) -> VirtualMachine | None:
        """Write the report; None when it could not be, and then nothing may be done."""
        vm, key = view.vm, view.vm.key
        try:
            reported = self._store.report(vm, step.status)
        except Conflicted:
            self._memories.remember_unreported(view, step)
            self._store.refresh(key)
            # More than one in a row: another writer writes as often as this agent, or versions run backwards.
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
        self._publish(view, step, reported, since_s)
        return reported

    def _publish(self, view: View, step: Step, reported: VirtualMachine, since_s: float | None) -> None:
        """Hand a report that was written on to the brake, the index, the metrics, the log and the Events."""
        vm, key = view.vm, view.vm.key
        self._brake.note(key, step.status, view.now)
        self._index(reported)
        if reported is vm:
            self._gauges.seen(vm, step.status)
        else:
            self._gauges.reported(reported, step.status, since_s)
            if vm.status.reason != step.reason:
                log.info("status reported", vm=str(key), reason=str(step.reason), message=step.message)
        for notice in step.notices:
            self._recorder.record(reported, notice)

    def _is_current(self, vm: VirtualMachine, reported: VirtualMachine) -> bool:
        """Whether the object is still what was decided on.

        A write has just proved it; where none was needed, the API server is asked.
        """
        if reported is not vm:
            return True
        fresh = self._store.refresh(vm.key)
        if fresh is not None and _identity(fresh) == _identity(vm):
            return True
        self._queue.add(vm.key)
        return False

    def _may_act(self, key: VmKey) -> bool:
        """Whether this agent may still act. If not, another pass replaces the report of the action."""
        if self._stopping or self._node().blocked:
            self._queue.add(key)
            return False
        return True

    # --- act

    def _act_ended(self, vm: VirtualMachine, step: Step, outcome: Outcome) -> None:
        self._queue.add(vm.key)
        self._gauges.acted(outcome.action, outcome.result)
        if outcome.action.starts and outcome.result is Result.DONE and _answers_guest(vm):
            self._brake.answered(vm.key, self._clock())
        for notice in _notices(vm, step, outcome):
            self._recorder.record(vm, notice)

    def _index(self, vm: VirtualMachine) -> None:
        """Note which domain the object means; not of a spec that is not understood, for it may mean another."""
        if not vm.misunderstood:
            self._wake(self._domain_index.enter(vm))

    def _wake(self, keys: set[VmKey]) -> None:
        for key in keys:
            self._queue.add(key)


def _notices(vm: VirtualMachine, step: Step, outcome: Outcome) -> tuple[Notice, ...]:
    """The Event of an action: one for each that was done, and for each start that was refused."""
    action = outcome.action
    did = step.message.replace(" is being ", " was ", 1)
    why = f"{did} Reason: {step.reason}; spec generation {vm.generation}."
    if outcome.result is Result.REFUSED and action.starts:
        return (
            Notice(
                Reason.START_FAILED, f"libvirt refused: {outcome.message}", warning=True, action=action.name.title()
            ),
        )
    if outcome.result is not Result.DONE:
        return ()
    operation = step.status.operation
    restarted = action is Action.START and operation is not None and operation.type is OperationType.RESTART
    return (Notice(EventReason.RESTARTED if restarted else action.event, why, action=action.name.title()),)


def _answers_guest(vm: VirtualMachine) -> bool:
    """A start of this VM answers that its guest powered itself off, and no change of the spec."""
    stop = vm.status.last_stop
    return stop is not None and stop.cause is StopCause.GUEST and vm.desired == vm.status.desired


def _identity(vm: VirtualMachine) -> VirtualMachine:
    """What must not have changed between a decision and its action: all but the status.

    The generation alone is no proof of that: after a restore of etcd the API server gives it out a second time.
    """
    return replace(vm, resource_version="", status=Status())


def _overdue(*, busy: bool) -> Unreadable:
    """What is known of a domain about which libvirt has not answered; `busy`: it has answered about others since."""
    if busy:
        return Unreadable("Another call on the domain has not returned, so that libvirt does not tell its state.", busy)
    return Unreadable("libvirt has not answered what was asked of this domain")

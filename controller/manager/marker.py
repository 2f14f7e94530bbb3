"""Marks the objects of silent nodes: first their Hypervisors, then their VMs, each at a limited rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from controller.api.clock import Now
from controller.api.hypervisor import Hypervisor
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.json_mapping import Json, as_map
from controller.api.names import HYPERVISOR_KIND, KIND, EventReason
from controller.api.notice import Notice
from controller.api.virtualmachine import Reason, VirtualMachine
from controller.fleet.marking import NodeFacts, Outcome, exemption_of, hypervisor_mark, message, row_of, vm_mark
from controller.fleet.mass import HYPERVISORS_BURST, HYPERVISORS_PER_S, VM_BURST, VMS_PER_S
from controller.fleet.silence import Observed, Sight, Silence
from controller.kube.lists import FleetRequests
from controller.manager.metrics import Metrics
from controller.runtime.buckets import TokenBucket
from controller.runtime.errors import CircuitOpen, Conflicted, Forbidden, Rejected, Transient, Vanished
from controller.runtime.periodic import PeriodicTask
from controller.runtime.retry import Backoff

IDLE_S = 2.0
"""How often it looks for silent nodes. It is also woken up after each list of Leases."""
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0

MOST_FAILURES = 3
"""After so many failures in a row, the node waits. The API server might refuse the marks of all its VMs."""

ALWAYS_CHANGES = "the object has changed each time it was about to be marked"

log = structlog.get_logger()


class Watched(Protocol):
    """What the marker needs to know about the agents. Implemented by `Monitor`."""

    sight: Sight

    def in_sight(self) -> bool:
        """Whether this manager leads, and knows which agents live."""

    def vms_wait(self, silence: Silence) -> bool:
        """Whether the VMs of this node are marked later."""


class Recorder(Protocol):
    """Records Kubernetes Events. Implemented by `kube.events.EventRecorder`."""

    def record(self, of: Hypervisor, notice: Notice) -> None:
        """Write this Event about the Hypervisor, soon. Never raises and never waits."""


@dataclass(slots=True)
class _Round:
    """The marks of one silence of one node."""

    silence: Silence
    hypervisor: Hypervisor | None = None
    """As it was read before it was marked; None: it has not been read, or there is none."""
    read: bool = False
    """Whether the attempt to mark the Hypervisor has ended (`_write_hypervisor`). Then the VMs are marked."""
    sent: bool = False
    """Whether a mark of the Hypervisor was sent and its answer was lost. It might have been written."""
    done: bool = False
    vms: Iterator[VirtualMachine] | None = None
    """The VMs that are left; None: they are not listed yet."""
    failure: str = ""
    """Why a VM could not be marked since the VMs were listed; empty: none has failed."""
    failures: int = 0
    """How many attempts to mark a VM have failed in a row."""
    refused: set[str] = field(default_factory=set)
    """The uids of the VMs that could not be marked. The next list tries them last."""
    handled: set[str] = field(default_factory=set)
    """The uids of the VMs that were marked, or that changed during the attempt. They are not marked again."""
    not_before_s: float = float("-inf")
    backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_FIRST_S, RETRY_MAX_S))


class Marker:
    """Marks the objects of silent nodes while this manager leads. Everything happens on the thread of `task`.

    Each object is marked at most once in one silence: an agent that reports although it cannot renew its Lease is
    contradicted once. Just before each write it checks that this manager leads and is not blind, and that the node is
    still silent.
    """

    def __init__(
        self,
        watched: Watched,
        fleet: FleetRequests,
        recorder: Recorder,
        metrics: Metrics,
        *,
        namespace: str,
        clock: Callable[[], Now],
    ) -> None:
        self._watched, self._fleet, self._recorder, self._metrics = watched, fleet, recorder, metrics
        self._namespace, self._clock = namespace, clock
        self._rounds: dict[str, _Round] = {}
        """By node, the longest silence first."""
        self._sight: Sight | None = None
        """The sight that `_rounds` is about."""
        self._revisit = False
        self._hypervisor_bucket = TokenBucket(HYPERVISORS_PER_S, HYPERVISORS_BURST)
        self._vm_bucket = TokenBucket(VMS_PER_S, VM_BURST)
        self.task = PeriodicTask("marks", IDLE_S, self._step)

    def revisit(self) -> None:
        """List the VMs of all silent nodes again, because some might have been bound to them since. Thread-safe."""
        self._revisit = True

    def _step(self) -> float | None:
        """Take one step of the round whose turn it is. Return the seconds until the next; None: nothing is due."""
        self._update()
        if not self._watched.in_sight() or self._watched.sight.patient:
            return None
        now_s = self._clock().monotonic_s
        due = [one for one in self._rounds.values() if not one.done and one.not_before_s <= now_s]
        if unread := next((one for one in due if not one.read), None):
            return self._hypervisor_bucket.take(now_s) or self._attempt(self._mark_hypervisor, unread)
        if waiting := next((one for one in due if not self._watched.vms_wait(one.silence)), None):
            return self._vm_bucket.take(now_s) or self._attempt(self._mark_next_vm, waiting)
        return None

    def _attempt(self, step: Callable[[_Round], None], one: _Round) -> float:
        """Take this step. If it fails, the node waits, and the other nodes have their turn. Return 0."""
        try:
            step(one)
        except (Transient, Rejected) as error:
            log.warning("could not read or mark the objects of a silent node", node=one.silence.node, error=str(error))
            self._retry_later(one)
        return 0.0

    def _retry_later(self, one: _Round) -> None:
        one.vms, one.failure, one.failures = None, "", 0
        one.not_before_s = self._clock().monotonic_s + one.backoff.wait_s()

    def _may_write(self, one: _Round) -> bool:
        return self._watched.in_sight() and self._watched.sight.silence(one.silence.node) == one.silence

    # --- the Hypervisor

    def _mark_hypervisor(self, one: _Round) -> None:
        raw = self._fleet.hypervisor(one.silence.node)
        one.hypervisor = parse_hypervisor(raw) if raw else None
        row = row_of(NodeFacts(self._namespace, self._may_write(one), one.silence, one.hypervisor))
        match row.outcome:
            case Outcome.WAIT:
                return
            case Outcome.LEAVE:
                one.done = True
                return
            case Outcome.MARK:
                try:
                    self._write_hypervisor(one, raw)
                except (Forbidden, Rejected) as error:  # the VMs must be marked all the same
                    log.warning("could not mark a Hypervisor", node=one.silence.node, error=str(error))
                one.read = True

    def _write_hypervisor(
        self, one: _Round, raw: Json | None, *, again: bool = True, with_quiesced: bool = True
    ) -> None:
        """Mark the Hypervisor, unless it does not exist, has a mark, or has a newer report.

        If meanwhile somebody changes only the spec, or this manager the list `runsElsewhere`, tries once more. If it
        may not write Quiesced, because the policies are older than the manager, marks Ready alone. Raises Transient,
        Rejected.
        """
        if raw is None:
            return
        patch = hypervisor_mark(raw, one.silence, self._clock().wall, with_quiesced=with_quiesced)
        if patch is None:
            if one.sent:
                self._hypervisor_marked(one)
            return
        try:
            self._fleet.patch_hypervisor(parse_hypervisor(raw), patch)
        except Vanished:
            return
        except Forbidden:
            if not with_quiesced:
                raise
            self._write_hypervisor(one, raw, again=again, with_quiesced=False)
            return
        except Conflicted:
            fresh = self._fleet.hypervisor(one.silence.node)
            if fresh and _report_in(fresh) == _report_in(raw) and self._may_write(one):
                if not again:
                    raise Transient(ALWAYS_CHANGES) from None
                self._write_hypervisor(one, fresh, again=False, with_quiesced=with_quiesced)
            return
        except Transient:
            one.sent = True
            raise
        self._hypervisor_marked(one)

    def _hypervisor_marked(self, one: _Round) -> None:
        """Tell that the Hypervisor has its mark."""
        node = one.silence.node
        self._marked(HYPERVISOR_KIND, node)
        log.warning("the agent of a node is silent", node=node, message=message(one.silence))
        if one.hypervisor:
            self._recorder.record(one.hypervisor, Notice(Reason.AGENT_UNREACHABLE, message(one.silence), warning=True))

    # --- the VMs

    def _mark_next_vm(self, one: _Round) -> None:
        if one.vms is None:
            found = self._fleet.virtual_machines(node_name=one.silence.node)
            one.vms = iter(sorted(found, key=lambda vm: vm.uid in one.refused))
        vm = next((vm for vm in one.vms if vm.uid not in one.handled and not exemption_of(vm)), None)
        if vm is None:
            if one.failure:
                raise Transient(one.failure)
            one.vms, one.done = None, True
        elif self._may_write(one):
            self._try_to_write_vm(one, vm)
        else:
            one.vms = None

    def _try_to_write_vm(self, one: _Round, vm: VirtualMachine) -> None:
        """Mark the VM. Some failures do not keep the other VMs from being marked. Raises Transient for the others."""
        try:
            self._write_vm(one, vm)
        except (Transient, Rejected) as error:
            one.failure, one.failures = f"{vm.key}: {error}", one.failures + 1
            one.refused.add(vm.uid)
            if isinstance(error, CircuitOpen) or one.failures >= MOST_FAILURES:
                raise Transient(one.failure) from error
        else:
            one.failures = 0
            one.refused.discard(vm.uid)

    def _write_vm(self, one: _Round, vm: VirtualMachine, *, again: bool = True) -> None:
        """Mark the VM, unless its agent has reported meanwhile. If somebody changes only the spec, tries once more.

        Raises Transient, Rejected.
        """
        try:
            self._fleet.patch_vm(vm, vm_mark(vm, one.silence, self._clock().wall))
        except Vanished:
            return
        except Conflicted:
            fresh = self._fleet.virtual_machine(vm.key)
            spec_changed = fresh is not None and fresh.status == vm.status and fresh.node_name == vm.node_name
            if fresh and spec_changed and not exemption_of(fresh) and self._may_write(one):
                if not again:
                    raise Transient(ALWAYS_CHANGES) from None
                self._write_vm(one, fresh, again=False)
                return
        else:
            self._marked(KIND, one.silence.node)
        one.handled.add(vm.uid)

    # --- the rounds

    def _update(self) -> None:
        """Begin a round for each new silence, and end the rounds of nodes that are heard again."""
        sight = self._watched.sight
        if sight is not self._sight:
            self._sight, before = sight, self._rounds
            # A silence also lasts while the manager is patient. What was marked in it is not marked again.
            lasting = {node: one for node, one in before.items() if sight.lasts(one.silence)}
            new = {silence.node: _Round(silence) for silence in sight.silences() if silence.node not in lasting}
            self._rounds = dict(sorted((lasting | new).items(), key=lambda item: item[1].silence.since_s))
            for node in before.keys() - lasting.keys():
                self._end(before[node], sight.nodes.get(node))
        if self._revisit:
            self._revisit = False
            for one in self._rounds.values():
                one.done = False
        self._metrics.marks_waiting.set(sum(not one.done for one in self._rounds.values()))

    def _end(self, one: _Round, seen: Observed | None) -> None:
        """Tell that the agent is back, if that is why the silence is over."""
        node = one.silence.node
        if one.read and seen and seen.lease and seen.lease.holder and self._watched.in_sight():
            log.info("the agent of a node is back", node=node)
            if one.hypervisor:
                note = f"The agent of {node} renews its Lease again."
                self._recorder.record(one.hypervisor, Notice(EventReason.AGENT_RETURNED, note))

    def _marked(self, kind: str, node: str) -> None:
        self._metrics.marks.labels(kind, node).inc()


def _report_in(raw: Json) -> Json:
    """Return the status of a Hypervisor without the list that the manager keeps in it."""
    return {name: value for name, value in as_map(raw.get("status")).items() if name != "runsElsewhere"}

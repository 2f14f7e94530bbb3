"""What Prometheus is told, and the only place that knows the names.

The registry is its own: importing this does nothing, and a test may have two. What changes with each VM is counted up
when it is asked for, not kept a second time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller import __version__
from controller.api.names import ConditionType
from controller.api.virtualmachine import PowerState, Reason, Status, VirtualMachine, VmKey
from controller.policy.view import Action, Result
from controller.runtime.metrics import PassMetrics, WorkQueueMetrics

CONTROLLER = "virtualmachine"
"""What the series of passes and of the workqueue are labelled with."""
EVENT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


RESYNC_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


RESYNCED = ("libvirt", "api")


HELD = {Reason.HELD, Reason.OBSERVE_ONLY}
"""Reasons of a VM that is not as its spec says, because somebody wants it so."""


class Metrics:
    """The metrics of one agent. Every method may be called from any thread, and none waits."""

    def __init__(self) -> None:
        # The time at which each series began would double the page, and nobody asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge("virtsync_build_info", "1, with the version.", ["version"], registry=registry).labels(__version__).set(1)
        self.workqueue = WorkQueueMetrics(registry, CONTROLLER)
        self.passes = PassMetrics(registry, CONTROLLER)
        self.pass_errors = Counter(
            "virtsync_pass_errors", "Passes that failed inside virtsync: each is a bug.", registry=registry
        )
        self.lease_held = Gauge(
            "virtsync_lease_held",
            "1 while the agent holds the Lease of its node; 0 also where none is kept.",
            registry=registry,
        )
        self.libvirt_connected = Gauge("virtsync_libvirt_connected", "1 while libvirt answers.", registry=registry)
        self.libvirt_reconnects = Counter(
            "virtsync_libvirt_reconnects", "Connections to libvirt after the first.", registry=registry
        )
        self.libvirt_events = Counter(
            "virtsync_libvirt_events", "Events that libvirt has called back with.", ["event"], registry=registry
        )
        self.event_to_status = Histogram(
            "virtsync_event_to_status_seconds",
            "From libvirt's callback to the API server's answer to the status that it led to.",
            buckets=EVENT_BUCKETS_S,
            registry=registry,
        )
        self.status_writes = Counter("virtsync_status_writes", "Status patches that were accepted.", registry=registry)
        self.events_dropped = Counter(
            "virtsync_events_dropped",
            "Kubernetes Events that could not be written: too many waited, or the API server did not take them.",
            registry=registry,
        )
        self.power_operations = Counter(
            "virtsync_power_operations",
            "Acts on domains, by how they ended.",
            ["operation", "result"],
            registry=registry,
        )
        # Series that are there from the start: else increase() does not see the first act of each kind.
        for action in Action:
            for result in Result:
                self.power_operations.labels(action.name.lower(), result.value)
        hanging = Gauge(
            "virtsync_power_operations_hanging",
            "Acts on domains out for longer than they take: a start 30 s, a restore 300 s, a forced stop 10 s.",
            ["operation"],
            registry=registry,
        )
        self._hanging = {action: hanging.labels(action.name.lower()) for action in Action}
        resync = Histogram(
            "virtsync_resync_seconds",
            "From asking libvirt or the API server for everything until it is known what differs.",
            ["source"],
            buckets=RESYNC_BUCKETS_S,
            registry=registry,
        )
        self.resyncs = {source: resync.labels(source) for source in RESYNCED}
        self.virtual_machines = VmCollector()
        registry.register(self.virtual_machines)
        self._was_connected = False

    def libvirt_event(self, event: str) -> None:
        """libvirt has called back with this event."""
        self.libvirt_events.labels(event).inc()

    def libvirt_up(self) -> None:
        """A connection to libvirt stands."""
        self.libvirt_connected.set(1)
        if self._was_connected:
            self.libvirt_reconnects.inc()
        self._was_connected = True

    def libvirt_down(self) -> None:
        """The connection to libvirt is lost."""
        self.libvirt_connected.set(0)

    def seen(self, vm: VirtualMachine, status: Status) -> None:
        """A pass has ended with this status, whether or not it had to be written."""
        self.virtual_machines.show(vm.key, status)

    def reported(self, vm: VirtualMachine, status: Status, since_s: float | None) -> None:
        """A status has been written; `since_s` is the monotonic time of the event that led to it, if one did."""
        self.status_writes.inc()
        if since_s is not None:
            self.event_to_status.observe(time.monotonic() - since_s)
        self.seen(vm, status)

    def forgotten(self, key: VmKey) -> None:
        """The object is no longer this node's: its series end."""
        self.virtual_machines.forget(key)

    def resynced(self, source: str, took_s: float) -> None:
        """Everything has been asked of libvirt or of the API server, and compared."""
        self.resyncs[source].observe(took_s)

    def event_dropped(self) -> None:
        """A Kubernetes Event could not be written."""
        self.events_dropped.inc()

    def acted(self, action: Action, result: Result) -> None:
        """An act has ended."""
        self.power_operations.labels(action.name.lower(), result.value).inc()

    def watch_acts(self, hanging: Callable[[Action], int]) -> None:
        """Ask this for the number of acts that hang, when Prometheus asks."""
        for action, gauge in self._hanging.items():
            gauge.set_function(partial(hanging, action))

    @contextmanager
    def pass_timed(self) -> Iterator[None]:
        """Around each pass."""
        with self.passes.timed():
            yield

    def pass_failed(self) -> None:
        """A pass has failed inside virtsync."""
        self.pass_errors.inc()


@dataclass(frozen=True, slots=True)
class _Shown:
    power_state: PowerState
    off_spec_since: datetime | None
    """Since when the VM is not as its spec says; None: it is, or nobody can tell."""
    held: bool
    """A hold, or an agent that only watches, keeps it so."""


class VmCollector(Collector):
    """The series of each VM: its power state as a StateSet, and for how long it has not been as its spec says."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[VmKey, _Shown] = {}

    def show(self, key: VmKey, status: Status) -> None:
        """From now on this VM is in this power state."""
        since, held = _off_spec_since(status), status.reason in HELD
        with self._lock:
            former = self._shown.get(key)
            if since and former and former.off_spec_since:
                # A VM whose hold has ended begins to drift only now, and the other way about.
                since = max(since, former.off_spec_since if former.held is held else datetime.now(UTC))
            self._shown[key] = _Shown(status.power_state, since, held)

    def forget(self, key: VmKey) -> None:
        """End the VM's series."""
        with self._lock:
            self._shown.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """The series as they are now."""
        states = GaugeMetricFamily(
            "virtsync_virtualmachine_power_state",
            "1 for the power state that the VM is in, 0 for the others.",
            labels=["namespace", "name", "power_state"],
        )
        drift = GaugeMetricFamily(
            "virtsync_drift_seconds",
            "For how long the VM has not been as its spec says; 0 while it is, is held, or while nobody can tell.",
            labels=["namespace", "name"],
        )
        held = GaugeMetricFamily(
            "virtsync_held_seconds",
            "For how long a hold or an agent that only watches has kept the VM from being as its spec says.",
            labels=["namespace", "name"],
        )
        with self._lock:
            shown = sorted(self._shown.items(), key=itemgetter(0))
        now_s = time.time()
        for key, vm in shown:
            for state in PowerState:
                states.add_metric([key.namespace, key.name, state], float(state is vm.power_state))
            off_spec_s = max(0.0, now_s - vm.off_spec_since.timestamp()) if vm.off_spec_since else 0.0
            drift.add_metric([key.namespace, key.name], 0.0 if vm.held else off_spec_s)
            if vm.held:
                held.add_metric([key.namespace, key.name], off_spec_s)
        yield states
        yield drift
        yield held


def _off_spec_since(status: Status) -> datetime | None:
    ready = status.condition(ConditionType.READY)
    return ready.last_transition_time if status.desired and ready and ready.status == "False" else None

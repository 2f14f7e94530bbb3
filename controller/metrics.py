"""What Prometheus is told; the only place that knows the names. A registry of its own: importing does nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controller import __version__
from controller.model import PowerState, Result, Status, Verb, VirtualMachine, VmKey

CONTROLLER = "virtualmachine"
EVENT_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
WORK_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


class QueueMetrics:
    """client-go's workqueue metrics, under the names that stock dashboards ask for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["name"], registry=registry).labels(CONTROLLER)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["name"], registry=registry, buckets=WORK_BUCKETS).labels(CONTROLLER)

        self._adds = counter("workqueue_adds", "Keys added.")
        self._retries = counter("workqueue_retries", "Passes that failed and come back.")
        self._waited = histogram("workqueue_queue_duration_seconds", "Time in the queue before a pass.")
        self._worked = histogram("workqueue_work_duration_seconds", "Time of a pass.")

    def added(self) -> None:
        """A key has come into the queue."""
        self._adds.inc()

    def got(self, waited_s: float) -> None:
        """A key has been taken."""
        self._waited.observe(waited_s)

    def done(self, worked_s: float) -> None:
        """A key has been worked on."""
        self._worked.observe(worked_s)

    def retried(self) -> None:
        """A pass has failed."""
        self._retries.inc()


class Metrics:
    """The metrics of one agent. Any thread may use it."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.workqueue = QueueMetrics(registry)
        self.queue_depth = Gauge("workqueue_depth", "Keys that wait for a pass.", ["name"], registry=registry)
        self.queue_unfinished = Gauge(
            "workqueue_unfinished_work_seconds", "Seconds of passes under way, added up.", ["name"], registry=registry
        )
        self.queue_longest = Gauge(
            "workqueue_longest_running_processor_seconds", "The longest pass under way.", ["name"], registry=registry
        )
        self._passes = Counter(
            "controller_runtime_reconcile", "Passes by how they ended.", ["controller", "result"], registry=registry
        )
        self._pass_errors = Counter(
            "controller_runtime_reconcile_errors", "Passes that failed.", ["controller"], registry=registry
        ).labels(CONTROLLER)
        self._pass_time = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of a pass.",
            ["controller"],
            registry=registry,
            buckets=WORK_BUCKETS,
        ).labels(CONTROLLER)
        self._active = Gauge(
            "controller_runtime_active_workers", "Passes under way.", ["controller"], registry=registry
        ).labels(CONTROLLER)
        Gauge("virtsync_build_info", "1, by version.", ["version"], registry=registry).labels(__version__).set(1)
        self.libvirt_connected = Gauge("virtsync_libvirt_connected", "1 while libvirt answers.", registry=registry)
        self.libvirt_reconnects = Counter(
            "virtsync_libvirt_reconnects", "Connections made after the first.", registry=registry
        )
        self._events = Counter("virtsync_libvirt_events", "Events from libvirt.", ["event"], registry=registry)
        self._event_to_status = Histogram(
            "virtsync_event_to_status_seconds",
            "From libvirt's callback to the API server's answer to the status it led to.",
            registry=registry,
            buckets=EVENT_BUCKETS,
        )
        self._status_writes = Counter("virtsync_status_writes", "Status patches sent.", registry=registry)
        self._operations = Counter(
            "virtsync_power_operations", "Acts on domains.", ["operation", "result"], registry=registry
        )
        self._power_state = Gauge(
            "virtsync_virtualmachine_power_state",
            "1 for the power state that a VM is in.",
            ["namespace", "name", "power_state"],
            registry=registry,
        )
        self._drift = Gauge(
            "virtsync_drift_seconds",
            "For how long a VM has not been as wanted; 0 when it is.",
            ["namespace", "name"],
            registry=registry,
        )
        self._shown: dict[VmKey, PowerState] = {}

    def libvirt_event(self, event: str) -> None:
        """libvirt has called back."""
        self._events.labels(event).inc()

    def reported(self, vm: VirtualMachine, status: Status, since_s: float | None) -> None:
        """A status has been written, that an event led to at this monotonic time."""
        self._status_writes.inc()
        if since_s is not None:
            self._event_to_status.observe(time.monotonic() - since_s)
        key = vm.key
        old = self._shown.get(key)
        if old is not status.power_state:
            if old:
                self._power_state.remove(key.namespace, key.name, str(old))
            self._power_state.labels(key.namespace, key.name, str(status.power_state)).set(1)
            self._shown[key] = status.power_state
        reconciling = status.condition("Reconciling") or status.condition("Stalled")
        if reconciling:
            since = reconciling.last_transition_time.timestamp()
            self._drift.labels(key.namespace, key.name).set_function(lambda: time.time() - since)
        else:
            self._drift.labels(key.namespace, key.name).set_function(lambda: 0.0)

    def forgotten(self, key: VmKey) -> None:
        """The VM is no longer this node's."""
        old = self._shown.pop(key, None)
        if old:
            self._power_state.remove(key.namespace, key.name, str(old))
            self._drift.remove(key.namespace, key.name)

    def acted(self, verb: Verb, result: Result) -> None:
        """An act has ended."""
        self._operations.labels(verb.name.lower(), result.value).inc()

    @contextmanager
    def timed_pass(self) -> Iterator[None]:
        """A pass is under way."""
        started_s = time.monotonic()
        self._active.inc()
        try:
            yield
        except Exception:
            self._passes.labels(CONTROLLER, "error").inc()
            self._pass_errors.inc()
            raise
        else:
            self._passes.labels(CONTROLLER, "success").inc()
        finally:
            self._active.dec()
            self._pass_time.observe(time.monotonic() - started_s)

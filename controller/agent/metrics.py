"""The metrics of an agent. This module and runtime/metrics.py define all of their names.

Each instance has its own registry, so an import has no side effects and a test can create several instances. The series
of the VMs are computed at each scrape.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
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

from controller.api.hypervisor import DomainCounts
from controller.api.names import ConditionType
from controller.api.virtualmachine import PowerState, Reason, Status, VirtualMachine, VmKey
from controller.policy.renewal import Lifetime
from controller.policy.view import Action, Result
from controller.runtime.metrics import PassMetrics, ReadinessMetrics, WorkQueueMetrics, describe_build

CONTROLLER = "virtualmachine"
"""The value of the label that names the controller, in the metrics of reconcile passes and of the work queue."""
CHECKS = (
    "libvirt",
    "objects",
    "watch",
    "credentials",
    "token",
    "hypervisor",
    "hypervisor-watch",
    "host-lock",
    "lease",
)
"""The names of the checks of /readyz, and the values of the label `check`. The alerts cover each of them."""
EVENT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RESYNC_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RESYNCED = ("libvirt", "api")
DOMAIN_KINDS = [(managed, on) for managed in (True, False) for on in (True, False)]
HELD = {Reason.HELD, Reason.OBSERVE_ONLY}
"""The reasons of a VM that differs from its spec because a user or an operator wants no action."""


class Metrics:
    """The metrics of one agent. Thread-safe. No method calls libvirt or the API server, or waits for such a call."""

    def __init__(self, vm_metrics: str = "all") -> None:
        """`vm_metrics` selects the series of each VM, as --vm-metrics does: all, drift or off."""
        # Without this, each counter and histogram has a second series with its creation time, which no dashboard uses.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        describe_build(registry)
        self.readiness = ReadinessMetrics(registry)
        self.workqueue = WorkQueueMetrics(registry, CONTROLLER)
        self.passes = PassMetrics(registry, CONTROLLER)
        self.pass_errors = Counter(
            "virtsync_pass_errors",
            "Reconcile passes that ended with an internal error. Each is a bug: please report it.",
            registry=registry,
        )
        self.lease_held = Gauge(
            "virtsync_lease_held",
            "1 while the agent holds the Lease of its node; 0 also if the agent uses no Lease.",
            registry=registry,
        )
        self.libvirt_connected = Gauge("virtsync_libvirt_connected", "1 while libvirt answers.", registry=registry)
        self.libvirt_reconnects = Counter(
            "virtsync_libvirt_reconnects", "Connections to libvirt after the first one.", registry=registry
        )
        self.libvirt_events = Counter(
            "virtsync_libvirt_events",
            "Events received from libvirt, by libvirt's name of the event.",
            ["event"],
            registry=registry,
        )
        self.event_to_status = Histogram(
            "virtsync_event_to_status_seconds",
            "From libvirt's callback to the API server's answer to the status patch that it caused.",
            buckets=EVENT_BUCKETS_S,
            registry=registry,
        )
        self._oldest_event = Gauge(
            "virtsync_oldest_unreported_event_seconds",
            "Age of the oldest libvirt event whose status has not been written yet; 0: there is none.",
            registry=registry,
        )
        self.status_writes = Counter(
            "virtsync_status_writes", "Status patches that the API server has accepted.", registry=registry
        )
        self.events_dropped = Counter(
            "virtsync_events_dropped",
            "Kubernetes Events that were not written: more than 30 at once or 12 in a minute, too many were waiting, or"
            " the API server did not accept them.",
            registry=registry,
        )
        self.api_throttled = Counter(
            "virtsync_api_throttled",
            "Responses with which the API server limits the rate of requests (HTTP 429).",
            registry=registry,
        )
        self._token_expiration = Gauge(
            "virtsync_token_expiration_timestamp_seconds",
            "When the token of an enrolled host expires, in Unix time.",
            ["host"],
            registry=registry,
        )
        self._token_lifetime = Gauge(
            "virtsync_token_lifetime_seconds",
            "For how long the token of an enrolled host is valid, from its issue until it expires.",
            ["host"],
            registry=registry,
        )
        domains = Gauge(
            "virtsync_domains",
            "The domains in the last list of libvirt. `managed`: whether a VirtualMachine of this node refers to them;"
            " `on`: whether they have a QEMU, running or paused.",
            ["managed", "on"],
            registry=registry,
        )
        self._domains = {(managed, on): domains.labels(*map(_word, (managed, on))) for managed, on in DOMAIN_KINDS}
        self.power_operations = Counter(
            "virtsync_power_operations",
            "Actions on domains. Results: `done`; `already` (somebody else did it first); `not_called` (the domain had"
            " changed, its QEMU still exists, or the agent must not act any more); `unsent` (libvirt did not answer"
            " before the call); `refused` by libvirt; `unknown` (no answer in time).",
            ["operation", "result"],
            registry=registry,
        )
        # All series must exist from the start: otherwise increase() misses the first action of each kind.
        for action in Action:
            for result in Result:
                self.power_operations.labels(action.name.lower(), result.value)
        hanging = Gauge(
            "virtsync_power_operations_hanging",
            "Actions that libvirt has not answered within the time that they normally take: 30 s, a restore of saved"
            " memory 300 s, a forced stop 10 s.",
            ["operation"],
            registry=registry,
        )
        self._hanging = {action: hanging.labels(action.name.lower()) for action in Action}
        resync = Histogram(
            "virtsync_resync_seconds",
            "How long it takes to list everything, from `libvirt` or from the `api`, and to compare it.",
            ["source"],
            buckets=RESYNC_BUCKETS_S,
            registry=registry,
        )
        self.resyncs = {source: resync.labels(source) for source in RESYNCED}
        self.virtual_machines = VmCollector(power_states=vm_metrics == "all", drift=vm_metrics != "off")
        registry.register(self.virtual_machines)
        self._was_connected = False

    def watch_events(self, oldest_s: Callable[[], float | None]) -> None:
        """Keep `oldest_s`, and call it at each scrape.

        It returns the monotonic time of the oldest event whose status is not written; None: there is none.
        """
        self._oldest_event.set_function(lambda: _age_s(oldest_s()))

    def libvirt_event(self, event: str) -> None:
        """Count an event from libvirt."""
        self.libvirt_events.labels(event).inc()

    def libvirt_up(self) -> None:
        """Note that a connection to libvirt is established."""
        self.libvirt_connected.set(1)
        if self._was_connected:
            self.libvirt_reconnects.inc()
        self._was_connected = True

    def libvirt_down(self) -> None:
        """Note that the connection to libvirt is lost."""
        self.libvirt_connected.set(0)

    def observed(self, vm: VirtualMachine, status: Status) -> None:
        """Update the series of the VM to this status, which a pass has confirmed or written."""
        self.virtual_machines.show(vm, status)

    def reported(self, vm: VirtualMachine, status: Status, since_s: float | None) -> None:
        """Count a written status, and update the series of the VM.

        `since_s` is the monotonic time of the event that led to the status; None: there was no event.
        """
        self.status_writes.inc()
        if since_s is not None:
            self.event_to_status.observe(time.monotonic() - since_s)
        self.observed(vm, status)

    def forgotten(self, key: VmKey) -> None:
        """Remove the series of an object that is gone or belongs to another node."""
        self.virtual_machines.forget(key)

    def resynced(self, source: str, took_s: float) -> None:
        """Observe the seconds that a relist took. `source` is one of `RESYNCED`."""
        self.resyncs[source].observe(took_s)

    def inventory(self, domains: DomainCounts, managed: DomainCounts) -> None:
        """Show how many domains libvirt has, and how many of them a VirtualMachine refers to."""
        for kind, found in (True, managed), (False, _without(domains, managed)):
            self._domains[kind, True].set(found.running)
            self._domains[kind, False].set(found.total - found.running)

    def token_seen(self, host: str, lifetime: Lifetime) -> None:
        """Show until when the token of this host is valid. Only a host that is not a node has the series."""
        self._token_expiration.labels(host).set(lifetime.expires.timestamp())
        self._token_lifetime.labels(host).set(lifetime.seconds)

    def throttled(self) -> None:
        """Count a response with which the API server limits the rate of requests."""
        self.api_throttled.inc()

    def event_dropped(self) -> None:
        """Count a Kubernetes Event that was not written."""
        self.events_dropped.inc()

    def acted(self, action: Action, result: Result) -> None:
        """Count an action that has ended."""
        self.power_operations.labels(action.name.lower(), result.value).inc()

    def watch_actions(self, hanging: Callable[[Action], int]) -> None:
        """Keep `hanging`, and call it at each scrape. It returns how many actions of a kind hang."""
        for action, gauge in self._hanging.items():
            gauge.set_function(partial(hanging, action))

    @contextmanager
    def pass_timed(self) -> Iterator[None]:
        """Return a context manager that measures one reconcile pass."""
        with self.passes.timed():
            yield

    def pass_failed(self) -> None:
        """Count a pass that ended with an internal error."""
        self.pass_errors.inc()


@dataclass(frozen=True, slots=True)
class _Shown:
    reason: str
    power_state: PowerState
    off_spec_since: datetime | None
    """The time since when the VM differs from its spec; None: it does not differ, or its state is not known."""
    held: bool
    """Whether a hold or --observe-only prevents the correction."""

    def off_spec_s(self, now_s: float) -> float:
        """For how long the VM has differed from its spec, at this time (seconds since 1970)."""
        return max(0.0, now_s - self.off_spec_since.timestamp()) if self.off_spec_since else 0.0


class VmCollector(Collector):
    """Computes the series of each VM, and those of all VMs together, which do not grow with them. Thread-safe."""

    def __init__(self, *, power_states: bool, drift: bool) -> None:
        """`power_states`: whether to yield the series of the power states, of which each VM has ten.

        `drift`: whether to yield how long each VM has differed from its spec.
        """
        self._power_states, self._drift = power_states, drift
        self._lock = threading.Lock()
        self._shown: dict[VmKey, _Shown] = {}

    def show(self, vm: VirtualMachine, status: Status) -> None:
        """Update the series of the VM to this status."""
        since, held = _off_spec_since(vm, status), status.reason in HELD
        with self._lock:
            former = self._shown.get(vm.key)
            if since and former and former.off_spec_since:
                # When a hold begins or ends, the time starts again, because drift and held time are different series.
                since = max(since, former.off_spec_since if former.held is held else datetime.now(UTC))
            self._shown[vm.key] = _Shown(status.reason, status.power_state, since, held)

    def forget(self, key: VmKey) -> None:
        """Remove the series of the VM."""
        with self._lock:
            self._shown.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """Yield the current values of all series."""
        states = GaugeMetricFamily(
            "virtsync_virtualmachine_power_state",
            "1 for the present power state of the VM, 0 for the others.",
            labels=["namespace", "name", "power_state"],
        )
        drift = GaugeMetricFamily(
            "virtsync_drift_seconds",
            "How long the VM has differed from its spec; 0 if it does not differ, is held, or its state is not known.",
            labels=["namespace", "name"],
        )
        held = GaugeMetricFamily(
            "virtsync_held_seconds",
            "How long a hold, a maintenance of the host or --observe-only has prevented the correction of a VM that"
            " differs from its spec; only for such VMs.",
            labels=["namespace", "name"],
        )
        reasons = GaugeMetricFamily(
            "virtsync_virtualmachines",
            "The VirtualMachines of this node, by the reason of their condition Ready; no series for a reason that no"
            " VM has.",
            labels=["reason"],
        )
        longest = GaugeMetricFamily(
            "virtsync_longest_drift_seconds",
            "The largest `virtsync_drift_seconds` of this node; 0: no VM differs from its spec.",
        )
        with self._lock:
            shown = sorted(self._shown.items(), key=itemgetter(0))
        now_s, longest_s = time.time(), 0.0
        for key, vm in shown:
            for state in PowerState if self._power_states else ():
                states.add_metric([key.namespace, key.name, state], float(state is vm.power_state))
            drift_s = 0.0 if vm.held else vm.off_spec_s(now_s)
            longest_s = max(longest_s, drift_s)
            drift.add_metric([key.namespace, key.name], drift_s)
            if vm.held:
                held.add_metric([key.namespace, key.name], vm.off_spec_s(now_s))
        for reason, count in sorted(Counts(vm.reason for _, vm in shown).items()):
            reasons.add_metric([reason], count)
        longest.add_metric([], longest_s)
        if self._power_states:
            yield states
        if self._drift:
            yield drift
            yield held
        yield reasons
        yield longest


def _age_s(at_s: float | None) -> float:
    return 0.0 if at_s is None else max(0.0, time.monotonic() - at_s)


def _word(flag: bool) -> str:  # noqa: FBT001 - the value itself
    return str(flag).lower()


def _without(domains: DomainCounts, some: DomainCounts) -> DomainCounts:
    return DomainCounts(domains.total - some.total, domains.running - some.running)


def _off_spec_since(vm: VirtualMachine, status: Status) -> datetime | None:
    """Return since when the VM differs from its spec; None: it does not, its state is not known, or none is desired.

    `status.desired` does not tell whether a power state is desired: it is empty until the spec was served once.
    """
    ready = status.condition(ConditionType.READY)
    return ready.last_transition_time if vm.desired and ready and ready.status == "False" else None

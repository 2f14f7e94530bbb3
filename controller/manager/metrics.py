"""The metrics of a manager. This module and runtime/metrics.py define all of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics

from controller.runtime.metrics import ReadinessMetrics, describe_build

CHECKS = ("leases", "credentials")
"""The names of the checks of /readyz, and the values of the label `check`."""
FINDINGS = ("node_without_lease", "runs_elsewhere", "uuid_on_two_nodes", "vm_without_node")
"""The kinds of what a sweep finds."""


class Metrics:
    """The metrics of one manager. Thread-safe."""

    def __init__(self) -> None:
        # Without this, each counter has a second series with its creation time, which no dashboard uses.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        describe_build(registry)
        self.readiness = ReadinessMetrics(registry)
        self._leader = Gauge(
            "virtsync_manager_leader",
            "1 while this manager leads. If no manager leads, nothing is marked.",
            registry=registry,
        )
        self.blind = Counter(
            "virtsync_monitor_blind_seconds",
            "Time in which this manager did not know which agents live, because it had no good list of their Leases for"
            " more than 15 seconds.",
            registry=registry,
        )
        self.silent_nodes = Gauge(
            "virtsync_monitor_silent_nodes",
            "Nodes whose agent does not renew its Lease, by the mode of their maintenance (empty: none). Each manager"
            " counts them, whether or not it leads.",
            ["maintenance"],
            registry=registry,
        )
        self.mass = Gauge(
            "virtsync_monitor_mass",
            "1 while so many nodes fell silent together that their VMs are marked later.",
            registry=registry,
        )
        self.marks = Counter(
            "virtsync_monitor_marks",
            "Objects that this manager has set to Unknown because the agent of their node is silent.",
            ["kind", "node"],
            registry=registry,
        )
        self.marks_waiting = Gauge(
            "virtsync_monitor_marks_waiting", "Silent nodes whose objects are not all marked yet.", registry=registry
        )
        self.events_dropped = Counter(
            "virtsync_events_dropped",
            "Kubernetes Events that were not written: there were too many, or the API server did not accept them.",
            registry=registry,
        )

        self._findings = Gauge(
            "virtsync_sweep_findings",
            "What the last sweep of all VMs has found (docs/fleet.md); 0 if this manager does not lead.",
            ["kind"],
            registry=registry,
        )
        self._maintenance = Gauge(
            "virtsync_hypervisor_maintenance_seconds",
            "For how long a node has been in maintenance; until its agent acknowledges it, since this manager knows of"
            " it. No series if none is declared, or if this manager does not lead.",
            ["node"],
            registry=registry,
        )
        self._in_maintenance: set[str] = set()
        self.nothing_found()

    def found(self, **counts: int) -> None:
        """Set how often each of these kinds was found: one of `FINDINGS`."""
        for kind, count in counts.items():
            self._findings.labels(kind).set(count)

    def nothing_found(self) -> None:
        """Set all findings to 0, and show no maintenance."""
        self.found(**dict.fromkeys(FINDINGS, 0))
        self.maintenances({})

    def maintenances(self, seconds: Mapping[str, float]) -> None:
        """Show for how many seconds each of these nodes has been in maintenance, and no others. Not thread-safe."""
        for node in self._in_maintenance - seconds.keys():
            self._maintenance.remove(node)
        for node, since_s in seconds.items():
            self._maintenance.labels(node).set(since_s)
        self._in_maintenance = set(seconds)

    def leads(self, leads: Callable[[], bool]) -> None:
        """Keep this function, and call it at each scrape."""
        self._leader.set_function(lambda: float(leads()))

"""The metrics that both processes have, and those of reconcile passes and of the work queue.

The latter have the names that common dashboards query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

from controller import __version__

PASS_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
QUEUE_BUCKETS_S = (0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0)


def describe_build(registry: CollectorRegistry) -> None:
    """Add the metric that shows the version."""
    build = Gauge(
        "virtsync_build_info", "Always 1; the label has the version of virtsync.", ["version"], registry=registry
    )
    build.labels(__version__).set(1)


class ReadinessMetrics:
    """The metric of the checks of /readyz. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._failing = Gauge(
            "virtsync_not_ready",
            "1 while /readyz fails because of this check, 0 while the check succeeds.",
            ["check"],
            registry=registry,
        )

    def watch(self, name: str, check: Callable[[], str | None]) -> None:
        """Keep the check, and call it at each scrape. It must not block; None: it succeeds."""
        self._failing.labels(name).set_function(lambda: float(bool(check())))


class ProcessMetrics(Protocol):
    """The metrics of a process, as its HTTP server needs them."""

    registry: CollectorRegistry
    readiness: ReadinessMetrics


class PassMetrics:
    """The metrics of reconcile passes, with the names of controller-runtime. Thread-safe."""

    def __init__(self, registry: CollectorRegistry, controller: str) -> None:
        total = Counter(
            "controller_runtime_reconcile",
            "Reconcile passes, by result: `success` or `error`.",
            ["controller", "result"],
            registry=registry,
        )
        self._succeeded, self._failed = total.labels(controller, "success"), total.labels(controller, "error")
        self._errors = Counter(
            "controller_runtime_reconcile_errors", "Reconcile passes that failed.", ["controller"], registry=registry
        ).labels(controller)
        self._time = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "How long a reconcile pass takes.",
            ["controller"],
            buckets=PASS_BUCKETS_S,
            registry=registry,
        ).labels(controller)
        self._active = Gauge(
            "controller_runtime_active_workers", "Reconcile passes in progress.", ["controller"], registry=registry
        ).labels(controller)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Return a context manager for one pass. It counts an exception as an error, and does not suppress it."""
        with self._active.track_inprogress(), self._time.time():
            try:
                yield
            except BaseException:
                self._failed.inc()
                self._errors.inc()
                raise
            self._succeeded.inc()


class WorkQueueMetrics:
    """The metrics of a work queue, with the names of client-go. Implements workqueue.QueueMetrics. Thread-safe."""

    def __init__(self, registry: CollectorRegistry, controller: str) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["name"], registry=registry).labels(controller)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["name"], registry=registry).labels(controller)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["name"], buckets=QUEUE_BUCKETS_S, registry=registry).labels(controller)

        self._depth = gauge("workqueue_depth", "Keys that wait for a pass.")
        self._unfinished = gauge("workqueue_unfinished_work_seconds", "Sum of the ages of the passes in progress.")
        self._longest = gauge("workqueue_longest_running_processor_seconds", "Age of the oldest pass in progress.")
        self._adds = counter("workqueue_adds", "Keys added to the queue.")
        self._retries = counter("workqueue_retries", "Keys added again after a failed pass.")
        self._waited = histogram("workqueue_queue_duration_seconds", "How long keys wait for their pass.")
        self._worked = histogram("workqueue_work_duration_seconds", "How long the passes of keys take.")

    def watch(
        self, depth: Callable[[], int], unfinished_s: Callable[[], float], longest_running_s: Callable[[], float]
    ) -> None:
        """Keep these functions. The Prometheus client calls each of them at each scrape."""
        self._depth.set_function(depth)
        self._unfinished.set_function(unfinished_s)
        self._longest.set_function(longest_running_s)

    def added(self) -> None:
        """Count a key that was added."""
        self._adds.inc()

    def started(self, waited_s: float) -> None:
        """Observe the seconds that a key has waited in the queue, when its pass begins."""
        self._waited.observe(waited_s)

    def finished(self, worked_s: float) -> None:
        """Observe the seconds that a pass took, when it has ended."""
        self._worked.observe(worked_s)

    def retried(self) -> None:
        """Count a key that will be retried."""
        self._retries.inc()

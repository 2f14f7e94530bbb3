"""Writes Kubernetes Events (events.k8s.io/v1) about VMs and hosts. A repeated Event becomes a series.

Sources: KEP-383 defines when a series starts, and events.k8s.io/v1 defines the fields.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from controller.api.clock import micro_time
from controller.api.hypervisor import Hypervisor
from controller.api.names import AGENT_CONTROLLER, GROUP, HYPERVISOR_KIND, KIND, VERSION
from controller.api.notice import Notice
from controller.api.text import comparable, sanitized, without_log_times
from controller.api.virtualmachine import VirtualMachine
from controller.kube.client import MERGE_PATCH, Api
from controller.runtime.buckets import TokenBucket
from controller.runtime.errors import Rejected, Transient, Vanished

NOTE_LIMIT = 1024
"""The maximum size of a note in bytes. The API server rejects a longer note."""
SERIES_S = 360.0
"""An Event that is repeated within this time continues a series. kubelet and client-go use the same time."""
QUEUE_LIMIT = 1000
BURST, RATE_PER_S = 30, 0.2
"""An agent writes `BURST` Events at once, and then `RATE_PER_S` per second. Without the limit, one power cut of 2000
hosts would lead to 300,000 Events."""
CLUSTER_NAMESPACE = "default"
"""The namespace of Events about objects that have no namespace. The API server accepts no other."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Series:
    path: str
    count: int
    last_s: float


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an Event is about."""

    kind: str
    namespace: str
    """Empty if the object has no namespace."""
    name: str
    uid: str
    resource_version: str

    @classmethod
    def of(cls, of: VirtualMachine | Hypervisor) -> Regarding:
        """Return the reference to this object."""
        if isinstance(of, Hypervisor):
            return cls(HYPERVISOR_KIND, "", of.name, of.uid, of.resource_version)
        return cls(KIND, of.key.namespace, of.key.name, of.uid, of.resource_version)

    @property
    def event_namespace(self) -> str:
        """The namespace of the Event."""
        return self.namespace or CLUSTER_NAMESPACE


class EventRecorder:
    """Implements `reconcile.Recorder`. A thread writes the queued Events, and drops those that it cannot write."""

    def __init__(
        self,
        api: Api,
        instance: str,
        *,
        dropped: Callable[[], None],
        controller: str = AGENT_CONTROLLER,
        bucket: TokenBucket | None = None,
    ) -> None:
        """`instance` is the name of the agent's node. `bucket` limits the rate; the default is the rate of an agent.

        `dropped` is called, on any thread, for each Event that is lost because the queue is full, the rate limit is
        reached, or the write failed.
        """
        self._api, self._instance, self._dropped, self._controller = api, instance, dropped, controller
        self._bucket = bucket or TokenBucket(RATE_PER_S, BURST)
        self._queue: queue.Queue[tuple[Regarding, Notice, datetime] | None] = queue.Queue(QUEUE_LIMIT)
        self._series: dict[tuple[str, ...], _Series] = {}
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Start the thread that writes Events."""
        self._thread.start()

    def record(self, of: VirtualMachine | Hypervisor, notice: Notice) -> None:
        """Add the Event to the queue. Thread-safe. Never raises and never waits."""
        try:
            self._queue.put_nowait((Regarding.of(of), notice, datetime.now(UTC)))
        except queue.Full:
            self._dropped()

    def close(self, timeout_s: float) -> None:
        """Let the thread write the queued Events and end.

        Waits at most `timeout_s` seconds for space in the queue, and at most `timeout_s` seconds for the thread.
        """
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while item := self._queue.get():
            if self._bucket.take(time.monotonic()) > 0:
                self._dropped()
                continue
            try:
                self._write(*item)
            except (Transient, Rejected, Vanished) as error:
                self._dropped()
                log.warning("could not write an Event", error=str(error))
            except Exception:
                self._dropped()
                log.exception("internal error while writing an Event")

    def _write(self, of: Regarding, notice: Notice, at: datetime) -> None:
        key = (of.uid, notice.reason, comparable(notice.note), notice.action)
        now_s = time.monotonic()
        self._series = {k: s for k, s in self._series.items() if now_s - s.last_s < SERIES_S}
        known = self._series.get(key)
        if known:
            known.count, known.last_s = known.count + 1, now_s
            series = {"count": known.count, "lastObservedTime": micro_time(at)}
            try:
                self._api.request("PATCH", known.path, {"series": series}, content_type=MERGE_PATCH)
            except Vanished:
                del self._series[key]
            else:
                return
        # client-go builds names in the same way. `kubectl describe` sorts Events by name, and thus by time. The name
        # must be a DNS subdomain, so a long name of an object is truncated, and must not then end in "-" or ".".
        name = f"{of.name[:200].rstrip('-.')}.{time.time_ns():x}"
        collection = f"/apis/events.k8s.io/v1/namespaces/{of.event_namespace}/events"
        self._api.request("POST", collection, self._event(of, notice, at, name))
        self._series[key] = _Series(f"{collection}/{name}", 1, now_s)

    def _event(self, of: Regarding, notice: Notice, at: datetime, name: str) -> dict[str, Any]:
        namespace = {"namespace": of.namespace} if of.namespace else {}
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": of.event_namespace},
            "eventTime": micro_time(at),
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason,
            "action": notice.action or "Observe",
            "note": sanitized(without_log_times(notice.note), NOTE_LIMIT),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": of.kind,
                **namespace,
                "name": of.name,
                "uid": of.uid,
                "resourceVersion": of.resource_version,
            },
        }

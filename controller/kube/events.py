"""Writes Kubernetes Events (events.k8s.io/v1) about VMs. A repeated Event becomes a series.

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
from controller.api.names import AGENT_CONTROLLER, GROUP, KIND, VERSION
from controller.api.text import comparable, sanitized, without_log_times
from controller.api.virtualmachine import VirtualMachine
from controller.kube.client import Api
from controller.policy.view import Notice
from controller.runtime.errors import Rejected, Transient, Vanished

NOTE_LIMIT = 1024
"""The maximum size of a note in bytes. The API server rejects a longer note."""
SERIES_S = 360.0
"""An Event that is repeated within this time continues a series. kubelet and client-go use the same time."""
QUEUE_LIMIT = 1000

log = structlog.get_logger()


@dataclass(slots=True)
class _Series:
    path: str
    count: int
    last_s: float


class EventRecorder:
    """Implements `reconcile.Recorder`. A thread writes the queued Events, and drops those that it cannot write."""

    def __init__(self, api: Api, instance: str, *, dropped: Callable[[], None]) -> None:
        """`instance` is the name of the agent's node.

        `dropped` is called, on any thread, for each Event that is lost because the queue is full or the write failed.
        """
        self._api, self._instance, self._dropped = api, instance, dropped
        self._queue: queue.Queue[tuple[VirtualMachine, Notice, datetime] | None] = queue.Queue(QUEUE_LIMIT)
        self._series: dict[tuple[str, ...], _Series] = {}
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Start the thread that writes Events."""
        self._thread.start()

    def record(self, vm: VirtualMachine, notice: Notice) -> None:
        """Add the Event to the queue. Thread-safe. Never raises and never waits."""
        try:
            self._queue.put_nowait((vm, notice, datetime.now(UTC)))
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
            try:
                self._write(*item)
            except (Transient, Rejected, Vanished) as error:
                self._dropped()
                log.warning("could not write an Event", error=str(error))
            except Exception:
                self._dropped()
                log.exception("internal error while writing an Event")

    def _write(self, vm: VirtualMachine, notice: Notice, at: datetime) -> None:
        key = (vm.uid, notice.reason, comparable(notice.note), notice.action)
        now_s = time.monotonic()
        self._series = {k: s for k, s in self._series.items() if now_s - s.last_s < SERIES_S}
        known = self._series.get(key)
        if known:
            known.count, known.last_s = known.count + 1, now_s
            series = {"count": known.count, "lastObservedTime": micro_time(at)}
            try:
                self._api.request("PATCH", known.path, {"series": series}, content_type="application/merge-patch+json")
            except Vanished:
                del self._series[key]
            else:
                return
        # client-go builds names in the same way. `kubectl describe` sorts Events by name, and thus by time. The name
        # must be a DNS subdomain, so a long name of a VM is truncated, and must not then end in "-" or ".".
        name = f"{vm.key.name[:200].rstrip('-.')}.{time.time_ns():x}"
        collection = f"/apis/events.k8s.io/v1/namespaces/{vm.key.namespace}/events"
        self._api.request("POST", collection, self._event(vm, notice, at, name))
        self._series[key] = _Series(f"{collection}/{name}", 1, now_s)

    def _event(self, vm: VirtualMachine, notice: Notice, at: datetime, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": vm.key.namespace},
            "eventTime": micro_time(at),
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason,
            "action": notice.action or "Observe",
            "note": sanitized(without_log_times(notice.note), NOTE_LIMIT),
            "reportingController": AGENT_CONTROLLER,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "namespace": vm.key.namespace,
                "name": vm.key.name,
                "uid": vm.uid,
                "resourceVersion": vm.resource_version,
            },
        }

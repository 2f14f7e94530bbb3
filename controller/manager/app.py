"""The manager as a whole: creates its parts and connects them, starts them, and stops them in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from controller import __version__
from controller.api.names import MANAGER, MANAGER_CONTROLLER
from controller.kube import client
from controller.kube.events import EventRecorder
from controller.kube.lists import FleetRequests
from controller.manager.leader import Leader
from controller.manager.metrics import Metrics
from controller.manager.monitor import Monitor
from controller.manager.page import Page
from controller.manager.page_source import Source
from controller.manager.settings import Settings
from controller.manager.sweep import Sweep
from controller.page.view import Served
from controller.runtime.buckets import TokenBucket
from controller.runtime.errors import Rejected
from controller.runtime.health import Health

EVENTS_PER_S, EVENTS_BURST = 5.0, 30
JOIN_S = 1.0
"""How long a stopping manager waits for each of its threads. By then it no longer leads, so it begins no write."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Run the manager until SIGTERM or SIGINT, and return its exit code. Raises Rejected if it cannot serve HTTP."""
    return Manager(settings).run()


class Manager:
    """All parts of one manager. The constructor opens no connection; `run` opens and closes them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._health = Health(settings.http_address, settings.http_port, self._metrics)
        self._api = client.load(settings.kubeconfig, program=MANAGER)
        self._leader = Leader(
            self._api, namespace=settings.namespace, identity=settings.identity, dead=self._health.dead
        )
        self._metrics.leads(self._leader.leads)
        self._recorder = EventRecorder(
            self._api,
            instance=settings.identity or MANAGER,
            dropped=self._metrics.events_dropped.inc,
            controller=MANAGER_CONTROLLER,
            bucket=TokenBucket(EVENTS_PER_S, EVENTS_BURST),
        )
        fleet = FleetRequests(self._api)
        self._monitor = Monitor(
            fleet,
            self._recorder,
            self._metrics,
            namespace=settings.namespace,
            leads=self._leader.leads,
        )
        self._sweep = Sweep(
            fleet, self._recorder, self._metrics, namespace=settings.namespace, leads=self._leader.leads
        )
        # The leader's task starts last, because a manager leads only while all of its threads are alive.
        self._tasks = [*self._monitor.tasks, self._sweep.task, self._leader.task]
        self._page: Page | None = None

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Then release the Lease of the leader, and return the exit code."""
        with _signals_blocked():
            self._start()
            signal.sigwait(STOP_SIGNALS)
            self._stop()
        return os.EX_OK

    def _start(self) -> None:
        for task in self._tasks:
            self._health.alive(task.name, task.alive)
        checks = {"leases": self._monitor.unready, "credentials": lambda: self._api.credentials.trouble}
        for name, check in checks.items():
            self._health.ready(name, check)
        port, page_port = self._health.start(), self._start_page()
        log.info("manager is starting", namespace=self._settings.namespace, http_port=port, page_port=page_port)
        self._recorder.start()
        for task in self._tasks:
            task.start()

    def _start_page(self) -> int | None:
        """Serve the page, and return its port; None: no page. If it cannot be served, the manager runs without it."""
        port = self._settings.page_port
        if port is None:
            return None
        # Its own client: the requests for the page must not open the circuit of the other ones.
        source = Source(client.load(self._settings.kubeconfig, program=MANAGER))
        try:
            self._page = Page(source, self._served, port)
        except Rejected as error:
            log.warning("the page is not served", error=str(error))
            return None
        return self._page.start()

    def _served(self) -> Served:
        return Served(self._settings.identity or "without an identity", self._leader.leads(), __version__)

    def _stop(self) -> None:
        log.info("manager is stopping")
        for task in self._tasks:
            task.close()
        self._leader.release()
        for task in self._tasks:
            task.join(JOIN_S)
        self._recorder.close(JOIN_S)
        if self._page:
            self._page.close()
        self._health.close()
        log.info("manager stopped")


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that stop the manager, in this thread and in those that it starts, so that it can wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

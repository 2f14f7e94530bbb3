"""The agent as a whole: creates its parts and connects them, starts them, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from controller.agent.acting import now
from controller.agent.brake import NodeBrake
from controller.agent.domain_index import DomainIndex
from controller.agent.host_report import HostReport
from controller.agent.host_spec import HostSpec
from controller.agent.metrics import Metrics
from controller.agent.node_conflict import NodeConflict
from controller.agent.outage import RETRY_SPREAD_S, Outage
from controller.agent.ownership import Ownership
from controller.agent.reconcile import Reconciler
from controller.agent.relist import ApiRelist, LibvirtRelist
from controller.agent.renewal import Renewal
from controller.agent.settings import Settings
from controller.api.virtualmachine import VmKey
from controller.hypervisor.connection import LibvirtConnection
from controller.hypervisor.host import LibvirtHost
from controller.hypervisor.pidfiles import raise_file_limit
from controller.kube import client
from controller.kube.events import EventRecorder
from controller.kube.hypervisors import OwnHypervisor
from controller.kube.store import KubeStore, Update, key_of
from controller.kube.watch import Watch
from controller.kube.watched import own_hypervisor, virtual_machines
from controller.policy.start_limiter import StartLimiter
from controller.policy.view import Domain, Node
from controller.runtime.health import Health
from controller.runtime.periodic import PeriodicTask
from controller.runtime.watchdog import Watchdog
from controller.runtime.workers import Workers
from controller.runtime.workqueue import WorkQueue

FLUSH_S = 5.0
"""How long a stopping agent waits for the actions in flight. It continues to report during this time."""
CLOSE_S = 0.5
"""How long a stopping agent waits for the thread that writes Events, and then again for its libvirt connections."""
FIRST_CONNECT_S = 5.0
"""How long a starting agent waits for libvirt before it reports that libvirt does not answer."""
FIRST_READ_S = 5.0
"""How long the first reconcile passes of an agent wait for its Hypervisor. Afterwards, the agent reports that it must
not act yet."""
FIRST_CLAIM_S = 5.0
"""How long the first reconcile passes wait for the first attempt to acquire the host lock and the Lease. Without this
wait, each VM for which an action is due would be reported as ActionBlocked for a moment when an agent starts."""
DIRECTORY_REMOVED = os.EX_TEMPFAIL
"""The exit code of an agent that must be restarted, because libvirt's socket directory was removed."""
NON_HOLDER_DELAY_S = 5.0
"""How long an agent that must not act waits before it overwrites another agent's report. Without this wait, two agents
that observe different libvirts would overwrite each other's report forty times a second."""
PROBE_EVERY_S = 1.0
"""How often the agent checks whether a probe, a retry or a list is due during and after an outage of the API server.
`Outage` determines when each is due."""
OVERDUE_EVERY_S = 1.0
"""How often the agent checks for overdue lookups."""

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Run the agent until SIGTERM or SIGINT, and return its exit code. Raises Rejected if the settings cannot work."""
    raise_file_limit()
    return asyncio.run(Agent(settings).run())


class Agent:
    """All parts of one agent. The constructor opens no connection; `run` opens and closes them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics(settings.vm_metrics)
        self._health = Health(settings.http_address, settings.http_port, self._metrics)
        self._queue: WorkQueue[VmKey] = WorkQueue(metrics=self._metrics.workqueue)
        self._domain_index = DomainIndex()
        self._brake = NodeBrake(settings.waits, settings.boot_id)
        self._api = client.load(settings.kubeconfig, throttled=self._metrics.throttled, scheduled_probes=True)
        self._renewal = Renewal(
            self._api,
            settings.kubeconfig,
            settings.node_name,
            self._metrics,
            renew_after_s=settings.renew_after_s,
        )
        self._store = KubeStore(
            self._api,
            settings.node_name,
            on_rewound=self._rewound,
            on_kept=self._object_changed,
            on_absent=self._queue.add,
        )
        self._vms_watched = virtual_machines(
            settings.node_name,
            on_object=self._object_changed,
            on_gone=self._object_gone,
            known=self._store,
        )
        self._host_spec = HostSpec(settings.node_name, observe_only=settings.observe_only, changed=self._add_all)
        self._host_watched = own_hypervisor(
            settings.node_name,
            on_object=self._host_changed,
            on_gone=self._host_uncertain,
            on_refused=self._host_uncertain,
        )
        self._watch = Watch(self._api, settings.node_name, [self._vms_watched, self._host_watched])
        self._recorder = EventRecorder(self._api, instance=settings.node_name, dropped=self._metrics.event_dropped)
        self._hypervisor = LibvirtConnection(
            settings.libvirt_uri,
            changed=self._domain_changed,
            on_connected=self._connected,
            on_lost=self._lost,
            count=self._metrics.libvirt_event,
        )
        self._ownership = Ownership(
            settings,
            self._api,
            dead=self._health.dead,
            changed=self._ownership_changed,
            directory_removed=self._directory_removed,
        )
        self._metrics.lease_held.set_function(lambda: float(self._ownership.lease_held()))
        self._host = LibvirtHost(self._hypervisor, blocked=self._blocked)
        self._node_conflict = NodeConflict(on_temporary_uuid=self._hypervisor.forget_host_uuid)
        self._reconciler = Reconciler(
            host=self._host,
            store=self._store,
            recorder=self._recorder,
            queue=self._queue,
            domain_index=self._domain_index,
            brake=self._brake,
            start_limiter=StartLimiter(settings.start_parallel, settings.start_interval_s),
            gauges=self._metrics,
            node_name=settings.node_name,
            node=self._node,
            waits=settings.waits,
            runs_elsewhere=self._host_spec.runs_elsewhere,
            on_report=self._vm_reported,
        )
        self._metrics.watch_actions(self._reconciler.hanging)
        self._metrics.watch_events(self._reconciler.oldest_event_s)
        self._libvirt_relist = LibvirtRelist(
            self._hypervisor,
            self._host,
            self._store,
            period_s=settings.resync_libvirt_s,
            enqueue=self._queue.add,
            resynced=self._metrics.resynced,
            listed=self._listed,
        )
        self._api_relist = ApiRelist(
            self._store,
            self._vms_watched.health,
            period_s=settings.resync_api_s,
            on_first_list=self._first_list,
            enqueue=self._queue.add,
            resynced=self._metrics.resynced,
        )
        self._host_report = HostReport(
            settings,
            self._host_spec,
            OwnHypervisor(self._api, settings.node_name),
            self._hypervisor,
            self._recorder,
            may_write=self._ownership.owns_node,
            vms=lambda: self._store.vms() if self._api_relist.listed.is_set() else None,
            quiet_since_s=self._reconciler.quiet_since_s,
            relist=self._libvirt_relist.task.wake_up,
            unwatched=lambda: self._host_watched.served is False,
            watch_again=self._watch.restart,
            counted=self._metrics.inventory,
        )
        self._outage = Outage(settings.relist_spread_s)
        self._tasks = [
            self._api_relist.task,
            self._libvirt_relist.task,
            self._host_report.task,
            *self._renewal.tasks,
            PeriodicTask("api-probe", PROBE_EVERY_S, self._probe_api),
            PeriodicTask("overdue", OVERDUE_EVERY_S, self._reconciler.report_overdue_lookups),
            # These tasks start last, because the agent claims the Lease only while all of its threads are alive.
            *self._ownership.tasks,
        ]
        self._watchdog = Watchdog(self._health.dead)
        self._workers = Workers(
            settings.workers,
            self._queue,
            self._pass,
            wait=self._wait_before_first_pass,
            failed=self._metrics.pass_failed,
            key_field="vm",
        )
        self._connected_once = threading.Event()
        self._unreported: set[VmKey] = set()
        self._stopping = threading.Event()
        self._exit_code = os.EX_OK
        self._end: Callable[[], object] = lambda: None
        """Makes the agent stop, as SIGTERM does. Thread-safe."""

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT. Then stop acting, write the last reports, and return the exit code."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        self._end = partial(loop.call_soon_threadsafe, stop.set)
        self._start()
        # This task must exist before the watch begins, because kopf cancels later tasks when it ends.
        acting = asyncio.create_task(self._act_until(stop))
        try:
            await self._watch.run(stop)
        finally:
            stop.set()
            await acting
            await asyncio.to_thread(self._stop)
        return self._exit_code

    async def _act_until(self, stop: asyncio.Event) -> None:
        """Let no pass begin another action once `stop` is set. This does not wait for the end of the watch."""
        await stop.wait()
        log.info("agent is stopping: no further actions; flushing reports")
        self._reconciler.stop_acting()

    def _start(self) -> None:
        settings = self._settings
        self._health.alive("event loop", self._hypervisor.alive)
        self._health.alive("watch", self._watch.alive)
        self._health.alive("workers", self._workers.alive)
        for task in self._tasks:
            self._health.alive(task.name, task.alive)
        checks = {
            "libvirt": self._libvirt_relist.unready,
            "objects": self._objects_unready,
            "watch": self._vms_watched.health.unready,
            "credentials": lambda: self._api.credentials.trouble,
            "token": self._renewal.unready,
            "hypervisor": self._host_spec.unready,
            "hypervisor-watch": self._host_watch_unready,
            "host-lock": self._ownership.lock_missing,
            "lease": self._ownership.lease_missing,
        }
        for name, check in checks.items():
            self._health.ready(name, check)
        port = self._health.start()
        log.info(
            "agent is starting",
            node=settings.node_name,
            libvirt_uri=settings.libvirt_uri,
            http_port=port,
        )
        self._recorder.start()
        self._hypervisor.start()
        self._workers.start()
        for task in self._tasks:
            task.start()
        self._watchdog.start()

    def _stop(self) -> None:
        """Stop all parts in order. The waits for actions and for reports share one deadline, so they do not add up."""
        self._watchdog.close()
        flushed_s = time.monotonic() + FLUSH_S
        for task in self._tasks:
            task.close()
        self._reconciler.wait_for_actions(FLUSH_S)
        self._queue.drain(_remaining_s(flushed_s))
        self._stopping.set()
        self._queue.close()
        self._api_relist.listed.set()  # ends the wait of workers that have not begun
        self._workers.join(flushed_s)
        for task in self._tasks:
            task.join(_remaining_s(flushed_s))
        self._ownership.release_lease()
        self._recorder.close(CLOSE_S)
        self._hypervisor.close(CLOSE_S)
        self._ownership.release_lock()
        self._health.close()
        log.info("agent stopped")

    # --- notifications from libvirt and the API server: these methods add keys to the queue

    def _domain_changed(self, uuid: UUID, name: str, at_s: float) -> None:
        for key in self._domain_index.keys(uuid, name):
            self._reconciler.event(key, at_s)
        self._host_report.domain_changed(managed=self._domain_index.is_claimed(uuid, name))

    def _object_changed(self, raw: dict[str, Any]) -> None:
        if self._store.put(raw) is not Update.UNCHANGED:
            key = key_of(raw)
            contested_s = self._node_conflict.wait_s(vm, self._node()) if (vm := self._store.read(key)) else 0.0
            self._queue.add_after(key, max(NON_HOLDER_DELAY_S if self._ownership.blocked() else 0.0, contested_s))

    def _object_gone(self, raw: dict[str, Any]) -> None:
        key = key_of(raw)
        self._store.gone(raw)
        self._node_conflict.forget(key)
        self._queue.add(key)

    def _rewound(self) -> None:
        self._watch.restart()

    def _host_changed(self, raw: dict[str, Any]) -> None:
        self._host_report.object_changed(raw)

    def _host_uncertain(self) -> None:
        self._host_report.object_uncertain()

    def _vm_reported(self) -> None:
        self._host_report.vm_reported()

    def _listed(self, domains: Sequence[Domain], began_s: float) -> None:
        self._host_report.listed(domains, began_s)

    def _connected(self) -> None:
        self._check_host_uuid()  # before the workers begin, which wait for the connection
        self._metrics.libvirt_up()
        self._connected_once.set()
        self._libvirt_relist.task.wake_up()
        self._add_all()

    def _lost(self) -> None:
        self._metrics.libvirt_down()
        self._host_report.task.wake_up()
        self._add_all()

    def _ownership_changed(self) -> None:
        self._host_report.ask_again()
        self._add_all()

    def _add_all(self) -> None:
        for key in self._store.known():
            self._queue.add(key)

    def _probe_api(self) -> float | None:
        """During an outage of the API server, probe it when a probe is due. After the outage, retry and list.

        Failed keys are retried after each recovery. The objects are listed only if deletions might have been missed;
        the list can come up to 60 s later than the recovery (`Outage`).
        """
        if not self._api.circuit_open:
            self._outage.answered()
        elif self._outage.probes() and self._api.probe():
            self._outage.missed()
            self._outage.over()
        if self._api.take_recovery():
            self._outage.over()
        if self._outage.retries_failed():
            self._queue.retry_failed_now(RETRY_SPREAD_S)
            self._ownership.ask_again()
            self._host_report.ask_again()
        if self._outage.relists():
            self._api_relist.task.wake_up()
        return None

    def _first_list(self) -> None:
        """Initialize the parts that need all objects, before the first reconcile pass.

        The domain index needs them to find the owner of each domain, and the brake and the metrics need the last
        reports.
        """
        moment = now()
        vms = self._store.vms()
        for vm in vms:
            self._reconciler.index(vm)
            self._brake.note(vm.key, vm.status, moment)
            self._metrics.observed(vm, vm.status)
        self._check_host_uuid()
        self._unreported = {vm.key for vm in vms}

    def _check_host_uuid(self) -> None:
        """Compare libvirt's UUID of this host with those in the reports, before the next reports replace these.

        Both must be known: the first list and the connection to libvirt each come at some time.
        """
        node = self._node()
        for vm in self._store.vms():
            self._node_conflict.check(vm, node)

    # --- reconcile passes

    def _wait_before_first_pass(self) -> None:
        """Wait for the first list of objects. For a limited time, wait also for libvirt, the Lease and the Hypervisor.

        Each worker calls this before its first pass.
        """
        self._api_relist.listed.wait()
        if not self._stopping.is_set():
            self._connected_once.wait(FIRST_CONNECT_S)
            self._ownership.tried.wait(FIRST_CLAIM_S)
            if self._ownership.owns_node():  # only the owner creates a Hypervisor that does not exist yet
                self._host_spec.known.wait(FIRST_READ_S)

    def _pass(self, key: VmKey) -> None:
        with self._metrics.pass_timed():
            self._store.refresh_uncertain(key)
            self._reconciler.reconcile(key)
        self._unreported.discard(key)

    # --- the node

    def _node(self) -> Node:
        settings = self._settings
        return Node(
            settings.node_name,
            settings.boot_id,
            settings.observe_only,
            self._blocked(),
            host_uuid=self._hypervisor.host_uuid,
            libvirtd_since=self._host.libvirtd_since(),
            maintenance=self._host_spec.maintenance(),
        )

    def _blocked(self) -> str:
        """Return why this agent must not act, as one sentence; empty: it may act."""
        return self._ownership.blocked() or self._host_spec.blocked()

    def _directory_removed(self) -> None:
        if not self._exit_code:
            log.error("libvirt socket directory was removed; exiting, so that a restarted Pod mounts the new one")
            self._exit_code = DIRECTORY_REMOVED
            self._end()

    def _host_watch_unready(self) -> str | None:
        # Without the definition, there is nothing to watch, and `hypervisor` says so.
        return None if self._host_watched.served is False else self._host_watched.health.unready()

    def _objects_unready(self) -> str | None:
        if self._api_relist.listed.is_set() and (left := len(self._unreported)):
            return f"{left} VirtualMachines have not been reported yet"
        return self._api_relist.unready()


def _remaining_s(until_s: float) -> float:
    return max(0.0, until_s - time.monotonic())

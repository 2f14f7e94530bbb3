"""The agent: joins the parts, runs them, and lets them go in order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import structlog

from controller.agent.domain_index import Directory
from controller.agent.metrics import Metrics
from controller.agent.node_conflict import Contest
from controller.agent.outage import HASTEN_SPREAD_S, Backoff, Outage
from controller.agent.pacing import Brake, Pace
from controller.agent.reconcile import Reconciler
from controller.agent.relist import Comparison
from controller.agent.settings import Settings
from controller.api.clock import Now
from controller.api.virtualmachine import VmKey
from controller.hypervisor.connection import Hypervisor
from controller.hypervisor.host import LibvirtHost
from controller.hypervisor.host_lock import Hand
from controller.kube import client
from controller.kube.events import EventRecorder
from controller.kube.lease import NodeLease
from controller.kube.store import KubeStore, News
from controller.kube.watch import Watch
from controller.policy.view import Node
from controller.runtime.errors import Rejected, Transient
from controller.runtime.health import Health
from controller.runtime.periodic import Periodic
from controller.runtime.workqueue import WorkQueue

FLUSH_S = 5.0
"""How long a stopping agent waits for acts under way, and goes on reporting."""
LEAVE_S = 0.5
"""How long it then waits for each of those that write Events, and that end the connections to libvirt."""
RELEASE_S = 1.0
"""How long it waits for the API server's answer that the Lease of the node is free."""
FIRST_CONNECT_S = 5.0
"""How long a starting agent waits for libvirt before it reports that it does not answer."""
HAND_RETRY_S = 1.0
"""How often an agent that is not alone asks for its libvirt again."""
FOLDER_REMOVED = os.EX_TEMPFAIL
"""The exit code of an agent that must be started anew to see the folder of libvirt's socket again."""
GIVE_WAY_S = 5.0
"""How long an agent that may not act lets stand what another has written of a VM: two that see different libvirts would
contradict each other forty times a second, for ever."""
KNOCK_EVERY_S = 1.0
"""How often it is seen to that an API server that is away is asked whether it is back; how often it is asked, see
`Outage`."""
UNLISTABLE_S = 30.0, 60.0
"""The first and the longest wait after a list that failed, where there has been a good one."""
STALE_S, STALE_PERIODS = 600.0, 2
"""How old the last list of objects may be, or how many periods of such lists if that is longer."""
LISTED_WITHIN_PERIODS = 3
"""A libvirt that has not been listed for so many periods is not looked after: events alone are no proof."""
OVERDUE_EVERY_S = 1.0
"""How often it is seen to that looks return."""

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Run the agent until SIGTERM or SIGINT; the exit code. Raises Rejected for settings that can never work."""
    return asyncio.run(Agent(settings).run())


class Agent:
    """All parts of one agent. Built without a connection; `run` makes them and ends them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._health = Health(settings.http_address, settings.http_port, self._metrics.registry)
        self._queue: WorkQueue[VmKey] = WorkQueue(metrics=self._metrics.workqueue)
        self._directory = Directory()
        self._brake = Brake(settings.waits, settings.boot_id)
        self._hand = Hand.of(settings.libvirt_uri)
        self._api = client.load(settings.kubeconfig)
        self._watch = Watch(self._api, settings.node_name, on_object=self._object_changed, on_gone=self._object_gone)
        self._store = KubeStore(self._api, settings.node_name, on_rewound=self._watch.begin_anew)
        self._recorder = EventRecorder(self._api, instance=settings.node_name, dropped=self._metrics.event_dropped)
        self._hypervisor = Hypervisor(
            settings.libvirt_uri,
            changed=self._domain_changed,
            on_connected=self._connected,
            on_lost=self._lost,
            count=self._metrics.libvirt_event,
        )
        self._host = LibvirtHost(self._hypervisor, blocked=self._blocked)
        self._contest = Contest(temporary=self._hypervisor.forget_host_uuid)
        self._lease = self._lease_of_node()
        self._reconciler = Reconciler(
            host=self._host,
            store=self._store,
            recorder=self._recorder,
            queue=self._queue,
            directory=self._directory,
            brake=self._brake,
            pace=Pace(settings.start_parallel, settings.start_interval_s),
            gauges=self._metrics,
            node_name=settings.node_name,
            node=self._node,
            waits=settings.waits,
        )
        self._metrics.watch_acts(self._reconciler.hanging)
        self._comparison = Comparison()
        self._libvirt_resync = Periodic("libvirt-resync", settings.resync_libvirt_s, self._relist_libvirt)
        self._api_resync = Periodic("api-resync", settings.resync_api_s, self._relist_api)
        self._hand_keeper = Periodic("hand", HAND_RETRY_S, self._take_hand)
        self._overdue = Periodic("overdue", OVERDUE_EVERY_S, self._tell_overdue)
        self._knocker = Periodic("api-knocker", KNOCK_EVERY_S, self._knock)
        self._outage = Outage(settings.relist_spread_s)
        self._unlistable = Backoff(uniform=random.uniform)
        self._listed_s = float("-inf")
        self._relisted_s = time.monotonic()
        """When libvirt was last listed; the first listing has its time too."""
        self._listings_of_the_watch = 0
        self._lease_keeper = Periodic("lease", HAND_RETRY_S, self._keep_lease)
        self._periodic = [self._api_resync, self._hand_keeper, self._knocker, self._libvirt_resync, self._overdue]
        if self._lease:
            self._periodic.append(self._lease_keeper)
        self._without_lease: str | None = None
        """Why it was not held when that was last told; None: nothing was told yet."""
        self._workers = [
            threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(settings.workers)
        ]
        self._listed, self._connected_once = threading.Event(), threading.Event()
        self._unlisted = ""
        """Why not, as far as that is known."""
        self._unpublished: set[VmKey] = set()
        self._stopping = threading.Event()
        self._exit_code = os.EX_OK
        self._end: Callable[[], object] = lambda: None
        """Ask for what a signal asks for; any thread may."""

    async def run(self) -> int:
        """Run until a signal; then stop acting, flush reports, and go."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        self._end = partial(loop.call_soon_threadsafe, stop.set)
        self._start()
        try:
            await self._watch.run(stop)
        finally:
            await asyncio.to_thread(self._stop)
        return self._exit_code

    def _start(self) -> None:
        settings = self._settings
        self._health.alive("event loop", self._hypervisor.alive)
        self._health.alive("watch", self._watch.alive)
        self._health.alive("workers", lambda: all(worker.is_alive() for worker in self._workers))
        for part in self._periodic:
            self._health.alive(part.name, part.alive)
        self._health.ready("libvirt", self._libvirt_unready)
        self._health.ready("objects", self._objects_unready)
        self._health.ready("watch", self._watch.sight.blind)
        self._health.ready("credentials", lambda: self._api.credentials.trouble)
        self._health.ready("hand", self._hand_unready)
        self._health.ready("lease", self._lease_unready)
        port = self._health.start()
        log.info(
            f"virtsync agent of node {settings.node_name} on {settings.libvirt_uri}; health and metrics on port {port}",
            node=settings.node_name,
            libvirt_uri=settings.libvirt_uri,
            http_port=port,
        )
        self._recorder.start()
        self._hypervisor.start()
        for worker in self._workers:
            worker.start()
        # The last, for that of the Lease wants to see all threads alive.
        for part in self._periodic:
            part.start()

    def _stop(self) -> None:
        """Waits for whoever does not answer are counted together: whatever hangs, this is over in time."""
        log.info("stopping: no more acts; reports are flushed")
        self._reconciler.stop_acting()
        flushed_s = time.monotonic() + FLUSH_S
        for part in self._periodic:
            part.close()
        self._reconciler.outlast_acts(FLUSH_S)
        self._queue.drain(_left(flushed_s))
        self._stopping.set()
        self._listed.set()
        self._queue.close()
        for worker in self._workers:
            worker.join(_left(flushed_s))
        for part in self._periodic:
            part.join(_left(flushed_s))
        self._release_lease()
        self._recorder.close(LEAVE_S)
        self._hypervisor.close(LEAVE_S)
        self._hand.release()
        self._health.close()
        log.info("stopped")

    # --- what the world says: names for the queue, nothing else

    def _domain_changed(self, uuid: UUID, name: str, at_s: float) -> None:
        for key in self._directory.keys(uuid, name):
            self._reconciler.event(key, at_s)

    def _object_changed(self, raw: dict[str, Any]) -> None:
        if self._store.put(raw) is not News.KNOWN:
            key = VmKey(raw["metadata"]["namespace"], raw["metadata"]["name"])
            contested_s = self._contest.wait_s(vm, self._node()) if (vm := self._store.read(key)) else 0.0
            self._queue.add_after(key, max(GIVE_WAY_S if self._blocked() else 0.0, contested_s))

    def _object_gone(self, key: VmKey) -> None:
        self._store.doubt(key)
        self._queue.add(key)

    def _connected(self) -> None:
        self._metrics.libvirt_up()
        self._connected_once.set()
        self._libvirt_resync.nudge()
        self._add_all()

    def _lost(self) -> None:
        self._metrics.libvirt_down()
        self._add_all()

    def _add_all(self) -> None:
        for key in self._store.known():
            self._queue.add(key)

    # --- the relists

    def _relist_libvirt(self) -> float | None:
        if not self._hypervisor.connected:
            return None
        began_s = time.monotonic()
        try:
            domains = self._host.relist()
        except Transient as error:
            log.warning(f"libvirt could not be listed: {error}")
            return 5.0
        for vm in self._comparison.out_of_step(self._store.vms(), domains):
            self._queue.add(vm.key)
        self._relisted_s = began_s
        self._metrics.resynced("libvirt", time.monotonic() - began_s)
        return None

    def _relist_api(self) -> float | None:
        began_s = time.monotonic()
        try:
            changed, gone = self._store.relist()
        except (Transient, Rejected) as error:
            log.warning(f"the API server could not be listed: {error}")
            self._unlisted = f": {error}"
            asked_s = error.retry_after_s if isinstance(error, Transient) else 0.0
            return max(self._unlistable.wait_s(), asked_s)
        self._unlistable = Backoff(*UNLISTABLE_S, uniform=random.uniform)
        self._listed_s, self._unlisted = began_s, ""
        for key in changed | gone:
            self._queue.add(key)
        self._metrics.resynced("api", time.monotonic() - began_s)
        if not self._listed.is_set():
            self._first_list()
        return None

    def _knock(self) -> float | None:
        """See whether the API server is back, and do then what its absence has left undone."""
        if not self._api.silent:
            self._outage.answered()
        elif self._outage.knocks() and self._api.knock():
            self._outage.missed()
            self._outage.over()
        if self._api.take_recovery():
            self._outage.over()
        if self._watch.sight.listings > self._listings_of_the_watch:
            # Its list shows what there is, and not what was deleted while nobody watched.
            if self._listings_of_the_watch:
                self._outage.missed()
            self._listings_of_the_watch = self._watch.sight.listings
        if self._outage.hastens():
            self._queue.hasten(HASTEN_SPREAD_S)
            self._lease_keeper.nudge()
        if self._outage.relists():
            self._api_resync.nudge()
        return None

    def _first_list(self) -> None:
        """Know all objects before any is looked at: who has a domain, and what the last agent saw of the node."""
        now = Now(datetime.now(UTC), time.monotonic())
        vms = self._store.vms()
        for vm in vms:
            self._directory.enter(vm)
            self._brake.note(vm.key, vm.status, now)
            self._metrics.seen(vm, vm.status)
            self._contest.check(vm, self._node())
        self._unpublished = {vm.key for vm in vms}
        self._listed.set()

    # --- passes

    def _work(self) -> None:
        self._listed.wait()
        if not self._stopping.is_set():
            self._connected_once.wait(FIRST_CONNECT_S)
        while (key := self._queue.get()) is not None:
            self._pass(key)

    def _tell_overdue(self) -> None:
        self._reconciler.tell_overdue()

    def _pass(self, key: VmKey) -> None:
        try:
            with self._metrics.pass_timed():
                self._store.make_sure(key)
                self._reconciler.reconcile(key)
        except Transient as error:
            log.warning(f"{key}: will be tried again: {error}", vm=str(key))
            self._queue.retry(key, not_before_s=error.retry_after_s)
        except Rejected as error:
            log.warning(f"{key}: the API server refuses its status: {error}", vm=str(key))
            self._queue.retry(key)
        except Exception:
            log.exception(f"{key}: the pass failed inside virtsync", vm=str(key))
            self._metrics.pass_failed()
            self._queue.retry(key)
        else:
            self._queue.forget(key)
            self._unpublished.discard(key)
        finally:
            self._queue.done(key)

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
        )

    def _blocked(self) -> str:
        """Why nothing may be done, in a sentence; empty where something may, or where nothing is done anyway."""
        if self._settings.observe_only:
            return ""
        return self._hand_unready() or self._lease_unready() or ""

    def _take_hand(self) -> float | None:
        if self._hand.removed() and not self._exit_code:
            log.error("the folder of libvirt's socket was removed; the agent ends, for only another sees the new one")
            self._exit_code = FOLDER_REMOVED
            self._end()
        if not self._settings.observe_only and not self._hand.held and self._hand.hold():
            log.info("this agent is the one that acts on this libvirt")
            self._lease_keeper.nudge()
            self._add_all()
        return None

    def _lease_of_node(self) -> NodeLease | None:
        settings = self._settings
        if settings.lease_namespace is None:
            return None
        lease = NodeLease(
            self._api,
            namespace=settings.lease_namespace,
            node_name=settings.node_name,
            identity=settings.identity or str(uuid4()),
            duration_s=settings.lease_duration_s,
            lock=self._lock,
            dead=self._health.dead,
        )
        self._metrics.lease_held.set_function(lambda: float(lease.held))
        return lease

    def _lock(self) -> str | None:
        """The lock on this libvirt, by a name that no other has on any machine; None: somebody else has it."""
        if self._settings.observe_only:  # it does not even ask for it
            return ""
        if not self._hand.held:
            return None
        return f"{self._settings.boot_id} {self._hand.lock}" if self._hand.lock else ""

    def _keep_lease(self) -> float | None:
        assert self._lease  # noqa: S101 - else nobody calls this
        again_s = self._lease.keep()
        why_not = self._lease.blocked
        if why_not != self._without_lease:
            self._without_lease = why_not
            if why_not:
                log.warning(why_not)
            else:
                log.info("this agent holds the Lease of its node")
            self._add_all()
        return again_s

    def _release_lease(self) -> None:
        if self._lease:
            leave = threading.Thread(target=self._lease.release, name="lease-release", daemon=True)
            leave.start()
            leave.join(RELEASE_S)

    # --- readiness: None, or a sentence why not

    def _libvirt_unready(self) -> str | None:
        if not self._hypervisor.connected:
            return f"libvirt at {self._settings.libvirt_uri} does not answer"
        old_s = time.monotonic() - self._relisted_s
        late = old_s > LISTED_WITHIN_PERIODS * self._settings.resync_libvirt_s
        return f"libvirt has not been listed for {LISTED_WITHIN_PERIODS} periods of --resync-libvirt" if late else None

    def _objects_unready(self) -> str | None:
        if not self._listed.is_set():
            return f"the VirtualMachines of this node have not been listed yet{self._unlisted}"
        if left := len(self._unpublished):
            return f"{left} VirtualMachines have not been reported yet"
        old_s = time.monotonic() - max(self._listed_s, self._watch.sight.listed_s)
        if old_s > max(STALE_S, STALE_PERIODS * self._settings.resync_api_s):
            return f"the VirtualMachines of this node have not been listed for {old_s:.0f} s{self._unlisted}"
        return None

    def _hand_unready(self) -> str | None:
        if self._settings.observe_only or self._hand.held:
            return None
        return f"{self._hand.hindrance}."

    def _lease_unready(self) -> str | None:
        return (self._lease.blocked or None) if self._lease else None


def _left(until_s: float) -> float:
    return max(0.0, until_s - time.monotonic())

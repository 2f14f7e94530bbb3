"""Watches whether the agents renew their Leases, and has the objects of silent nodes marked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from controller.api.clock import Now
from controller.api.hypervisor import MaintenanceMode
from controller.fleet.census import Census, census, vms_by_node
from controller.fleet.mass import MASS_WAITS_S, mass
from controller.fleet.silence import BLIND_AFTER_S, Sight, Silence
from controller.kube.lists import FleetRequests
from controller.manager.marker import Marker, Recorder
from controller.manager.metrics import Metrics
from controller.runtime.errors import Rejected, Transient
from controller.runtime.periodic import PeriodicTask

LIST_EVERY_S = 2.0
HOSTS_EVERY_S = 60.0
"""How often the Hypervisors are listed. The alert about silent nodes fires after five minutes, and a maintenance that
was declared just before a node fell silent must be known by then."""
VMS_EVERY_S = 600.0
"""How often all VMs are listed: 100,000 of them cost the API server 2 to 6 s of CPU (docs/scale.md)."""
CENSUS_RETRY_S = 30.0

log = structlog.get_logger()


def now() -> Now:
    """Return this moment. The monotonic time also runs while the machine sleeps, as the agents on other machines do."""
    return Now(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))


class Monitor:
    """Lists the agents' Leases, finds silent nodes, and marks their objects if this manager leads.

    A manager that does not lead observes all the same. So when it becomes the leader, it knows who is silent at once.
    Other threads may read `sight`, `census` and `in_sight`, and call `unready`.
    """

    def __init__(
        self,
        fleet: FleetRequests,
        recorder: Recorder,
        metrics: Metrics,
        *,
        namespace: str,
        leads: Callable[[], bool],
        clock: Callable[[], Now] = now,
    ) -> None:
        self._fleet, self._metrics, self._namespace = fleet, metrics, namespace
        self._leads, self._clock = leads, clock
        self._changing = threading.Lock()
        self.sight = Sight()
        """What the lists of Leases so far have shown. An immutable value; each list replaces it."""
        self.census: Census | None = None
        """What the last lists of all objects have shown; None: there were none yet."""
        self._vms: Counter[str] = Counter()
        """The number of VMs by node, as of the last list."""
        self._vms_due_s = float("-inf")
        self._masses: dict[str, float] = {}
        """The nodes of a mass, with the `since_s` of the silence for which this was found out."""
        self._silent_together = False
        """Whether at least one of these nodes is silent."""
        self._blindness_counted_s = clock().monotonic_s
        self._trouble = "the Leases have not been listed yet"
        self._marker = Marker(self, fleet, recorder, metrics, namespace=namespace, clock=clock)
        self.tasks = [
            PeriodicTask("leases", LIST_EVERY_S, self._list),
            PeriodicTask("census", HOSTS_EVERY_S, self._count),
            self._marker.task,
        ]
        """The periodic tasks. The creator of this object starts and closes them."""

    def in_sight(self) -> bool:
        """Whether this manager leads, and has a good list of the last seconds: only then it may write."""
        return self._leads() and not self.sight.blind(self._clock().monotonic_s)

    def vms_wait(self, silence: Silence) -> bool:
        """Whether the VMs of this silent node are marked later.

        In a mass, they wait until the node is silent for `MASS_WAITS_S`. As long as there was no census, nobody knows
        whether there is a mass, so they wait as if there was one.
        """
        massive = self.census is None or self._masses.get(silence.node) == silence.since_s
        return massive and self.sight.age_s(silence.node) < MASS_WAITS_S

    def unready(self) -> str | None:
        """Return why the manager does not know which agents live, as one sentence; None: it knows."""
        return self._trouble if self.sight.blind(self._clock().monotonic_s) else None

    def _list(self) -> float | None:
        requested_s = self._clock().monotonic_s
        try:
            leases = self._fleet.leases(self._namespace)
        except (Transient, Rejected) as error:
            self._trouble = f"the Leases could not be listed: {error}"
            log.warning("could not list Leases", error=str(error))
            self._count_blindness(self._clock().monotonic_s)
            return None
        received = self._clock()
        self._count_blindness(received.monotonic_s)
        with self._changing:
            self.sight = self.sight.listed(leases, requested_s=requested_s, received=received)
        self._judge()
        return None

    def _judge(self) -> None:
        """Find the masses among the silent nodes (`fleet/mass.py`), set the metrics, and wake up the marker."""
        sight, known, silences = self.sight, self.census, self.sight.silences()
        if known:
            since_s = {node: seen.since.monotonic_s for node, seen in sight.nodes.items()}
            # A node stays in the mass until it is heard, even if the others have come back.
            self._masses = {node: at_s for node, at_s in self._masses.items() if since_s.get(node) == at_s}
            # After an outage of the API server, all Leases are old until the agents have renewed them.
            found = frozenset() if sight.patient else mass(sight, known.vms)
            self._masses |= {node: since_s[node] for node in found}
        # Nodes that are only late count for the mass, but it is no mass yet: they might renew their Leases in time.
        silent_together = any(silence.node in self._masses for silence in silences)
        if silent_together and not self._silent_together:
            log.warning("many agents fell silent together; their VMs are marked later", nodes=len(self._masses))
        self._silent_together = silent_together
        self._metrics.mass.set(float(silent_together))
        maintenance, no_lease_here = (known.maintenance, known.no_lease_here) if known else ({}, frozenset())
        nodes = [silence.node for silence in silences if silence.node not in no_lease_here]
        silent = Counter(maintenance.get(node, "") for node in nodes)
        for mode in ("", *MaintenanceMode):
            self._metrics.silent_nodes.labels(mode).set(silent[mode])
        self._marker.task.wake_up()

    def _count_blindness(self, now_s: float) -> None:
        """Count the time without a good list until now, except for the first `BLIND_AFTER_S` of each gap."""
        counted_s = max(self._blindness_counted_s, self.sight.received_s + BLIND_AFTER_S)
        if now_s > counted_s:
            self._metrics.blind.inc(now_s - counted_s)
            self._blindness_counted_s = now_s

    def _count(self) -> float | None:
        now_s = self._clock().monotonic_s
        try:
            if now_s >= self._vms_due_s:
                self._vms = vms_by_node(node for (node,) in self._fleet.rows(["Node"]))
                self._vms_due_s = now_s + VMS_EVERY_S
                self._marker.revisit()
            found = census(self._fleet.hypervisors(), self._vms, self._namespace)
        except (Transient, Rejected) as error:
            log.warning("could not list Hypervisors and VirtualMachines", error=str(error))
            return CENSUS_RETRY_S
        with self._changing:
            self.sight = self.sight.expecting(found.expected, self._clock())
        self.census = found
        return None

"""The sweep: lists all VMs every `SWEEP_EVERY_S` to find what no agent reports. In between, it looks for VMs that run
on another host than that of their object."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime

import structlog

from controller.api.hypervisor import Hypervisor
from controller.api.virtualmachine import VirtualMachine
from controller.fleet.findings import COLUMNS, Findings, find, mark_without_node
from controller.kube.events import EventRecorder
from controller.kube.lists import FleetRequests
from controller.manager.elsewhere import Elsewhere
from controller.manager.metrics import Metrics
from controller.runtime.buckets import TokenBucket
from controller.runtime.errors import Conflicted, Forbidden, Rejected, Transient, Vanished
from controller.runtime.periodic import PeriodicTask

LOOK_EVERY_S = 5.0
"""How often the Hypervisors are listed. An agent writes that of its node at most every 5 s."""
SWEEP_EVERY_S, SWEEP_RETRY_S, SWEEP_JITTER = 1800.0, 60.0, 0.2
MARKS_PER_S, MARKS_BURST = 10.0, 50

log = structlog.get_logger()


class Sweep:
    """Sweeps when this manager begins to lead, and every 30 minutes (with jitter) while it leads.

    A sweep lists all VMs as a Table without objects. With 100,000 VMs this costs the API server 2.3 s, and this process
    1 s (measured). Objects are requested only for what the sweep has found.
    """

    def __init__(
        self,
        fleet: FleetRequests,
        recorder: EventRecorder,
        metrics: Metrics,
        *,
        namespace: str,
        leads: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`namespace` is that of the agents' Leases. `clock` returns seconds, and never goes back."""
        self._fleet, self._recorder, self._metrics = fleet, recorder, metrics
        self._namespace, self._leads, self._clock = namespace, leads, clock
        self._bucket = TokenBucket(MARKS_PER_S, MARKS_BURST)
        self._elsewhere: Elsewhere | None = None
        """None: this manager did not lead when it looked last."""
        self._next_s = 0.0
        self._hosts: dict[str, Hypervisor] = {}
        self._declared_s: dict[str, float] = {}
        """When this manager has first seen a maintenance that no agent has acknowledged, by node."""
        self._without_node: list[VirtualMachine] = []
        """The VMs without a node that this sweep has found and not marked yet."""
        self.task = PeriodicTask("sweep", LOOK_EVERY_S, self._look)
        """The periodic task that looks for VMs that run elsewhere, and sweeps when a sweep is due."""

    def _look(self) -> None:
        if not self._leads():
            self._elsewhere = None
            self._metrics.nothing_found()
            return
        if self._elsewhere is None:
            self._elsewhere = Elsewhere(self._fleet, self._recorder, leads=self._leads, clock=self._clock)
            self._next_s = 0.0
        listed_s = self._clock()
        try:
            self._hosts = {host.name: host for host in self._fleet.hypervisors(self._hosts)}
        except (Transient, Rejected) as error:
            log.warning("could not list Hypervisors", error=str(error))
            return
        now, hosts = datetime.now(UTC), list(self._hosts.values())
        self._metrics.maintenances(self._maintenances(hosts, now, listed_s))
        # Each of these must happen also if another one fails.
        if self._clock() >= self._next_s:
            self._sweep(self._elsewhere, hosts)
        try:
            self._metrics.found(runs_elsewhere=self._elsewhere.look(hosts, now.replace(microsecond=0), listed_s))
        except (Transient, Rejected) as error:
            log.warning("could not look for VMs that run elsewhere", error=str(error))
        self._mark()

    def _maintenances(self, hosts: Collection[Hypervisor], now: datetime, listed_s: float) -> dict[str, float]:
        """For how many seconds each node has been in maintenance, by its name.

        An agent that is away cannot clear its status when somebody ends the maintenance, nor acknowledge a new one.
        Until it does, the time counts from when this manager has seen the maintenance first.
        """
        declared = {host.name: host.status.maintenance for host in hosts if host.maintenance}
        self._declared_s = {node: self._declared_s.get(node, listed_s) for node, begun in declared.items() if not begun}
        return {
            node: (now - begun.start_time).total_seconds() if begun else listed_s - self._declared_s[node]
            for node, begun in declared.items()
        }

    def _sweep(self, elsewhere: Elsewhere, hosts: Collection[Hypervisor]) -> None:
        try:
            elsewhere.swept(self._find(hosts))
        except (Transient, Rejected) as error:
            log.warning("could not list all VMs", error=str(error))
            wait_s = SWEEP_RETRY_S
        else:
            wait_s = SWEEP_EVERY_S
        self._next_s = self._clock() + wait_s * random.uniform(1 - SWEEP_JITTER, 1 + SWEEP_JITTER)  # noqa: S311 - spreads load

    def _find(self, hosts: Collection[Hypervisor]) -> Findings:
        # An agent can have its Lease in another namespace, or none. This manager cannot tell whether it lives.
        others = {host.name for host in hosts if host.status.lease_namespace != self._namespace}
        findings = find(self._fleet.rows(COLUMNS), others | self._fleet.leases(self._namespace).keys())
        unbound = self._fleet.virtual_machines(node_name="") if findings.without_node else ()
        self._without_node = [vm for vm in unbound if mark_without_node(vm, datetime.now(UTC))]
        counts = {
            "node_without_lease": len(findings.without_lease),
            "vm_without_node": findings.without_node,
            "uuid_on_two_nodes": len(findings.on_two_nodes),
        }
        self._metrics.found(**counts)
        log.info("listed all VMs", vms=findings.vms, **counts)
        return findings

    def _mark(self) -> None:
        while self._without_node and self._bucket.take(self._clock()) == 0 and self._leads():
            vm = self._without_node[-1]
            try:
                if mark := mark_without_node(vm, datetime.now(UTC)):
                    self._fleet.patch_vm(vm, mark)
                    log.info("marked a VM that has no node", vm=str(vm.key), former=vm.status.node_name)
            except (Conflicted, Vanished):
                pass  # somebody else has written it: it may have a node again
            except (Forbidden, Rejected) as error:
                log.warning("could not mark a VM", vm=str(vm.key), error=str(error))
            except Transient as error:
                log.warning("could not mark a VM", vm=str(vm.key), error=str(error))
                self._without_node.insert(0, self._without_node.pop())  # the next look begins with another one
                return
            self._without_node.pop()

"""Keeps `status.runsElsewhere` of the Hypervisors: which VMs run on another node than the one to which they are bound.

`fleet/elsewhere.py` has the rules. This module gets the VMs of a UUID when the reports about it change, and in each
sweep, at a limited rate: a request for the VMs of one UUID costs the API server 80 ms with 100,000 VMs (measured).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from uuid import UUID

import structlog

from controller.api.clock import api_time
from controller.api.hypervisor import Hypervisor, RunsElsewhere
from controller.api.notice import Notice
from controller.api.virtualmachine import Reason, VirtualMachine
from controller.fleet.elsewhere import RELEASE_AFTER_S, Sighting, ended, noted, running, runs_at_home, wanted
from controller.fleet.findings import Findings, conflicts
from controller.kube.events import EventRecorder
from controller.kube.lists import FleetRequests
from controller.runtime.buckets import TokenBucket
from controller.runtime.errors import Conflicted, Forbidden, Rejected, Vanished

LOOKUPS_PER_S, LOOKUPS_BURST = 5.0, 25

log = structlog.get_logger()


class Elsewhere:
    """Which VMs run elsewhere, and what is known of them. Not thread-safe."""

    def __init__(
        self,
        fleet: FleetRequests,
        recorder: EventRecorder,
        *,
        leads: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet, self._recorder, self._leads, self._clock = fleet, recorder, leads, clock
        self._bucket = TokenBucket(LOOKUPS_PER_S, LOOKUPS_BURST)
        self._reports: dict[str, tuple[str, frozenset[UUID]]] = {}
        """Of each host that has reported: the resource version, and the running domains without an object."""
        self._swept: frozenset[UUID] = frozenset()
        """The UUIDs that VMs had in the last sweep."""
        self._due: dict[UUID, None] = {}
        """The UUIDs whose VMs must be requested, in this order."""
        self._vms: dict[UUID, list[VirtualMachine]] = {}
        """The VMs of the UUIDs that were requested."""
        self._ended_s: dict[Sighting, float] = {}
        """Since when an entry has ended."""
        self._told: set[str] = set()
        """The objects about whose conflict this sweep has recorded an Event, by uid."""

    def swept(self, findings: Findings) -> None:
        """Take over what a sweep has found. The VMs of all UUIDs that matter are requested once more."""
        self._swept = findings.uuids
        self._told.clear()
        self._vms.clear()
        for _, running_there in self._reports.values():
            self._due |= dict.fromkeys(running_there & findings.uuids)
        self._due |= dict.fromkeys(findings.on_two_nodes)

    def look(self, hosts: Collection[Hypervisor], now: datetime) -> int:
        """Compare these Hypervisors with the VMs of their domains, and write the lists that differ.

        Returns the number of VMs that run elsewhere. Raises Transient or Rejected; the next call continues.
        """
        self._note(hosts)
        for uuid in list(self._due):
            if not self._look_up(uuid):
                break
        released = self._released(hosts)
        self._refresh()  # the last one, because it uses what the rate limit still allows
        lists = wanted(hosts, self._vms, released, now)
        for host in hosts:
            if lists[host.name] != host.status.runs_elsewhere:
                self._write(host, lists[host.name])
        self._tell_conflicts()
        return sum(map(len, lists.values()))

    def _note(self, hosts: Collection[Hypervisor]) -> None:
        """Find the UUIDs whose VMs must be requested, because the reports about them have changed."""
        reports: dict[str, tuple[str, frozenset[UUID]]] = {}
        for host in hosts:
            known = self._reports.get(host.name)
            if known and known[0] == host.resource_version:
                reports[host.name] = known
            elif host.status.unmanaged:
                now = running(host)
                reports[host.name] = host.resource_version, now
                # A first report can have many domains without a VM. The last sweep shows which of them have one.
                self._due |= dict.fromkeys(now - known[1] if known else now & self._swept)
        self._reports = reports
        entries = [uuid for uuid, _ in noted(hosts) if uuid not in self._vms]
        self._due = dict.fromkeys(entries) | self._due

    def _look_up(self, uuid: UUID) -> bool:
        """Request the VMs of this UUID, unless the rate limit forbids it. Return whether they are known now."""
        if self._bucket.take(self._clock()) > 0:
            return False
        self._vms[uuid] = list(self._fleet.virtual_machines_of(uuid))
        self._due.pop(uuid, None)
        return True

    def _refresh(self) -> None:
        """Read the known VMs again, those that were read longest ago first, as far as the rate limit allows."""
        for uuid in [uuid for uuid, vms in self._vms.items() if vms]:
            if self._bucket.take(self._clock()) > 0:
                return
            found = [self._fleet.virtual_machine(vm.key) for vm in self._vms[uuid]]
            del self._vms[uuid]  # it is the last one now
            self._vms[uuid] = [vm for vm in found if vm and _uuid_of(vm) in {None, uuid}]

    def _released(self, hosts: Collection[Hypervisor]) -> set[Sighting]:
        """Return the entries that must be removed.

        The VMs are requested once more: meanwhile another object can have taken over the domain.
        """
        now_s = self._clock()
        gone = {sighting for sighting in ended(hosts, self._vms) if sighting[0] not in self._due}
        self._ended_s = {sighting: self._ended_s.get(sighting, now_s) for sighting in gone}
        long_ago = {sighting for sighting, since_s in self._ended_s.items() if now_s - since_s >= RELEASE_AFTER_S}
        confirmed = {sighting for sighting in long_ago if self._look_up(sighting[0])}
        return confirmed & ended(hosts, self._vms)

    def _write(self, host: Hypervisor, entries: tuple[RunsElsewhere, ...]) -> None:
        if not self._leads():
            return
        rendered = [
            {"uuid": str(entry.uuid), "nodeName": entry.node_name, "since": api_time(entry.since)} for entry in entries
        ]
        try:
            self._fleet.patch_hypervisor(host, {"runsElsewhere": rendered or None})
        except (Conflicted, Vanished):
            return  # the next look reads the host again
        except (Forbidden, Rejected) as error:
            log.warning("the API server rejected the list of VMs that run elsewhere", node=host.name, error=str(error))
            return
        for entry in host.status.runs_elsewhere:
            if entry not in entries:
                log.info("a VM no longer runs elsewhere", node=host.name, uuid=str(entry.uuid), other=entry.node_name)
        for entry in entries:
            if entry not in host.status.runs_elsewhere:
                log.info("a VM runs elsewhere", node=host.name, uuid=str(entry.uuid), other=entry.node_name)
                self._tell(host, entry)

    def _tell(self, host: Hypervisor, entry: RunsElsewhere) -> None:
        for vm in self._vms.get(entry.uuid, ()):
            # If it also runs at home, the agent there says so.
            if vm.node_name == host.name and not runs_at_home(vm):
                note = f"The domain runs on {entry.node_name}: set spec.nodeName, or stop it there."
                self._recorder.record(vm, Notice(Reason.RUNS_ELSEWHERE, note, warning=True))

    def _tell_conflicts(self) -> None:
        for vm, sentence in (found for uuid, vms in self._vms.items() for found in conflicts(uuid, vms)):
            if vm.uid not in self._told and self._leads():
                self._told.add(vm.uid)
                log.warning("two VMs of different nodes have the same domain", vm=str(vm.key), message=sentence)
                self._recorder.record(vm, Notice(Reason.DOMAIN_CONFLICT, sentence, warning=True))


def _uuid_of(vm: VirtualMachine) -> UUID | None:
    return vm.status.domain.uuid if vm.status.domain else None

"""Keeps `status.runsElsewhere` of the Hypervisors: which VMs run on another node than the one to which they are bound.

`fleet/elsewhere.py` has the rules. This module gets the VMs of a UUID when the reports about it change, and in each
sweep, at a limited rate: a request for the VMs of one UUID costs the API server 80 ms with 100,000 VMs (measured). The
hosts that report the UUIDs have turns, so a host that reports other domains all the time delays only itself.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime
from itertools import chain
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
from controller.runtime.errors import Conflicted, Forbidden, Rejected, Transient, Vanished
from controller.runtime.turns import in_turns

LOOKUPS_PER_S, LOOKUPS_BURST = 5.0, 25
OF_NO_HOST = ""
"""The name of the queue of what no host has reported."""

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
        self._due: dict[str, dict[UUID, None]] = {}
        """By the host that reports them: the UUIDs whose VMs must be requested, in this order."""
        self._last_turn = OF_NO_HOST
        """The host that has had the last turn."""
        self._failed: set[UUID] = set()
        """The UUIDs whose last request has failed. They come last in the queue of their host."""
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
        for name, (_, running_there) in self._reports.items():
            self._due[name] = self._due.get(name, {}) | dict.fromkeys(running_there & findings.uuids)
        self._due[OF_NO_HOST] = dict.fromkeys(findings.on_two_nodes)

    def look(self, hosts: Collection[Hypervisor], now: datetime, listed_s: float) -> int:
        """Compare these Hypervisors with the VMs of their domains, and write the lists that differ.

        `listed_s` is the monotonic time before the Hypervisors were listed. Returns the number of VMs that run
        elsewhere. Raises the first Transient or Rejected, after it has done what was possible; the next call continues.
        """
        failures: list[Exception] = []
        self._note(hosts)
        over = {it for it in ended(hosts, self._vms) if listed_s - self._ended_s.get(it, listed_s) >= RELEASE_AFTER_S}
        asked = self._take_turns(over, failures)
        gone = ended(hosts, self._vms)
        self._ended_s = {sighting: self._ended_s.get(sighting, listed_s) for sighting in gone}
        # The VMs were requested once more: meanwhile another object can have taken over the domain.
        released = {sighting for sighting in over & gone if sighting[0] in asked}
        lists = wanted(hosts, self._vms, released, now)
        for host in hosts:
            if lists[host.name] != host.status.runs_elsewhere:
                self._write(host, lists[host.name], failures)
        self._tell_conflicts()
        if failures:
            raise failures[0]
        return sum(map(len, lists.values()))

    def _note(self, hosts: Collection[Hypervisor]) -> None:
        """Find the UUIDs whose VMs must be requested, because the reports about them have changed.

        What a host no longer reports is not due any more.
        """
        reports: dict[str, tuple[str, frozenset[UUID]]] = {}
        due: dict[str, dict[UUID, None]] = defaultdict(dict)
        for uuid, name in noted(hosts):
            if uuid not in self._vms:
                due[name][uuid] = None
        for host in hosts:
            known = self._reports.get(host.name)
            if known and known[0] == host.resource_version:
                reports[host.name] = known
            elif host.status.unmanaged:
                reports[host.name] = host.resource_version, running(host)
            else:
                continue
            now = reports[host.name][1]
            # A first report can have many domains without a VM. The last sweep shows which of them have one.
            new = now - known[1] if known else now & self._swept
            due[host.name] |= {uuid: None for uuid in self._due.get(host.name, ()) if uuid in now} | dict.fromkeys(new)
        mentioned = frozenset().union(*(there for _, there in reports.values()), (uuid for uuid, _ in noted(hosts)))
        self._vms = {uuid: vms for uuid, vms in self._vms.items() if vms or uuid in mentioned}
        self._reports = reports
        self._due = due | {OF_NO_HOST: self._due.get(OF_NO_HOST, {})}

    def _take_turns(self, over: Collection[Sighting], failures: list[Exception]) -> set[UUID]:
        """Request the VMs of one UUID of each host in turn, as far as the rate limit allows. Return these UUIDs.

        Each host has first the entries that are `over`, and then what is due. The known VMs are read again, those that
        were read longest ago first, in the turns of `OF_NO_HOST`. The first failure is added to `failures` and ends
        the turns: the API server might be busy.
        """
        queues: dict[str, list[UUID]] = defaultdict(list)
        for uuid, name in over:
            queues[name].append(uuid)
        for name, due in self._due.items():
            queues[name] += due
        queues[OF_NO_HOST] += [uuid for uuid, vms in self._vms.items() if vms]
        for queue in queues.values():
            queue.sort(key=self._failed.__contains__)
        self._failed &= set(chain.from_iterable(queues.values()))
        asked: set[UUID] = set()
        for name, uuid in in_turns(queues, after=self._last_turn):
            if uuid in asked:
                continue
            if self._bucket.take(self._clock()) > 0:
                break
            self._last_turn = name
            try:
                if name == OF_NO_HOST and uuid in self._vms:
                    self._read_again(uuid)
                else:
                    self._look_up(uuid)
                    asked.add(uuid)
            except (Transient, Rejected) as error:
                self._failed.add(uuid)
                failures.append(error)
                break
            self._failed.discard(uuid)
        return asked

    def _look_up(self, uuid: UUID) -> None:
        self._vms[uuid] = [vm for vm in self._fleet.virtual_machines_of(uuid) if not vm.deleting]
        for due in self._due.values():
            due.pop(uuid, None)

    def _read_again(self, uuid: UUID) -> None:
        found = [self._fleet.virtual_machine(vm.key) for vm in self._vms[uuid]]
        del self._vms[uuid]  # it is the last one now
        # No agent reports any more on a VM that is being deleted, so its status can be of any age.
        self._vms[uuid] = [vm for vm in found if vm and not vm.deleting and _uuid_of(vm) in {None, uuid}]

    def _write(self, host: Hypervisor, entries: tuple[RunsElsewhere, ...], failures: list[Exception]) -> None:
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
        except Transient as error:
            failures.append(error)
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

"""Which VMs run on another host than the one to which they are bound: `status.runsElsewhere` of each Hypervisor. Pure.

The agent of a host does not start a VM that is in this list of its own Hypervisor. An agent that was not running
cannot know that a VM was migrated away; the agent of the other host reports the domain.

| the Hypervisor of the other host | the domain there | the entry |
|---|---|---|
| is Ready | runs, and the report of no object of that host shows it | is added |
| is Ready | runs, and the report of another object, which is bound to that host, shows it | is added |
| is Ready | waits for the memory of a migration, which can still fail | stays as it is |
| is Ready | has been off or absent for `RELEASE_AFTER_S` | is removed |
| is Ready, and its report lacks names of running domains | is not named | stays as it is |
| is Ready | belongs to an object that is bound there, and was not observed, or is not understood | stays as it is |
| is not Ready, or does not exist | is not known | stays as it is |

Each host to which a VM with this UUID is bound has the entry, except the host that runs the domain. A host that has the
entry and no longer needs it keeps it

- until the entry was read in the list of every host that needs it. So an entry that moves is not lost if a write fails,
  or if another manager leads;
- while a VM is bound to the host that runs the domain, and the agent there has not reported that the VM runs. If that
  agent is dead, the VM can be bound back, and must not be started;
- while no VM with this UUID is bound anywhere.

An entry has no effect on a host to which no VM of its UUID is bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from uuid import UUID

from controller.api.hypervisor import LISTED_LIMIT, Hypervisor, RunsElsewhere, UnmanagedDomain
from controller.api.libvirt_words import PauseReason
from controller.api.virtualmachine import PowerState, VirtualMachine

RELEASE_AFTER_S = 15.0
"""How long no report must show a domain running before its entry is removed. During a migration to a third host, the
report of the source can come before that of the target, by the 5 s between two reports and the 5 s between two looks
of the manager."""

Sighting = tuple[UUID, str]
"""A UUID, and the name of the host on which its domain runs."""
Vms = Mapping[UUID, Collection[VirtualMachine]]
"""The VMs of each UUID that was looked up, possibly none. The VMs of other UUIDs are not known."""


def running(host: Hypervisor) -> frozenset[UUID]:
    """Return the running domains to which no object of the host refers, by its last report, however old that is."""
    unmanaged = host.status.unmanaged
    return frozenset(domain.uuid for domain in unmanaged.domains if _runs(domain)) if unmanaged else frozenset()


def runs_at_home(vm: VirtualMachine) -> bool:
    """Whether the VM runs on the host to which it is bound, by the report of the agent there."""
    return vm.status.node_name == vm.node_name and vm.status.was_on


def noted(hosts: Iterable[Hypervisor]) -> dict[Sighting, datetime]:
    """Return all entries of all hosts. If several hosts have the same entry, it has the earliest of their times."""
    found: dict[Sighting, datetime] = {}
    for host in hosts:
        for entry in host.status.runs_elsewhere:
            sighting = entry.uuid, entry.node_name
            found[sighting] = min(entry.since, found.get(sighting, entry.since))
    return found


def ended(hosts: Collection[Hypervisor], vms: Vms) -> set[Sighting]:
    """Return the entries whose domain no longer runs there, as the reports show without doubt."""
    by_name = {host.name: host for host in hosts}
    return {(uuid, name) for uuid, name in noted(hosts) if _runs_on(uuid, by_name.get(name), vms.get(uuid)) is False}


def wanted(
    hosts: Collection[Hypervisor], vms: Vms, released: Collection[Sighting], now: datetime
) -> dict[str, tuple[RunsElsewhere, ...]]:
    """Return `status.runsElsewhere` for each of the hosts, by name.

    `released` are the entries that have been `ended` for `RELEASE_AFTER_S`. A new entry gets the time `now`. Of more
    than `LISTED_LIMIT` entries, the newest are left out.
    """
    by_name = {host.name: host for host in hosts}
    kept = {sighting: since for sighting, since in noted(hosts).items() if sighting not in released}
    facts = dict.fromkeys(_sightings(by_name, vms), now) | kept
    holders: dict[Sighting, set[str]] = defaultdict(set)
    for host in hosts:
        for entry in host.status.runs_elsewhere:
            holders[entry.uuid, entry.node_name].add(host.name)
    entries: dict[str, set[RunsElsewhere]] = defaultdict(set)
    for (uuid, name), since in facts.items():
        for holder in _holders(name, vms.get(uuid, ()), holders[uuid, name]):
            entries[holder].add(RunsElsewhere(uuid, name, since))
    return {name: _listed(entries[name]) for name in by_name}


def _holders(name: str, found: Collection[VirtualMachine], before: set[str]) -> set[str]:
    """Return the hosts that must have an entry about the host `name`; `before` has it at present."""
    bound = [vm for vm in found if vm.node_name]
    arrived = all(vm.node_name in before or (vm.node_name == name and runs_at_home(vm)) for vm in bound)
    needed = {vm.node_name for vm in bound}
    return (needed if bound and arrived else needed | before) - {name}


def _sightings(by_name: Mapping[str, Hypervisor], vms: Vms) -> Iterable[Sighting]:
    """Yield where the domains of the UUIDs that were looked up run, as Ready Hypervisors show."""
    for name, host in by_name.items():
        if host.status.ready and host.status.unmanaged:
            domains = host.status.unmanaged.domains
            yield from ((domain.uuid, name) for domain in domains if domain.uuid in vms and _runs(domain))
    for uuid, found in vms.items():
        for name in {vm.node_name for vm in found}:
            if _runs_on(uuid, by_name.get(name), found):
                yield uuid, name


def _runs_on(uuid: UUID, host: Hypervisor | None, found: Collection[VirtualMachine] | None) -> bool | None:
    """Whether the domain runs on this host; None: nobody knows."""
    if host is None or not host.status.ready:
        return None
    answers = {_shown(uuid, host), _managed(host.name, found)}
    if True in answers:
        return True
    return None if None in answers else False


def _shown(uuid: UUID, host: Hypervisor) -> bool | None:
    """Whether the report of the host shows the domain running, without an object; None: the report is incomplete."""
    unmanaged = host.status.unmanaged
    if unmanaged is None:
        return None
    for domain in unmanaged.domains:
        if domain.uuid == uuid:
            return _runs(domain)
    complete = not unmanaged.truncated or sum(domain.has_qemu for domain in unmanaged.domains) >= unmanaged.running
    return False if complete else None


def _managed(name: str, found: Collection[VirtualMachine] | None) -> bool | None:
    """Whether an object that is bound to this host shows the domain running; None: not looked up, or not observed.

    The agent does not report on an object whose spec it does not understand, so such a report can be of any age.
    """
    if found is None:
        return None
    here = [vm for vm in found if vm.node_name == name]
    reports = [vm.status for vm in here if vm.status.node_name == name and not vm.misunderstood]
    if any(status.was_on for status in reports):
        return True
    return False if len(reports) == len(here) and all(status.was_off for status in reports) else None


def _runs(domain: UnmanagedDomain) -> bool | None:
    """Whether the domain runs; None: not known, or it waits for the memory of a migration, which can still fail."""
    if domain.power_state in {PowerState.STARTING, PowerState.UNKNOWN}:
        return None
    if domain.power_state is PowerState.PAUSED and domain.reason in {PauseReason.MIGRATION, PauseReason.POSTCOPY}:
        return None
    return domain.has_qemu


def _listed(entries: Iterable[RunsElsewhere]) -> tuple[RunsElsewhere, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.since, entry.uuid, entry.node_name))[:LISTED_LIMIT])

"""Which VirtualMachine objects `virtsync import` writes for the domains that no object refers to. Pure.

The result depends only on the arguments, and not on their order. The names of the objects are chosen over all known
hosts, so an import of one host chooses the same names as an import of all hosts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import NamedTuple
from uuid import UUID

from controller.api.clock import api_time
from controller.api.hypervisor import Hypervisor, HypervisorReason, UnmanagedDomain
from controller.api.names import HypervisorConditionType
from controller.api.virtualmachine import WITH_QEMU, WITHOUT_QEMU, VirtualMachine, VmKey
from controller.fleet.import_manifest import Adoption, quoted

NAME_LIMIT = 150
"""The maximum length of an object's name. The API allows 253. But `kubectl diff` writes files whose names also have the
kind and the namespace, and a file name has at most 255 bytes."""
SLUG_LIMIT = 40
RESERVED = {"kustomization"}
"""Names that no object gets: in the folder of a node, its file would be the kustomization."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that chooses the namespace of the domains whose whole name matches."""

    match: re.Pattern[str]
    namespace: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The objects to write, ordered by node and name, and a sentence for each domain that needs a person."""

    adoptions: tuple[Adoption, ...]
    left_out: tuple[str, ...]


class _Copy(NamedTuple):
    """A domain on one host."""

    node: str
    domain: UnmanagedDomain
    also_on: tuple[str, ...] = ()
    namespace: str = ""


class _Remark(NamedTuple):
    """A sentence about domains, and the hosts that it is about."""

    nodes: frozenset[str]
    sentence: str


def namespace_by(rules: Iterable[Rule]) -> Callable[[str], str]:
    """Return the function from a domain's name to the namespace of the first rule that fits.

    The function returns an empty string if no rule fits.
    """
    rules = tuple(rules)
    return lambda name: next((rule.namespace for rule in rules if rule.match.fullmatch(name)), "")


def why_not(host: Hypervisor) -> str:
    """Return why the domains of this host cannot be imported from its report, or an empty string if they can be."""
    ready, unmanaged = host.status.condition(HypervisorConditionType.READY), host.status.unmanaged
    if ready is None or ready.reason == HypervisorReason.PENDING:
        return "its agent has not reported yet"
    if not host.status.ready:
        since = ready.last_transition_time
        known = since.year > 1970  # a new object has a constant as its default
        return f"not Ready{f' since {api_time(since)}' if known else ''} ({ready.reason})"
    if unmanaged is None:
        return "its agent has not listed the domains yet"
    if unmanaged.truncated and not unmanaged.domains:
        return "its agent does not report the names of domains (--report-unmanaged=false)"
    if unmanaged.truncated:
        return f"its report has only {len(unmanaged.domains)} of {unmanaged.total} domains without an object"
    return ""


def plan(
    hosts: Mapping[str, Iterable[UnmanagedDomain]],
    nodes: Collection[str],
    existing: Collection[VirtualMachine],
    namespace_of: Callable[[str], str],
    files: Collection[tuple[str, str]] = (),
) -> Plan:
    """Plan an object for each domain of `nodes` that no existing object refers to.

    `hosts` has the domains of all known hosts, also of those that are not in `nodes`. `existing` has all objects of the
    cluster and of files. `files` has a pair (node, name) for each file that exists: its name is not used.
    Raises ValueError with a sentence that lists all domains for which `namespace_of` returns an empty string.
    """
    found = [_Copy(node, domain) for node in sorted(hosts) for domain in sorted(hosts[node], key=_order)]
    free, owned = _without_object(found, existing)
    chosen, unclear = _one_host_each(free)
    placed = [copy._replace(namespace=namespace_of(copy.domain.name)) for copy in chosen]
    _refuse_unplaced(copy for copy in placed if copy.node in nodes and not copy.namespace)
    keys = _keys([copy for copy in placed if copy.namespace], existing, files)
    adoptions = (
        Adoption(keys[copy.domain.uuid], copy.node, copy.domain, copy.also_on)
        for copy in placed
        if copy.node in nodes and copy.namespace
    )
    return Plan(
        tuple(sorted(adoptions, key=lambda adoption: (adoption.node, adoption.key.name))),
        tuple(remark.sentence for remark in owned + unclear if not remark.nodes.isdisjoint(nodes)),
    )


def _without_object(found: list[_Copy], existing: Iterable[VirtualMachine]) -> tuple[list[_Copy], list[_Remark]]:
    """Return the domains that no object refers to, and a sentence for each domain whose object names another host.

    An object that names no host refers to the domain of its name on every host.
    """
    by_uuid: dict[UUID, VirtualMachine] = {}
    by_name: dict[tuple[str, str], VirtualMachine] = {}
    for vm in sorted(existing, key=lambda vm: vm.key):
        if uuid := vm.address.uuid:
            by_uuid.setdefault(uuid, vm)
        if vm.domain_uuid is None:
            by_name.setdefault((vm.node_name, vm.bound_by), vm)
    free, remarks = [], []
    for copy in found:
        node, domain = copy.node, copy.domain
        owner = by_uuid.get(domain.uuid) or by_name.get((node, domain.name)) or by_name.get(("", domain.name))
        if owner is None:
            free.append(copy)
        elif owner.node_name != node and (owner.node_name or owner.domain_uuid is None):
            names = owner.node_name or "no node"
            sentence = f"{node}: the domain {quoted(domain)} has the object {owner.key}, which names {names}."
            remarks.append(_Remark(frozenset({node}), sentence))
    return free, remarks


def _one_host_each(free: list[_Copy]) -> tuple[list[_Copy], list[_Remark]]:
    """Choose one host for each UUID. If several hosts have the domain, choose the only one on which it is on.

    Return the chosen domains, and a sentence for each domain for which a person must choose the host.
    """
    by_uuid: dict[UUID, list[_Copy]] = defaultdict(list)
    for copy in free:
        by_uuid[copy.domain.uuid].append(copy)
    chosen, remarks = [], []
    for uuid, copies in by_uuid.items():
        nodes = [copy.node for copy in copies]
        perhaps_on = [copy for copy in copies if copy.domain.power_state not in WITHOUT_QEMU]
        if len(copies) == 1:
            chosen.append(copies[0])
        elif len(perhaps_on) == 1 and perhaps_on[0].domain.power_state in WITH_QEMU:
            others = tuple(node for node in nodes if node != perhaps_on[0].node)
            chosen.append(perhaps_on[0]._replace(also_on=others))
        else:
            sentence = (
                f"{' and '.join(nodes)} have the domain {quoted(copies[0].domain)} ({uuid}), and it does not run on"
                " exactly one of them: left out. Write its object yourself, with the right spec.nodeName."
            )
            remarks.append(_Remark(frozenset(nodes), sentence))
    return chosen, remarks


def _keys(
    copies: list[_Copy], existing: Iterable[VirtualMachine], files: Iterable[tuple[str, str]]
) -> dict[UUID, VmKey]:
    """Choose a key for each domain: unique in its namespace, and with a name that is unique in the folder of its node.

    Domains that can keep their names get these first, because a generated name might be the name of another domain.
    """
    taken, taken_files = {vm.key for vm in existing}, set(files)

    def free(copy: _Copy, name: str) -> bool:
        # The namespace of an object in a file can be left to the kustomization.
        keys_of_name = {VmKey(copy.namespace, name), VmKey("", name)}
        return taken.isdisjoint(keys_of_name) and (copy.node, name) not in taken_files

    keys: dict[UUID, VmKey] = {}
    for names_of in (_own_name, _generated_names):
        for copy in copies:
            if copy.domain.uuid in keys:
                continue
            name = next((name for name in names_of(copy.domain) if free(copy, name)), "")
            if name:
                keys[copy.domain.uuid] = key = VmKey(copy.namespace, name)
                taken.add(key)
                taken_files.add((copy.node, name))
    return keys


def _own_name(domain: UnmanagedDomain) -> Iterator[str]:
    if len(domain.name) <= NAME_LIMIT and domain.name not in RESERVED and _SUBDOMAIN.fullmatch(domain.name):
        yield domain.name


def _generated_names(domain: UnmanagedDomain) -> Iterator[str]:
    """Yield names without end: with the first 8 digits of the UUID, with all of them, and with numbers."""
    slug = re.sub("[^a-z0-9]+", "-", domain.name.lower())[:SLUG_LIMIT].strip("-") or "vm"
    uuid = domain.uuid.hex
    return (f"{slug}-{end}" for end in chain([uuid[:8], uuid], (f"{uuid}-{number}" for number in count(2))))


def _refuse_unplaced(unplaced: Iterable[_Copy]) -> None:
    by_node: dict[str, list[str]] = defaultdict(list)
    for copy in unplaced:
        by_node[copy.node].append(quoted(copy.domain))
    if by_node:
        domains = "; ".join(f"{node}: {', '.join(names)}" for node, names in by_node.items())
        raise ValueError(f"no rule fits these domains, so they have no namespace: {domains}")


def _order(domain: UnmanagedDomain) -> tuple[str, UUID]:
    return domain.name, domain.uuid

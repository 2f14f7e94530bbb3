"""The part of the fleet that one page shows: counted, filtered, sorted, and cut to a page. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from controller.api.conditions import Readiness
from controller.api.json_mapping import EPOCH
from controller.page.query import Query, Sort
from controller.page.rows import HostRow, VmRow
from controller.presentation.vms import TROUBLE

VMS_PER_PAGE, HOSTS_PER_PAGE = 100, 20

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What was read from the API server."""

    vms: Sequence[VmRow] = ()
    hosts: Sequence[HostRow] = ()
    trouble: str = ""
    """Why all this might be out of date, as a phrase; empty: it is not."""
    complete: bool = True
    """Whether everything was read once."""


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves the page."""

    manager: str = ""
    leads: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True)
class Part(Generic[R]):
    """The rows of one page of a table."""

    rows: Sequence[R]
    first: int
    """The number of the first row, from 1."""
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class View:
    """All that one page shows."""

    query: Query
    fleet: Fleet
    served: Served
    hosts: Part[HostRow]
    vms: Part[VmRow]
    hosts_active: int
    hosts_in_maintenance: int
    counts: Counter[Readiness | None]
    """How many VMs there are by what their reason means; None: as wanted."""
    reasons: Sequence[tuple[str, int]]
    """The reasons of the VMs and how many have them, those that need a person first."""
    namespaces: Sequence[str]
    nodes: Sequence[str]
    """The names of the hosts, and of the nodes of the VMs."""

    @property
    def not_wanted(self) -> int:
        """How many VMs are not as wanted."""
        return sum(count for meaning, count in self.counts.items() if meaning is not None)


def view(fleet: Fleet, query: Query, served: Served) -> View:
    """Return what the page of this query shows."""
    reasons = Counter((row.as_wanted, TROUBLE[row.meaning], row.reason) for row in fleet.vms)
    listed: Counter[str] = Counter()
    for (*_, reason), count in sorted(reasons.items(), key=lambda item: (item[0][:2], -item[1], item[0][2])):
        listed[reason] += count
    hosts = sorted(fleet.hosts, key=lambda row: row.attention)
    return View(
        query=query,
        fleet=fleet,
        served=served,
        hosts=_part(hosts, query.hosts_page, HOSTS_PER_PAGE),
        vms=_part(_chosen(fleet.vms, query), query.page, VMS_PER_PAGE),
        hosts_active=sum(row.ready for row in hosts),
        hosts_in_maintenance=sum(bool(row.maintenance) for row in hosts),
        counts=Counter(None if row.as_wanted else row.meaning for row in fleet.vms),
        reasons=list(listed.items()),
        namespaces=sorted({row.namespace for row in fleet.vms}),
        nodes=sorted({row.name for row in hosts} | {row.node for row in fleet.vms if row.node}),
    )


def _chosen(vms: Sequence[VmRow], query: Query) -> list[VmRow]:
    found = [row for row in vms if _matches(row, query)]
    if query.sort is Sort.NEWEST:
        found.sort(key=lambda row: (row.namespace, row.name))
        found.sort(key=lambda row: row.since or EPOCH, reverse=True)
    else:
        found.sort(key=ORDERS[query.sort])
    return found


def _matches(row: VmRow, query: Query) -> bool:
    if query.drift and row.as_wanted:
        return False
    if query.node and row.node != query.node:
        return False
    if query.namespace and row.namespace != query.namespace:
        return False
    if query.reason and row.reason != query.reason:
        return False
    if not query.text:
        return True
    return query.text.lower() in f"{row.namespace}/{row.name} {row.node} {row.power} {row.reason} {row.message}".lower()


ORDERS: dict[Sort, Callable[[VmRow], Any]] = {
    Sort.TROUBLE: lambda row: (row.as_wanted, TROUBLE[row.meaning], row.namespace, row.name),
    Sort.NAME: lambda row: (row.name, row.namespace),
    Sort.NODE: lambda row: (row.node, row.namespace, row.name),
}


def _part(rows: Sequence[R], page: int, size: int) -> Part[R]:
    """Return this page of the rows; the last one if there are not so many."""
    pages = max(1, -(-len(rows) // size))
    page = min(page, pages)
    first = (page - 1) * size
    return Part(rows[first : first + size], first + 1, len(rows), page, pages)

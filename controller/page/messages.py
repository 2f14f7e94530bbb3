"""What an open page is told: only the parts that differ from what it shows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from controller.api.clock import api_time
from controller.api.json_mapping import Json
from controller.page.markup import Html
from controller.page.parts import host_element, regions, title, vm_element, vm_key
from controller.page.view import View

Order = tuple[tuple[str, str], ...]
"""The keys of the rows of a table in order, each with the version of the row."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What an open page shows. The default: it is not known, so everything is sent."""

    title: str = ""
    regions: Mapping[str, Html] = field(default_factory=dict)
    tables: Mapping[str, Order] = field(default_factory=dict)


def message(view: View, shown: Shown, now: datetime) -> tuple[Json | None, Shown]:
    """Return the message that makes an open page show this view, and what the page shows then.

    None: the page shows it already.
    """
    hosts = [(row.name, row.version, partial(host_element, row, now)) for row in view.hosts.rows]
    vms = [(vm_key(row), row.version, partial(vm_element, row, now)) for row in view.vms.rows]
    made = {"hosts": hosts, "vms": vms}
    orders = {name: tuple((key, version) for key, version, _ in rows) for name, rows in made.items()}
    after = Shown(title(view), regions(view), orders)
    tables = {
        name: {"order": order, "rows": _new(made[name], shown.tables.get(name, ()))}
        for name, order in orders.items()
        if order != shown.tables.get(name)
    }
    changed = {name: html for name, html in after.regions.items() if shown.regions.get(name) != html}
    if not tables and not changed and after.title == shown.title:
        return None, after
    return {"now": api_time(now), "title": after.title, "regions": changed, "tables": tables}, after


def _new(rows: Iterable[tuple[str, str, Callable[[], Html]]], shown: Order) -> dict[str, Html]:
    """Return the HTML of the rows that an open page does not have yet."""
    known = set(shown)
    return {key: element() for key, version, element in rows if (key, version) not in known}

"""The timeline of one VM, from its Events and its status. Pure.

Events are kept for an hour by default, and virtsync writes none for a stop that it caused itself. The status has the
last stop and the last restart for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import click

from controller.api.clock import api_time, duration
from controller.api.json_mapping import Json, as_map, as_text, as_time, whole_within
from controller.api.names import EventReason
from controller.api.virtualmachine import BEYOND, VirtualMachine
from controller.cli.vm.views.words import table
from controller.presentation.words import plain

SAME_STOP = timedelta(seconds=10)
"""An Event of a stop within this time of the last stop in the status is about the same stop."""
STOPS = {EventReason.STOPPED, EventReason.STOPPED_UNEXPECTEDLY}

_count = whole_within(1, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    time: datetime
    """When; for a repeated Event, when it happened last."""
    what: str
    note: str
    source: str
    """`Event`, or `status`."""
    warning: bool = False
    count: int = 1
    first: datetime | None = None
    """When a repeated Event happened first."""


def timeline(vm: VirtualMachine | None, events: Iterable[Json]) -> list[Entry]:
    """Return what happened, the oldest first. `vm`: None if the object is gone; then the Events of all its lives count.

    The Events of an earlier object of the same name are left out.
    """
    of_vm = [raw for raw in events if vm is None or as_map(raw.get("regarding")).get("uid") in {vm.uid, None, ""}]
    told = [entry for raw in of_vm if (entry := _of_event(raw))]
    recorded = list(_of_status(vm, told)) if vm else []
    return sorted([*told, *recorded], key=lambda entry: entry.time)


def history_lines(entries: Iterable[Entry], now: datetime) -> list[str]:
    """Return one line for each entry."""
    return table(
        [
            (
                api_time(one.time.replace(microsecond=0)),
                f"{duration((now - one.time).total_seconds())} ago",
                click.style(one.what, fg="red") if one.warning else one.what,
                one.note + _repeated(one),
            )
            for one in entries
        ]
    )


def as_data(entries: Iterable[Entry]) -> list[Json]:
    """Return the entries for programs."""
    return [
        {
            "time": api_time(one.time),
            "what": one.what,
            "type": "Warning" if one.warning else "Normal",
            "note": one.note,
            "source": one.source,
            "count": one.count,
        }
        | ({"firstTime": api_time(one.first)} if one.first else {})
        for one in entries
    ]


def _repeated(entry: Entry) -> str:
    if entry.count == 1:
        return ""
    since = f" since {api_time(entry.first.replace(microsecond=0))}" if entry.first else ""
    return f" ({entry.count} times{since})"


def _of_event(raw: Json) -> Entry | None:
    """Return the entry of an Event, also of one that a client of the older API has written; None: it has no time."""
    series = as_map(raw.get("series"))
    first = as_time(raw.get("eventTime")) or as_time(raw.get("deprecatedFirstTimestamp"))
    last = as_time(series.get("lastObservedTime")) or as_time(raw.get("deprecatedLastTimestamp")) or first
    if last is None:
        return None
    count = _count(series.get("count")) or _count(raw.get("deprecatedCount")) or 1
    return Entry(
        time=last,
        what=plain(as_text(raw.get("reason")) or "-"),
        note=plain(as_text(raw.get("note")) or ""),
        source="Event",
        warning=raw.get("type") == "Warning",
        count=count,
        first=first if count > 1 else None,
    )


def _of_status(vm: VirtualMachine, told: Iterable[Entry]) -> Iterator[Entry]:
    status = vm.status
    yield Entry(vm.created, "Created", "The VirtualMachine was created.", "status")
    stop = status.last_stop
    if stop and not any(one.what in STOPS and abs(one.time - stop.time) <= SAME_STOP for one in told):
        yield Entry(stop.time, "Stopped", f"{stop.cause}: {plain(stop.message)}", "status")
    if status.completion_time:
        yield Entry(status.completion_time, "Completed", "The restartPolicy leaves the VM off.", "status")
    if status.last_restart_time and status.last_restart_time != BEYOND:
        yield Entry(status.last_restart_time, "RestartRequested", "virtsync carried out this request.", "status")
    if status.operation:
        begun = status.operation
        yield Entry(begun.start_time, f"{begun.type}Begun", "This operation is in progress.", "status")

"""What `top` shows: a summary of the hosts and the VMs, and the part of both tables that fits on the screen. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

import click

from controller.api.conditions import Readiness
from controller.api.hypervisor import Hypervisor
from controller.api.json_mapping import EPOCH
from controller.api.virtualmachine import VirtualMachine
from controller.cli.vm.views.hosts import HEADINGS as HOST_HEADINGS
from controller.cli.vm.views.hosts import host_row
from controller.cli.vm.views.status import headings, vm_row
from controller.cli.vm.views.words import COLORS, table
from controller.presentation.hosts import attention
from controller.presentation.vms import NOT_WANTED, TROUBLE, is_as_wanted, readiness, reason_since, why_not
from controller.presentation.words import plain

HOSTS_SHARE = 4
"""At most one line in this many is about a host."""
KEYS = "q quit   s sort   d only drift   / filter   up, down, page up, page down, home, end: scroll"


class Sort(Enum):
    """An order of the VMs."""

    TROUBLE = "trouble first"
    NAME = "name"
    NODE = "node"
    NEWEST = "newest change first"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the person who looks has chosen."""

    sort: Sort = Sort.TROUBLE
    only_drift: bool = False
    filter: str = ""
    """Only VMs that have this in their namespace and name, their node, their power state or their reason."""
    typing: bool = False
    """Whether the person types the filter."""
    first: int = 0
    """How many VMs are above the screen."""

    def next_sort(self) -> Choice:
        """Return the choice with the next order."""
        every = list(Sort)
        return replace(self, sort=every[(every.index(self.sort) + 1) % len(every)], first=0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What was read from the API server."""

    vms: Sequence[VirtualMachine]
    hosts: Sequence[Hypervisor] | str
    """The hosts, or why they are not known."""
    trouble: str = ""
    """Why all this might be out of date; empty: it is not."""
    where: str = ""
    """Which VMs these are, such as `namespace shop`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the screen shows."""

    lines: list[str]
    choice: Choice
    """The choice, with `first` within its limits."""
    page: int
    """How many VMs fit on the screen."""


def frame(fleet: Fleet, choice: Choice, now: datetime, height: int) -> Frame:
    """Return at most `height` lines. Cells are made only for the VMs and hosts that fit."""
    chosen = _chosen(fleet.vms, choice)
    hosts = _host_lines(fleet.hosts, now, height // HOSTS_SHARE)
    above = [_title(fleet, now), _vm_summary(fleet.vms), *hosts, ""]
    page = max(height - len(above) - 2, 1)  # the headings and the last line
    choice = replace(choice, first=max(0, min(choice.first, len(chosen) - page)))
    shown = chosen[choice.first : choice.first + page]
    lines = [*above, *_vm_lines(chosen, shown, now)]
    lines += [""] * (height - 1 - len(lines))
    return Frame([*lines[: height - 1], _last_line(choice, len(shown), len(chosen))][:height], choice, page)


def _chosen(vms: Iterable[VirtualMachine], choice: Choice) -> list[VirtualMachine]:
    found = [vm for vm in vms if not (choice.only_drift and is_as_wanted(vm)) and _matches(vm, choice.filter)]
    match choice.sort:
        case Sort.TROUBLE:
            found.sort(key=lambda vm: (is_as_wanted(vm), TROUBLE[readiness(vm.status.reason)], vm.key))
        case Sort.NAME:
            found.sort(key=lambda vm: (vm.key.name, vm.key.namespace))
        case Sort.NODE:
            found.sort(key=lambda vm: (vm.node_name, vm.key))
        case Sort.NEWEST:
            found.sort(key=lambda vm: vm.key)
            found.sort(key=lambda vm: reason_since(vm) or EPOCH, reverse=True)
    return found


def _matches(vm: VirtualMachine, text: str) -> bool:
    if not text:
        return True
    status = vm.status
    return text.lower() in f"{vm.key} {vm.node_name} {status.power_state} {status.reason}".lower()


def _title(fleet: Fleet, now: datetime) -> str:
    if fleet.trouble:
        return click.style(f"OUT OF DATE: {plain(fleet.trouble)}", fg="red", bold=True)
    return f"{click.style('virtsync', bold=True)}   {fleet.where}   {now:%H:%M:%S} UTC"


def _vm_summary(vms: Sequence[VirtualMachine]) -> str:
    counts = Counter(None if is_as_wanted(vm) else readiness(vm.status.reason) for vm in vms)
    parts = [click.style(f"{counts[None]} as wanted", fg="green")]
    parts += [
        click.style(f"{counts[kind]} {words}", fg=COLORS[kind] if kind is not Readiness.READY else "yellow")
        for kind, words in NOT_WANTED.items()
        if counts[kind]
    ]
    return f"VMs: {len(vms)}   {'   '.join(parts)}"


def _host_lines(hosts: Sequence[Hypervisor] | str, now: datetime, limit: int) -> list[str]:
    """Return the summary of the hosts, and a table of those that a person should look at first, in `limit` lines."""
    if isinstance(hosts, str):
        return [f"Hosts: {hosts}"]
    ready, held = sum(host.status.ready for host in hosts), sum(host.maintenance is not None for host in hosts)
    parts = [click.style(f"{ready} active", fg="green")]
    if ready < len(hosts):
        parts.append(click.style(f"{len(hosts) - ready} not active", fg="red"))
    if held:
        parts.append(click.style(f"{held} in maintenance", fg="cyan"))
    summary = f"Hosts: {len(hosts)}   {'   '.join(parts)}"
    order = sorted(hosts, key=attention)
    room = limit - 3  # the summary, an empty line and the headings
    if not order or room < 1:
        return [summary]
    shown = order if len(order) <= room else order[: room - 1]
    left = len(order) - len(shown)
    more = [f"and {left} more hosts: kubectl virtsync hosts"] if left else []
    return [summary, "", *table([HOST_HEADINGS, *(host_row(host, now) for host in shown)]), *more]


def _vm_lines(chosen: Sequence[VirtualMachine], shown: Sequence[VirtualMachine], now: datetime) -> list[str]:
    """Return the table of the VMs that are shown. The first columns are as wide as all chosen ones need."""
    widest = (
        max((len(vm.key.namespace) for vm in chosen), default=0),
        max((len(vm.key.name) for vm in chosen), default=0),
    )
    rows = [(*vm_row(vm, now, namespaces=True), plain(why_not(vm))) for vm in shown]
    return table([(*headings(namespaces=True), "MESSAGE"), *rows], widest)


def _last_line(choice: Choice, shown: int, total: int) -> str:
    if choice.typing:
        return f"filter: {choice.filter}_   (enter: keep it, escape: remove it)"
    place = f"{choice.first + 1}-{choice.first + shown} of {total}" if total else "no VM"
    chosen = [f"sort: {choice.sort.value}"]
    chosen += ["only drift"] if choice.only_drift else []
    chosen += [f"filter: {choice.filter}"] if choice.filter else []
    return f"{place}   {', '.join(chosen)}   |   {KEYS}"

"""The hosts, one line each, with a message for each host that is not fine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from controller.api.clock import duration
from controller.api.hypervisor import Hypervisor
from controller.api.names import HypervisorConditionType
from controller.cli.vm.views.status import reason_word
from controller.cli.vm.views.words import table
from controller.presentation.hosts import maintenance_word, remarks
from controller.presentation.words import ago, plain, since

HEADINGS = ("NAME", "REASON", "FOR", "VMS", "RUNNING", "NOTREADY", "UNMANAGED", "MAINTENANCE", "VERSION")


def host_lines(hosts: Iterable[Hypervisor], now: datetime) -> list[str]:
    """Return a table of the hosts, and below it what a person should know about them."""
    every = sorted(hosts, key=lambda host: host.name)
    lines = table([HEADINGS, *(host_row(host, now) for host in every)])
    below = [f"{host.name}: {text}" for host in every for text in remarks(host, lambda time: ago(time, now))]
    return [*lines, *(["", *below] if below else [])]


def host_row(host: Hypervisor, now: datetime) -> tuple[str, ...]:
    """Return the cells of a host, below `HEADINGS`."""
    status, begun = host.status, since(host.status.condition(HypervisorConditionType.READY))
    counts = status.virtual_machines
    return (
        host.name,
        reason_word(host),
        duration((now - begun).total_seconds()) if begun else "-",
        *((str(counts.total), str(counts.running), str(counts.not_ready)) if counts else ("-", "-", "-")),
        str(status.unmanaged.total) if status.unmanaged else "-",
        maintenance_word(host) or "-",
        plain(status.agent_version) or "-",
    )

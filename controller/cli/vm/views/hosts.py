"""The hosts, one line each, with a message for each host that is not fine. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from controller.api.clock import duration
from controller.api.hypervisor import Hypervisor
from controller.api.names import HypervisorConditionType
from controller.cli.vm.views.status import agent_word
from controller.cli.vm.views.words import ago, plain, since, table

HEADINGS = ("NAME", "AGENT", "FOR", "VMS", "RUNNING", "NOT-READY", "UNMANAGED", "MAINTENANCE", "VERSION")


def host_lines(hosts: Iterable[Hypervisor], now: datetime) -> list[str]:
    """Return a table of the hosts, and below it what a person should know about them."""
    every = sorted(hosts, key=lambda host: host.name)
    lines = table([HEADINGS, *(host_row(host, now) for host in every)])
    remarks = [f"{host.name}: {text}" for host in every for text in _remarks(host, now)]
    return [*lines, *(["", *remarks] if remarks else [])]


def host_row(host: Hypervisor, now: datetime) -> tuple[str, ...]:
    """Return the cells of a host, below `HEADINGS`."""
    status, begun = host.status, since(host.status.condition(HypervisorConditionType.READY))
    counts = status.virtual_machines
    return (
        host.name,
        agent_word(host),
        duration((now - begun).total_seconds()) if begun else "-",
        *((str(counts.total), str(counts.running), str(counts.not_ready)) if counts else ("-", "-", "-")),
        str(status.unmanaged.total) if status.unmanaged else "-",
        _maintenance(host),
        plain(status.agent_version) or "-",
    )


def _maintenance(host: Hypervisor) -> str:
    if not host.maintenance:
        return "-"
    quiesced = host.status.condition(HypervisorConditionType.QUIESCED)
    return f"{host.maintenance.mode}, {quiesced.reason if quiesced else 'not acknowledged'}"


def _remarks(host: Hypervisor, now: datetime) -> Iterator[str]:
    ready = host.status.condition(HypervisorConditionType.READY)
    if not host.status.ready:
        yield plain(ready.message) if ready else "No agent has reported on this host yet."
    if host.misunderstood:
        yield f"This version does not understand {plain(host.misunderstood)} of its spec."
    if host.maintenance:
        progress = host.status.maintenance
        in_force = (
            f", in force since {ago(progress.start_time, now)}, domains on: {progress.remaining}" if progress else ""
        )
        yield f"Maintenance {host.maintenance.mode}: {plain(host.maintenance.reason)}{in_force}."
    if host.status.runs_elsewhere:
        yield f"{len(host.status.runs_elsewhere)} of its VMs run on another host."

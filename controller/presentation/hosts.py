"""What a person should know about a host. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from controller.api.hypervisor import Hypervisor
from controller.api.names import HypervisorConditionType
from controller.presentation.words import plain


def maintenance_word(host: Hypervisor) -> str:
    """Return the mode of the maintenance and how far it is; empty: the host is not in maintenance."""
    if not host.maintenance:
        return ""
    quiesced = host.status.condition(HypervisorConditionType.QUIESCED)
    return f"{host.maintenance.mode}, {quiesced.reason if quiesced else 'not acknowledged'}"


def remarks(host: Hypervisor, written: Callable[[datetime], str]) -> Iterator[str]:
    """Yield a sentence for each thing that is not as usual. `written` writes a time."""
    ready = host.status.condition(HypervisorConditionType.READY)
    if not host.status.ready:
        yield plain(ready.message) if ready else "No agent has reported on this host yet."
    if host.misunderstood:
        yield f"This version of virtsync does not understand {plain(host.misunderstood)}."
    if host.maintenance:
        begun = host.status.maintenance
        in_force = f", in force since {written(begun.start_time)}, {_running(begun.remaining)}" if begun else ""
        yield f"Maintenance {host.maintenance.mode}: {plain(host.maintenance.reason)}{in_force}."
    if elsewhere := len(host.status.runs_elsewhere):
        yield f"{elsewhere} of its VMs {'runs' if elsewhere == 1 else 'run'} on another host."


def _running(domains: int) -> str:
    return "1 domain still runs" if domains == 1 else f"{domains or 'no'} domains still run"


def attention(host: Hypervisor) -> tuple[bool, bool, str]:
    """Return a key by which the hosts that a person should look at come first."""
    return host.status.ready, host.maintenance is None, host.name

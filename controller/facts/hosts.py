"""What a person should know about a host. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from controller.api.hypervisor import Hypervisor
from controller.api.names import HypervisorConditionType
from controller.facts.words import plain


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
        yield f"This version does not understand {plain(host.misunderstood)} of its spec."
    if host.maintenance:
        progress = host.status.maintenance
        in_force = (
            f", in force since {written(progress.start_time)}, domains on: {progress.remaining}" if progress else ""
        )
        yield f"Maintenance {host.maintenance.mode}: {plain(host.maintenance.reason)}{in_force}."
    if host.status.runs_elsewhere:
        yield f"{len(host.status.runs_elsewhere)} of its VMs run on another host."


def attention(host: Hypervisor) -> tuple[bool, bool, str]:
    """Return a key by which the hosts that a person should look at come first."""
    return host.status.ready, host.maintenance is None, host.name

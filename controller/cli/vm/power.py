"""The commands `virtsync vm start`, `stop`, `pause` and `restart`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial

import click

from controller.api import changes, progress
from controller.api.changes import Change, Unchanged
from controller.api.json_mapping import as_time
from controller.api.virtualmachine import DesiredPowerState, VirtualMachine
from controller.cli.options import reads
from controller.cli.vm.changing import run, with_change, with_wait
from controller.cli.vm.chosen import tasks
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.selection import with_choice, with_names

CODES = (
    "Exit code: 0: it is requested, or done with --wait; 1: it is requested, but --wait ended before it was done; "
    "2: wrong usage, or a VM could not be changed, or the API server has not answered the change, which may have been "
    "made all the same."
)


def _power(name: str, desired: DesiredPowerState, text: str, short: str | None = None) -> click.Command:
    def how_far(vm: VirtualMachine, _decided: Change | Unchanged, generation: int) -> progress.Progress:
        return progress.of_power(vm, generation, desired)

    @click.command(name, help=f"{text}\n\n{CODES}", short_help=short)
    @with_names()
    @with_choice
    @with_wait
    @with_change
    @with_cluster()
    def command(
        *,
        cluster: Cluster,
        names: tuple[str, ...],
        selector: str,
        everywhere: bool,
        wait: bool,
        timeout_s: float,
        anyway: bool,
        output: str | None,
    ) -> None:
        decide = partial(changes.power, desired=desired)
        chosen = tasks(
            cluster, names, selector, everywhere=everywhere, decide=decide, how_far=how_far if wait else None
        )
        single = len(names) == 1
        sys.exit(run(cluster, chosen, anyway=anyway, output=output, timeout_s=timeout_s, single=single))

    return command


start = _power(
    "start",
    DesiredPowerState.RUNNING,
    "Start VMs, and keep them on: set powerState to Running. If it is Running already, and restartPolicy leaves the VM "
    "off, this is an error: `restart` starts the VM.",
    "Start VMs, and keep them on.",
)
stop = _power(
    "stop",
    DesiredPowerState.STOPPED,
    "Shut VMs down as their spec.shutdown says, and keep them off: set powerState to Stopped.",
    "Shut VMs down, and keep them off.",
)
pause = _power(
    "pause",
    DesiredPowerState.PAUSED,
    "Keep VMs in memory without running their CPUs: set powerState to Paused.",
    "Pause VMs.",
)


def time_with_offset(text: str) -> datetime:
    """Return the time after checking it. Raises ValueError with a message."""
    time = as_time(text)
    if time is None or datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} is not a time with a UTC offset, such as 2026-12-01T22:00:00Z.")
    return time


@click.command(
    help="Restart VMs once, as their spec.shutdown says: set restartRequestTime. They need powerState Running.\n\n"
    + CODES,
    short_help="Restart VMs once.",
)
@with_names()
@with_choice
@click.option(
    "--at",
    type=reads(time_with_offset),
    metavar="TIME",
    help="When, such as 2026-12-01T22:00:00Z. --timeout counts from then.  [default: now]",
)
@with_wait
@with_change
@with_cluster()
def restart(
    *,
    cluster: Cluster,
    names: tuple[str, ...],
    selector: str,
    everywhere: bool,
    at: datetime | None,
    wait: bool,
    timeout_s: float,
    anyway: bool,
    output: str | None,
) -> None:
    """Request one restart. `help` above has the text for people."""
    now = datetime.now(UTC)

    def how_far(vm: VirtualMachine, decided: Change | Unchanged, generation: int) -> progress.Progress:
        return progress.of_restart(vm, generation, as_time(decided.value) or now)

    decide = partial(changes.restart, at=at, now=now)
    chosen = tasks(cluster, names, selector, everywhere=everywhere, decide=decide, how_far=how_far if wait else None)
    timeout_s += max((at - now).total_seconds(), 0.0) if at else 0.0
    sys.exit(run(cluster, chosen, anyway=anyway, output=output, timeout_s=timeout_s, single=len(names) == 1))

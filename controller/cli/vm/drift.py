"""The command `virtsync vm drift`, which lists what is not as wanted."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from controller.api.codec import parse
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.output import show, show_objects, with_output
from controller.cli.vm.selection import selected, with_names, with_selection
from controller.cli.vm.status import nothing_found
from controller.cli.vm.views.drift import drift_lines
from controller.presentation.vms import is_as_wanted


@click.command
@with_names()
@with_selection
@with_output()
@with_cluster()
def drift(*, cluster: Cluster, names: tuple[str, ...], selector: str, everywhere: bool, output: str | None) -> None:
    """List all VMs that are not as wanted, grouped by reason.

    A VM is as wanted if its condition Ready is True for the newest spec. With -o, the command prints only the VMs that
    are not.

    Exit code: 0: all are as wanted; 1: at least one is not; 2: wrong usage, or an error.
    """
    found = [(raw, parse(raw)) for raw in selected(cluster, names, selector, everywhere=everywhere)]
    drifting = [(raw, vm) for raw, vm in found if not is_as_wanted(vm)]
    if output:
        show_objects([raw for raw, _ in drifting], output)
    elif found:
        show(drift_lines([vm for _, vm in drifting], len(found), datetime.now(UTC)))
    else:
        nothing_found(cluster, everywhere=everywhere)
    sys.exit(1 if drifting else 0)

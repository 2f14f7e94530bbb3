"""The command `virtsync vm status`, which says why a VM is as it is, and what happens next."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, partial

import click

from controller.api.codec import parse
from controller.api.hypervisor import Hypervisor
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.json_mapping import Json
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.output import show, show_objects, with_output
from controller.cli.vm.selection import selected, with_names, with_selection
from controller.cli.vm.views.status import in_a_table, in_detail, summary
from controller.runtime.errors import Forbidden, Transient, Vanished


@click.command
@with_names()
@with_selection
@with_output()
@with_cluster()
def status(*, cluster: Cluster, names: tuple[str, ...], selector: str, everywhere: bool, output: str | None) -> None:
    """Show why VMs are as they are, and what is next.

    With NAME, all about each VM, also its last stop, its holds, and the agent of its node. If the VM is not as wanted,
    the last line has the address of a page about the reason. Without NAME, one line for each VM.

    Exit code: 0, also if a VM is not as wanted; 2: wrong usage, or an error, such as no VM with one of the names.
    """
    found: list[Json] = []
    gone: Vanished | None = None
    try:
        found.extend(selected(cluster, names, selector, everywhere=everywhere))
    except Vanished as error:
        gone = error
    if found or not gone:
        _show(cluster, found, names, output, everywhere=everywhere)
    if gone:
        raise gone


def _show(cluster: Cluster, found: list[Json], names: tuple[str, ...], output: str | None, *, everywhere: bool) -> None:
    if output:
        show_objects(found, output, single=len(names) == 1)
        return
    vms, now = [parse(raw) for raw in found], datetime.now(UTC)
    if names:
        host_of = cache(partial(_host, cluster))
        for place, vm in enumerate(vms):
            show([*([""] if place else []), *in_detail(vm, host_of(vm.node_name), now)])
    elif vms:
        show([*in_a_table(vms, now, namespaces=everywhere), "", summary(vms)])
    else:
        nothing_found(cluster, everywhere=everywhere)


def nothing_found(cluster: Cluster, *, everywhere: bool) -> None:
    """Say on stderr that no VM was selected, as kubectl does."""
    click.echo(f"No VirtualMachine found{'' if everywhere else f' in namespace {cluster.namespace}'}.", err=True)


def _host(cluster: Cluster, node: str) -> Hypervisor | str:
    """Return the Hypervisor of a node, or why it is not known."""
    if not node:
        return "no agent"
    try:
        return parse_hypervisor(cluster.reads.hypervisor(node))
    except Vanished:
        return "no agent has reported on this node"
    except Forbidden:
        return "agent not shown: you may not read Hypervisors"
    except Transient as error:
        return f"agent not known: {error}"

"""The command `virtsync vm history`, which shows what happened to a VM."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from controller.api.codec import parse
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.output import show, show_data, with_output
from controller.cli.vm.selection import with_names
from controller.cli.vm.views.history import as_data, history_lines, timeline
from controller.runtime.errors import Vanished


@click.command
@with_names(many=False)
@with_output("json", "yaml")
@with_cluster()
def history(*, cluster: Cluster, name: str, output: str | None) -> None:
    """Show what happened to a VM, the oldest first.

    These are its Events, its last stop, and its last restart. The API server keeps Events for an hour, unless it is
    configured otherwise. For a deleted object, its Events are shown.

    Exit code: 0: success; 2: wrong usage, or an error, such as no object and no Event of this name.
    """
    key = VmKey(cluster.namespace, name)
    vm, gone = _read(cluster, key)
    entries = timeline(vm, cluster.reads.events(key))
    if gone and not entries:
        raise gone
    if output:
        show_data({"namespace": key.namespace, "name": key.name, "history": as_data(entries)}, output)
        return
    show(history_lines(entries, datetime.now(UTC)))
    if gone:
        click.echo(f"{key} does not exist any more.", err=True)


def _read(cluster: Cluster, key: VmKey) -> tuple[VirtualMachine | None, Vanished | None]:
    try:
        return parse(cluster.reads.virtual_machine(key)), None
    except Vanished as error:
        return None, error

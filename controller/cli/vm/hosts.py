"""The command `virtsync vm hosts`, which lists the KVM hosts and their agents."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from controller.api.hypervisor_codec import parse_hypervisor
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.output import show, show_objects, with_output
from controller.cli.vm.selection import with_labels
from controller.cli.vm.views.hosts import host_lines


@click.command
@with_labels("Only hosts with these labels.")
@with_output()
@with_cluster(namespaced=False)
def hosts(*, cluster: Cluster, selector: str, output: str | None) -> None:
    """List the hosts and their agents.

    The list also shows the numbers of VMs and of domains without a VirtualMachine, and maintenance.

    Exit code: 0, also if an agent is unreachable; 2: wrong usage, or an error.
    """
    found = list(cluster.reads.hypervisors(selector))
    if output:
        show_objects(found, output)
    elif found:
        show(host_lines(map(parse_hypervisor, found), datetime.now(UTC)))
    else:
        click.echo("No Hypervisor found.", err=True)

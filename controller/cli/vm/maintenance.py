"""The commands `virtsync vm maintenance start` and `virtsync vm maintenance end`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from controller.api import changes, progress
from controller.api.hypervisor import Hypervisor, Maintenance, MaintenanceMode
from controller.api.hypervisor_codec import parse_hypervisor
from controller.cli.options import reads
from controller.cli.vm.changing import Decided, Task, run, task_of, with_change, with_wait
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.completion import node_names
from controller.runtime.settings import node_name


@click.group
def maintenance() -> None:
    """Declare maintenance of a host, or end it."""


with_node = click.argument("node", metavar="NODE", type=reads(node_name), shell_complete=node_names)


@maintenance.command
@with_node
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in MaintenanceMode], case_sensitive=False),
    metavar=f"[{'|'.join(MaintenanceMode)}]",
    default=str(MaintenanceMode.HOLD),
    show_default=True,
    help="Hold: virtsync takes no action on the host. Shutdown: it also shuts down the VMs that it may switch.",
)
@click.option(
    "--because",
    "why",
    type=reads(changes.reason),
    metavar="WHY",
    required=True,
    help="Why, such as 'new RAM, ask sre'. Each VM that is held shows it.",
)
@click.option("--replace", is_flag=True, help="Replace another maintenance that is declared already.")
@with_wait
@with_change
@with_cluster(namespaced=False)
def start(
    *,
    cluster: Cluster,
    node: str,
    mode: str,
    why: str,
    replace: bool,
    wait: bool,
    timeout_s: float,
    anyway: bool,
    output: str | None,
) -> None:
    """Declare maintenance of a host.

    With --wait, wait until the host is quiet. With --mode Shutdown no domain runs then, and you can power the host off.
    With --mode Hold the VMs still run: do not power the host off.

    Exit code: 0: it is declared, or the host is quiet with --wait; 1: --wait ended before the host was quiet; 2: wrong
    usage, or the host could not be changed, or the API server has not answered the change, which may have been made all
    the same.
    """
    wanted = Maintenance(MaintenanceMode(mode), why)
    task = _task(
        node,
        lambda host: changes.begin_maintenance(host, wanted, replace=replace),
        progress.of_begun_maintenance if wait else None,
    )
    sys.exit(run(cluster, [task], anyway=anyway, output=output, timeout_s=timeout_s, single=True))


@maintenance.command
@with_node
@with_wait
@with_change
@with_cluster(namespaced=False)
def end(*, cluster: Cluster, node: str, wait: bool, timeout_s: float, anyway: bool, output: str | None) -> None:
    """End the maintenance of a host. VMs start after the settle time.

    With --wait, wait until the agent has acknowledged the end.

    Exit code: 0: it is ended, and acknowledged with --wait; 1: --wait ended before that; 2: wrong usage, or the host
    could not be changed, or the API server has not answered the change, which may have been made all the same.
    """
    task = _task(node, changes.end_maintenance, progress.of_ended_maintenance if wait else None)
    sys.exit(run(cluster, [task], anyway=anyway, output=output, timeout_s=timeout_s, single=True))


def _task(
    node: str,
    decide: Callable[[Hypervisor], Decided],
    how_far: Callable[[Hypervisor, int], progress.Progress] | None,
) -> Task:
    from controller.kube.paths import hypervisor  # noqa: PLC0415

    follow = (lambda host, _decided, generation: how_far(host, generation)) if how_far else None
    return task_of(node, hypervisor(node), parse_hypervisor, decide, follow)

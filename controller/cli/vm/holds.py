"""The commands `virtsync vm hold` and `virtsync vm release`."""

from __future__ import annotations

import sys
from functools import partial

import click

from controller.api import changes
from controller.cli.options import reads
from controller.cli.vm.changing import run, with_change
from controller.cli.vm.chosen import tasks
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.selection import with_choice, with_names

with_holder = click.option(
    "--as", "who", type=reads(changes.holder), metavar="WHO", required=True, help="Who holds the VMs, such as backup."
)


@click.command
@with_names()
@with_choice
@with_holder
@click.option(
    "--because",
    "why",
    type=reads(changes.reason),
    metavar="WHY",
    required=True,
    help="Why, such as 'new disk'. The status of a VM shows it.",
)
@with_change
@with_cluster(as_user="--as-user")
def hold(
    *,
    cluster: Cluster,
    names: tuple[str, ...],
    selector: str,
    everywhere: bool,
    who: str,
    why: str,
    anyway: bool,
    output: str | None,
) -> None:
    """Keep virtsync from acting on VMs until they are released. The VMs stay as they are.

    Exit code: 0: they are held; 2: wrong usage, or a VM could not be changed, or the API server has not answered the
    change, which may have been made all the same.
    """
    decide = partial(changes.hold, who=who, why=why)
    chosen = tasks(cluster, names, selector, everywhere=everywhere, decide=decide)
    sys.exit(run(cluster, chosen, anyway=anyway, output=output, single=len(names) == 1))


@click.command
@with_names()
@with_choice
@with_holder
@with_change
@with_cluster(as_user="--as-user")
def release(
    *,
    cluster: Cluster,
    names: tuple[str, ...],
    selector: str,
    everywhere: bool,
    who: str,
    anyway: bool,
    output: str | None,
) -> None:
    """Remove the hold of WHO. When the last hold is removed, virtsync waits for the settle time, and acts again.

    Exit code: 0: WHO does not hold the VMs any more; 2: wrong usage, or a VM could not be changed, or the API server
    has not answered the change, which may have been made all the same.
    """
    decide = partial(changes.release, who=who)
    chosen = tasks(cluster, names, selector, everywhere=everywhere, decide=decide)
    sys.exit(run(cluster, chosen, anyway=anyway, output=output, single=len(names) == 1))

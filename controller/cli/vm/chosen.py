"""The VMs that a command changes. Unlike a command that reads, it takes none by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from controller.api.codec import parse
from controller.api.progress import Progress
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.cli.vm.changing import Decided, Task, task_of
from controller.cli.vm.cluster import Cluster
from controller.cli.vm.selection import selected

Decide = Callable[[VirtualMachine], Decided]
HowFar = Callable[[VirtualMachine, Decided, int], Progress]


def tasks(
    cluster: Cluster,
    names: tuple[str, ...],
    selector: str,
    *,
    everywhere: bool,
    decide: Decide,
    how_far: HowFar | None = None,
) -> list[Task]:
    """Return the change of each chosen VM. Raises as `selected`, and click.UsageError if none is chosen."""
    from controller.kube.paths import virtual_machine  # noqa: PLC0415

    return [
        task_of(str(key), virtual_machine(key), parse, decide, how_far)
        for key in _keys(cluster, names, selector, everywhere=everywhere)
    ]


def _keys(cluster: Cluster, names: tuple[str, ...], selector: str, *, everywhere: bool) -> Iterator[VmKey]:
    if not (names or selector):
        raise click.UsageError("Give the NAME of each VM, or choose VMs by their labels with -l.")
    if names and not (selector or everywhere):
        # They are not read here: one that does not exist must not keep the others from being changed.
        yield from (VmKey(cluster.namespace, name) for name in dict.fromkeys(names))
        return
    found = [parse(raw).key for raw in selected(cluster, names, selector, everywhere=everywhere)]
    if not found:
        click.echo("No VirtualMachine has these labels. Nothing was changed.", err=True)
    yield from found

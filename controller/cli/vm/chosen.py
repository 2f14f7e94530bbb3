"""The VMs that a command changes. Unlike a command that reads, it takes none by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from controller.api.changes import Change, Unchanged
from controller.api.codec import parse
from controller.api.json_mapping import Json
from controller.api.progress import Progress
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.cli.vm.changing import Task
from controller.cli.vm.cluster import Cluster
from controller.cli.vm.selection import selected

Decide = Callable[[VirtualMachine], Change | Unchanged]
HowFar = Callable[[VirtualMachine, Change | Unchanged, int], Progress]


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

    def follow(raw: Json, decided: Change | Unchanged, generation: int) -> Progress:
        assert how_far  # noqa: S101 - otherwise nothing follows
        return how_far(parse(raw), decided, generation)

    return [
        Task(str(key), virtual_machine(key), lambda raw: decide(parse(raw)), follow if how_far else None)
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

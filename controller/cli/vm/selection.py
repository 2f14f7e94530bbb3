"""Which VMs a command is about: names, labels, a namespace or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from controller.api.json_mapping import Json
from controller.api.names import GROUP, KIND, PLURAL
from controller.api.virtualmachine import VmKey
from controller.cli.options import reads
from controller.cli.vm.cluster import Cluster
from controller.cli.vm.completion import vm_names
from controller.runtime.errors import Vanished
from controller.runtime.settings import NODE_NAME

F = TypeVar("F", bound=Callable[..., Any])
NAME_LIMIT = 253
KINDS = {"kvm", KIND.lower(), PLURAL, f"{KIND.lower()}.{GROUP}", f"{PLURAL}.{GROUP}"}
"""What can stand before the name, as in `kvm/web-1`."""
ONLY_VMS = "Only VMs with these labels, such as app=web,tier!=db."

with_everywhere = click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="The VMs of all namespaces.")


def object_name(text: str) -> str:
    """Return the name of an object, also if the text has its kind in front, as in `kvm/web-1`. Raises ValueError."""
    kind, slash, name = text.rpartition("/")
    if slash and kind.lower() not in KINDS:
        raise ValueError(f"{text!r} cannot be the name of a VirtualMachine. (The namespace is the option -n.)")
    if len(name) > NAME_LIMIT or not NODE_NAME.fullmatch(name):  # the names of Nodes have the same rules
        raise ValueError(f"{text!r} cannot be the name of a VirtualMachine.")
    return name


def with_names(*, required: bool = False, many: bool = True) -> Callable[[F], F]:
    """Return a decorator that adds the argument NAME, as `names` or `name`."""
    return click.argument(
        "names" if many else "name",
        metavar=("NAME..." if required else "[NAME]...") if many else "NAME",
        nargs=-1 if many else 1,
        required=required or not many,
        type=reads(object_name),
        shell_complete=vm_names,
    )


def with_labels(help_text: str) -> Callable[[F], F]:
    """Return a decorator that adds the option -l of a command that reads. A blank selector is none, as for kubectl."""
    return click.option("-l", "--selector", metavar="LABELS", type=reads(str.strip), default="", help=help_text)


def with_selection(command: F) -> F:
    """Add the options -l and -A of a command that reads."""
    return with_labels(ONLY_VMS)(with_everywhere(command))


def with_choice(command: F) -> F:
    """Add the options -l and -A of a command that changes VMs, which refuses a blank selector: it selects every VM."""
    selector = click.option("-l", "--selector", metavar="LABELS", callback=_not_blank, help=ONLY_VMS)
    return selector(with_everywhere(command))


def _not_blank(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    """Return the selector; empty: it was not given. A script with an unset variable gives a blank one."""
    if given is not None and not given.strip():
        raise click.BadParameter("it is blank, so it would choose every VM. Nothing was changed.")
    return given or ""


def selected(cluster: Cluster, names: tuple[str, ...], selector: str, *, everywhere: bool) -> Iterator[Json]:
    """Yield the objects that are selected, by namespace and name. Raises as `Reads`, and click.UsageError.

    If there is no object with one of the names, raises Vanished after all others.
    """
    if names and (selector or everywhere):
        raise click.UsageError("NAME cannot be combined with -l or -A.")
    if names:
        gone: list[str] = []
        for name in dict.fromkeys(names):
            try:
                yield cluster.reads.virtual_machine(VmKey(cluster.namespace, name))
            except Vanished as error:
                gone.append(str(error))
        if gone:
            raise Vanished("; ".join(gone))
        return
    if everywhere and cluster.chosen_namespace:
        raise click.UsageError("-A cannot be combined with -n.")
    yield from cluster.reads.virtual_machines(None if everywhere else cluster.namespace, selector)

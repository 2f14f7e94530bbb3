"""What can follow on a command line: names from the cluster that the line names so far, and the scripts for shells.

No function for names raises an exception: an error message in the middle of a command line helps nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import ShellComplete, get_completion_class

if TYPE_CHECKING:
    from controller.kube.user_kubeconfig import Connection, Wish

SHELLS = ("bash", "zsh", "fish")
KUBECTL = "kubectl"
FOR_KUBECTL = """\
#!/bin/sh
# kubectl runs this program to complete `kubectl virtsync`, if it is on the PATH as kubectl_complete-virtsync.
exec {program} {command} "$@"
"""
NO_FILES, FILES = ":4", ":0"
"""The last line of an answer to kubectl: whether names of files may follow. Source: the ShellCompDirectives of
https://github.com/spf13/cobra/blob/main/completions.go."""


def vm_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of VirtualMachines that begin so, without those that the line has already."""
    from controller.kube.paths import virtual_machines  # noqa: PLC0415 - completion must be fast

    given = set(context.params.get("names") or ())
    namespace = context.params.get("chosen_namespace")
    found = _names(context, lambda connection: virtual_machines(namespace or connection.namespace))
    return _beginning(begun, set(found) - given)


def node_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of Hypervisors that begin so."""
    from controller.kube.paths import HYPERVISORS  # noqa: PLC0415

    return _beginning(begun, _names(context, lambda _: HYPERVISORS))


def namespaces(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of namespaces that begin so."""
    from controller.kube.paths import NAMESPACES  # noqa: PLC0415

    return _beginning(begun, _names(context, lambda _: NAMESPACES))


def contexts(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of contexts of the kubeconfig that begin so."""
    from controller.kube.user_kubeconfig import contexts  # noqa: PLC0415

    with suppress(Exception):
        return _beginning(begun, contexts(_wish(context)))
    return []


def script(shell: str, program: click.Command, name: str, variable: str, command: str) -> str:
    """Return what completes this program in a shell, or the program that kubectl runs.

    `variable` is the environment variable by which click knows that it completes. `command` prints what can follow.
    """
    if shell == KUBECTL:
        return FOR_KUBECTL.format(program=name, command=command)
    kind = get_completion_class(shell)
    assert kind  # noqa: S101 - click knows `SHELLS`
    return kind(program, {}, name, variable).source()


def for_kubectl(program: click.Command, words: list[str], name: str, variable: str) -> list[str]:
    """Return what can follow these words, as lines for kubectl.

    Source: https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/#using-the-command-line-runtime-package
    """
    *before, last = words or [""]
    found = ShellComplete(program, {}, name, variable).get_completions(before, last)
    if any(item.type != "plain" for item in found):
        return [FILES]
    return [*(f"{item.value}\t{item.help}" if item.help else item.value for item in found), NO_FILES]


def _beginning(begun: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(begun))


def _names(context: click.Context, path: Callable[[Connection], str]) -> list[str]:
    from controller.kube.reads import Reads  # noqa: PLC0415
    from controller.kube.user_kubeconfig import connect  # noqa: PLC0415

    with suppress(Exception):
        connection = connect(_wish(context))
        return list(Reads(connection.api).names(path(connection)))
    return []


def _wish(context: click.Context) -> Wish:
    from controller.kube.user_kubeconfig import Wish  # noqa: PLC0415

    given = context.params
    return Wish(given.get("kubeconfig"), given.get("context") or "", given.get("user") or "", given.get("groups") or ())

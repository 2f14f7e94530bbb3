"""The programs `kubectl-virtsync`, which kubectl runs as `kubectl virtsync`, and `kubectl_complete-virtsync`."""

from __future__ import annotations

import os
import sys

import click

from controller import __version__
from controller.cli.program import PeopleGroup, completing, open_streams
from controller.cli.vm import vm
from controller.cli.vm.completion import KUBECTL, SHELLS, for_kubectl, script

PROGRAM = "kubectl-virtsync"
COMPLETE_VARIABLE = "_KUBECTL_VIRTSYNC_COMPLETE"
COMPLETE_COMMAND = "__complete"


@click.group(
    cls=PeopleGroup,
    name="kubectl virtsync",
    help=vm.help,
    commands=dict(vm.commands),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name=PROGRAM)
def plugin() -> None:
    """Have the commands of `virtsync vm` at the top. `help` above has the text for people."""


@plugin.command
@click.argument("shell", type=click.Choice([*SHELLS, KUBECTL]))
def completion(shell: str) -> None:
    """Print a script for completion.

    bash, zsh and fish then complete the program kubectl-virtsync. For `kubectl virtsync`, which kubectl itself
    completes, save the script for kubectl as kubectl_complete-virtsync on your PATH, and make it executable.
    """
    click.echo(script(shell, plugin, PROGRAM, COMPLETE_VARIABLE, COMPLETE_COMMAND), nl=shell != KUBECTL)


def main() -> None:
    """Run the plugin. Shells complete the name of the program; its help has the words that people type."""
    if sys.argv[1:2] == [COMPLETE_COMMAND]:
        _print_what_follows(sys.argv[2:])  # click would obey some of these words
        return
    completing = COMPLETE_VARIABLE in os.environ
    plugin(prog_name=PROGRAM if completing else "kubectl virtsync", complete_var=COMPLETE_VARIABLE)


def complete() -> None:
    """Run `kubectl_complete-virtsync`: print what can follow these words, for kubectl."""
    _print_what_follows(sys.argv[1:])


def _print_what_follows(words: list[str]) -> None:
    open_streams()
    with completing():
        click.echo("\n".join(for_kubectl(plugin, words, PROGRAM, COMPLETE_VARIABLE)))

"""The programs `kubectl-virtsync`, which kubectl runs as `kubectl virtsync`, and `kubectl_complete-virtsync`."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import ShellComplete

from controller import __version__
from controller.cli.vm import vm

COMPLETE_VARIABLE = "_KUBECTL_VIRTSYNC_COMPLETE"
NO_FILES = ":4"
"""The line that tells kubectl not to add names of files. Source: ShellCompDirectiveNoFileComp of spf13/cobra."""


@click.group(
    name="kubectl virtsync",
    help=vm.help,
    commands=vm.commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="kubectl-virtsync")
def plugin() -> None:
    """Have the commands of `virtsync vm` at the top. `help` above has the text for people."""


def main() -> None:
    """Run the plugin. Shells complete the name of the program; its help has the words that people type."""
    completing = COMPLETE_VARIABLE in os.environ
    plugin(prog_name="kubectl-virtsync" if completing else "kubectl virtsync", complete_var=COMPLETE_VARIABLE)


def complete() -> None:
    """Print what can follow these words, in the form that kubectl expects from `kubectl_complete-NAME`.

    Source: https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/#using-the-command-line-runtime-package
    """
    *before, last = sys.argv[1:] or [""]
    for item in ShellComplete(plugin, {}, "kubectl-virtsync", COMPLETE_VARIABLE).get_completions(before, last):
        click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(NO_FILES)

"""The commands of the GitOps engines: `python -m gitops COMMAND`."""

import sys
from contextlib import suppress
from pathlib import Path

import click

from gitops import argocd, flux, kstatus
from gitops.beside import flux_beside
from gitops.playground import STARTERS, playground
from lab import processes
from lab.gomodule import CACHE

MODULES = {"argo": argocd.MODULE, "flux": flux.MODULE, "kstatus": kstatus.MODULE}
ENGINE = click.argument("engine", type=click.Choice(sorted(STARTERS)))
FOLDER = click.argument(
    "folder",
    metavar="[DIR]",
    default=CACHE / "gitops",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Build and run the GitOps engines that deliver VirtualMachines."""


@cli.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(sorted(MODULES)))
def build(names: tuple[str, ...]) -> None:
    """Build argo, flux and kstatus with Go unless they exist, or only those named, and print their folders."""
    for name in names or MODULES:
        print(MODULES[name].build())


@cli.command()
@ENGINE
@FOLDER
def run(engine: str, folder: Path) -> None:
    """Run an engine, a Git repository, an API server, three VMs and their agent until Ctrl-C or SIGTERM.

    It prints what to try, then `ready`. Its state is in DIR.
    """
    with processes.terminating(), playground(engine, folder) as running:
        print(running.what_to_try(), file=sys.stderr)
        with suppress(KeyboardInterrupt):
            processes.own_until_asked()


@cli.command()
@click.argument(
    "cluster",
    metavar="[CLUSTER]",
    default=CACHE / "cluster",
    type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True),
)
@click.argument(
    "folder",
    metavar="[DIR]",
    default=CACHE / "cluster-flux",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
)
def beside(cluster: Path, folder: Path) -> None:
    """Run Flux on the cluster of `make cluster`, which is in CLUSTER, until Ctrl-C or SIGTERM.

    It prints a line to paste into a shell, then `ready`. A new Git repository is in DIR.
    """
    with processes.terminating(), flux_beside(cluster, folder) as line:
        print(line, file=sys.stderr)
        with suppress(KeyboardInterrupt):
            processes.own_until_asked()


if __name__ == "__main__":
    cli(prog_name="python -m gitops")

"""`python -m versions COMMAND`."""

import sys

import click

from lab.processes import terminating
from versions import modules, plan, table
from versions.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Test virtsync on each version of Kubernetes that it supports."""


@cli.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--only", metavar="1.32", help="Only this server, and no table in the docs.")
@click.argument("pytest_arguments", nargs=-1)
def run_(only: str | None, pytest_arguments: tuple[str, ...]) -> None:
    """Run the tests on each version, and write the table to docs/install.md if all was run.

    The table is printed after each version. Further arguments go to pytest.
    """
    pairs = [pair for pair in plan.pairs() if only in {None, pair.server}]
    if not pairs:
        raise click.BadParameter(f"{only} is none of the versions {', '.join(modules.known())}.")
    with terminating():
        rows: list[table.Row] = []
        for pair in pairs:
            rows.append(run(pair, *pytest_arguments))
            print(f"\n{table.for_terminal(rows)}", flush=True)
    if not only and not pytest_arguments:
        table.write(rows)
    sys.exit(not all(row.passed for row in rows))


@cli.command()
@click.argument("server", metavar="1.32")
@click.option("--kubectl", metavar="1.36", help="The version of kubectl, if it is another one.")
def assets(server: str, kubectl: str | None) -> None:
    """Build kube-apiserver and kubectl, and print the folder for KUBEBUILDER_ASSETS."""
    print(modules.assets(server, kubectl or server))


@cli.command()
@click.argument("version", metavar="1.36.3")
def add(version: str) -> None:
    """Write the Go module of a version, in place of the one of its minor version."""
    print(modules.add(version))


if __name__ == "__main__":
    cli(prog_name="python -m versions")

"""The command `virtsync check`, which says what an agent needs on this host, and whether it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from controller.agent.settings import Settings
from controller.api.setting import Duration
from controller.cli.options import SettingsCommand, options_of, reads
from controller.cli.program import failures

if TYPE_CHECKING:
    from controller.kube.checks.lease import Claimant
    from controller.runtime.checks import Check, Finding

USED = ("node_name", "libvirt_uri", "kubeconfig", "observe_only", "lease_namespace", "identity", "boot_id")
"""The settings of the agent on which a check depends."""
EPILOG = """\b
On a host, before its first agent, with the kubeconfig that the agent will have:
  virtsync check --node-name node-a --kubeconfig FILE

\b
In the Pods of the agents, where each setting is an environment variable already:
  kubectl -n virtsync-system exec ds/virtsync-agent -- virtsync check
  kubectl -n virtsync-system exec POD -- virtsync check --output json
"""


class _OutputOption(click.Option):
    section = "Output"


@click.command(
    cls=SettingsCommand,
    params=[option for option in options_of(Settings) if option.name in USED],
    epilog=EPILOG,
)
@click.option(
    "-o",
    "--output",
    cls=_OutputOption,
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="A table for people, or JSON for programs.",
)
@click.option(
    "--timeout",
    "timeout_s",
    cls=_OutputOption,
    type=reads(Duration(least_s=0.1).parse),
    metavar="DURATION",
    default="5s",
    show_default=True,
    help="How long to wait for the answer to each check. libvirt and the API server usually answer in milliseconds.",
)
def check(*, output: str, timeout_s: float, **given: Any) -> None:
    """Check that this node has what its agent needs.

    The settings are the settings of virtsync agent. Each line shows one requirement and its state. ok: it is met.
    missing: it is not met, and the line below has the command that fixes it. not visible from here: this process cannot
    find out. If a running agent of this node holds the host lock or the Lease, this requirement is ok.

    Nothing is written, on the host or in the cluster, and no VM is touched. The command ends even if libvirt or the API
    server hangs: no check takes longer than --timeout.

    Exit code: 0: nothing is missing; 1: something is missing; 2: wrong usage, or an error.
    """
    try:
        settings = Settings(**given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # Imported here, so that --help and the error for a wrong value appear without delay.
    from controller.runtime import logs  # noqa: PLC0415

    logs.configure("text", "error")
    with failures():  # because 1 means that something is missing
        _check(settings, output, timeout_s)


def _check(settings: Settings, output: str, timeout_s: float) -> None:
    from controller.runtime.checks import State, run_all  # noqa: PLC0415

    findings = run_all(_checks(settings), timeout_s)
    lacking = [name for name, finding in findings.items() if finding.state is State.MISSING]
    if output == "json":
        click.echo(json.dumps(as_json(findings), indent=2))
    else:
        click.echo("\n".join(as_table(findings)))
        click.echo(f"\n{len(lacking)} missing: {', '.join(lacking)}" if lacking else "\nNothing is missing.")
    sys.exit(1 if lacking else 0)


def as_table(findings: Mapping[str, Finding]) -> Iterator[str]:
    """Yield the lines of a table with the findings. The command that fixes something is on a line below it."""
    rows = [("CHECK", "STATE", "DETAIL"), *((name, str(one.state), one.detail) for name, one in findings.items())]
    fixes = ["", *(one.fix for one in findings.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for (name, state, detail), fix in zip(rows, fixes, strict=True):
        yield f"{name:{widths[0]}}   {state:{widths[1]}}   {detail}"
        if fix:
            yield f"{'':{sum(widths) + 3}}   fix: {fix}"


def as_json(findings: Mapping[str, Finding]) -> list[dict[str, str]]:
    """Return the findings as JSON. `fix` is there only if something is missing."""
    return [
        {"name": name, "state": str(one.state), "detail": one.detail} | ({"fix": one.fix} if one.fix else {})
        for name, one in findings.items()
    ]


def _checks(settings: Settings) -> list[Check]:
    from controller.hypervisor import checks as host  # noqa: PLC0415
    from controller.kube.checks.server import ApiServer  # noqa: PLC0415

    return [
        *host.checks(settings.libvirt_uri, observe_only=settings.observe_only),
        *ApiServer(settings.kubeconfig, settings.node_name).checks(
            settings.lease_namespace, lambda: _claimant(settings)
        ),
    ]


def _claimant(settings: Settings) -> Claimant:
    from controller.hypervisor.host_lock import lock_holder, lock_name, socket_directory  # noqa: PLC0415
    from controller.kube.checks.lease import Claimant  # noqa: PLC0415

    directory = socket_directory(settings.libvirt_uri)
    try:
        lock = f"{settings.boot_id} {lock_name(directory)}" if directory else ""
        return Claimant(settings.identity, lock, lock_held=bool(directory and lock_holder(directory)))
    except OSError:
        return Claimant(settings.identity, "", lock_held=False)

"""The command `virtsync vm top`, which shows hosts and VMs while they change."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

import click

from controller.api.codec import parse
from controller.api.hypervisor import Hypervisor
from controller.api.hypervisor_codec import parse_hypervisor
from controller.cli.program import Failure
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.output import show
from controller.cli.vm.selection import with_selection
from controller.cli.vm.views.hosts import host_lines
from controller.cli.vm.views.status import in_a_table, summary
from controller.cli.vm.views.top import KEYS, Choice, Fleet, Frame, frame
from controller.runtime.errors import Forbidden

NO_HOSTS = "not shown: you may not list Hypervisors"
PLAIN_TERMINALS = {"dumb", "unknown"}
"""The values of TERM for terminals that cannot move the cursor."""
MISSING = (
    "top needs the Python package rich on a terminal. Install it into the environment of this program with:"
    " pip install 'rich>=14,<16'"
)


@click.command(
    help=f"""Show hosts and VMs while they change.

    The VMs that need a person come first. Keys: {KEYS.replace("   ", ", ")}.

    If stdout is no terminal, or cannot move the cursor, both tables are printed once.

    Exit code: 0, also after Ctrl-C; 2: wrong usage, or an error."""
)
@with_selection
@with_cluster()
def top(*, cluster: Cluster, selector: str, everywhere: bool) -> None:
    """Show a live table. `help` above has the text for people."""
    if everywhere and cluster.chosen_namespace:
        raise click.UsageError("-A cannot be combined with -n.")
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb").lower() in PLAIN_TERMINALS:
        _print_once(cluster, selector, everywhere=everywhere)
        return
    try:
        from controller.cli.vm.screen import Screen  # noqa: PLC0415 - rich is an extra
    except ModuleNotFoundError as error:
        raise Failure(MISSING) from error
    from controller.kube import paths  # noqa: PLC0415 - so that --help appears without delay
    from controller.kube.live import Live  # noqa: PLC0415
    from controller.kube.reads import HYPERVISORS_PAGE, PAGE  # noqa: PLC0415

    path = paths.VIRTUAL_MACHINES if everywhere else paths.virtual_machines(cluster.namespace)
    where = f"{'all namespaces' if everywhere else f'namespace {cluster.namespace}'}   {selector}".rstrip()
    with ExitStack() as ends:
        screen = ends.enter_context(Screen())
        vms = ends.enter_context(Live(cluster.api, path, parse, screen.wake, page=PAGE, selector=selector))
        every_host = Live(cluster.api, paths.HYPERVISORS, parse_hypervisor, screen.wake, page=HYPERVISORS_PAGE)
        hosts: Live[Hypervisor] | None = None
        with suppress(Forbidden):
            hosts = ends.enter_context(every_host)

        def draw(choice: Choice, height: int) -> Frame:
            trouble = vms.trouble or (hosts.trouble if hosts else "")
            fleet = Fleet(vms.objects(), hosts.objects() if hosts else NO_HOSTS, trouble, where)
            return frame(fleet, choice, datetime.now(UTC), height)

        code = screen.show(draw)
    sys.exit(code)


def _print_once(cluster: Cluster, selector: str, *, everywhere: bool) -> None:
    """Print the hosts and the VMs as they are now."""
    found = cluster.reads.virtual_machines(None if everywhere else cluster.namespace, selector)
    vms, now = list(map(parse, found)), datetime.now(UTC)
    try:
        hosts = host_lines(map(parse_hypervisor, list(cluster.reads.hypervisors())), now)
    except Forbidden:
        hosts = [f"Hosts {NO_HOSTS}"]
    show([*hosts, "", *in_a_table(vms, now, namespaces=True), "", summary(vms)])

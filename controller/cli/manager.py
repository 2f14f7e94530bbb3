"""The command `virtsync manager`, which watches over the agents of the cluster."""

from __future__ import annotations

from typing import Any

import click

from controller.cli.options import SettingsCommand, with_settings
from controller.cli.process import run
from controller.manager.settings import Settings


@click.command(cls=SettingsCommand)
@with_settings(Settings)
def manager(**given: Any) -> None:
    """Mark the objects of silent agents as Unknown, until SIGTERM.

    An agent renews a Lease every few seconds. If it stops doing so, the manager sets the condition Ready of its
    Hypervisor and of its VirtualMachines to Unknown, with the reason AgentUnreachable: the rest of their status is what
    the agent reported last. When the agent is back, it reports again, and nothing else is needed.

    The manager starts and stops no VM, and writes no spec. Several managers can run; they elect a leader by a Lease,
    and only the leader writes. Each flag can also be set by the environment variable shown with it.

    \b
    To try the manager with your own kubeconfig:
      virtsync manager --namespace virtsync-system
    """
    run(manager, Settings, given, _run)


def _run(settings: Settings) -> int:
    # Imported here, so that --help and the error for a wrong value appear without delay.
    from controller.manager import app  # noqa: PLC0415

    return app.run(settings)

"""The command `virtsync agent`, which runs the agent of a node."""

from __future__ import annotations

from typing import Any

import click

from controller.agent.settings import Settings
from controller.cli.options import SettingsCommand, with_settings
from controller.cli.process import run


@click.command(cls=SettingsCommand)
@with_settings(Settings)
def agent(**given: Any) -> None:
    """Manage the power state of the VMs of one node, until SIGTERM.

    After each libvirt event, the agent observes the VM and writes its power state into the status of the
    VirtualMachine, usually within milliseconds. If the power state differs from spec.powerState, the agent starts,
    stops, pauses, resumes or wakes up the VM, unless a hold (an annotation hold.virtsync.dev/NAME), --observe-only or
    spec.restartPolicy prevents this. If
    somebody else changed the VM, the agent first waits for a settle time, in which they can change it back.

    Durations are 500ms, 10s, 15m, 1h or plain seconds; 0, where allowed, means no wait. Each flag can also be set by
    the environment variable shown with it.

    \b
    To try the agent without changing any VM:
      virtsync agent --node-name "$(hostname)" --observe-only
    """
    run(agent, Settings, given, _run)


def _run(settings: Settings) -> int:
    # Imported here, so that --help and the error for a wrong value appear without delay.
    from controller.agent import app  # noqa: PLC0415

    return app.run(settings)

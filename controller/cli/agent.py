"""The command `virtsync agent`, which runs the agent of a node."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from controller.agent.settings import Settings
from controller.cli.options import SettingsCommand, build, misspelled, with_settings
from controller.runtime.errors import Rejected


class Refused(click.ClickException):
    """Settings that cannot work: the command prints one message on stderr and exits with code 2."""

    exit_code = 2


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
    # These modules are imported here, so that --help and the error for a wrong value appear without delay.
    import structlog  # noqa: PLC0415

    from controller.runtime import logs  # noqa: PLC0415

    logs.configure(given["log_format"], given["log_level"])
    log = structlog.get_logger()
    if unknown := " ".join(misspelled(os.environ, agent)):  # one line, because a repeated warning is not logged
        log.warning("unknown environment variable", message=unknown)
    try:
        settings = build(Settings, given)
    except ValueError as error:
        raise Refused(str(error)) from error
    from controller.agent import app  # noqa: PLC0415

    try:
        sys.exit(app.run(settings))
    except Rejected as error:
        raise Refused(str(error)) from error

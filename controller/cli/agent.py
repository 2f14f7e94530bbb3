"""`virtsync agent`: runs the agent of a node."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from controller.agent.settings import Settings
from controller.cli.options import SettingsCommand, build, misspelled, with_settings
from controller.runtime.errors import Rejected


class Refused(click.ClickException):
    """Settings that can never work: one sentence on stderr, and exit code 2."""

    exit_code = 2


@click.command(cls=SettingsCommand)
@with_settings(Settings)
def agent(**given: Any) -> None:
    """Manage the power state of the VMs of one node, until SIGTERM.

    The agent writes libvirt events into the status of VirtualMachine objects within milliseconds. If the power state
    of a VM differs from its spec.powerState, the agent starts, stops or pauses the VM. If somebody else changed the
    VM, the agent first waits for a settle time, in which they can change it back.

    Durations are 500ms, 10s, 15m, 1h or plain seconds; 0 means at once. Each flag can also be set by the environment
    variable shown with it.

    \b
    A first try that changes no VM:
      virtsync agent --node-name "$(hostname)" --observe-only
    """
    # Imported here, so that --help and the error for a wrong value appear without delay.
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

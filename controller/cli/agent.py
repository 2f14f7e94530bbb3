"""`virtsync agent`: run the agent of a node."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from controller.agent.settings import Settings
from controller.cli.options import SettingsCommand, build, misspelt, takes
from controller.runtime.errors import Rejected


class Refused(click.ClickException):
    """Settings that can never work."""

    exit_code = 2


@click.command(cls=SettingsCommand)
@takes(Settings)
def agent(**given: Any) -> None:
    """Manage the power state of the VMs of one node, until SIGTERM.

    libvirt events become the status of VirtualMachine objects within milliseconds. A VM whose power state differs from
    its spec.powerState is started, stopped or paused, after whoever changed it has had time to change it back.

    Durations are 500ms, 10s, 15m, 1h or plain seconds; 0 means at once. Each flag can also be set by the environment
    variable shown with it.

    \b
    A first try that changes no VM:
      virtsync agent --node-name "$(hostname)" --observe-only
    """
    # Imported here, so that --help and a wrong value answer at once.
    import structlog  # noqa: PLC0415

    from controller.runtime import logs  # noqa: PLC0415

    logs.configure(given["log_format"], given["log_level"])
    for sentence in misspelt(os.environ, agent):
        structlog.get_logger().warning(sentence)
    try:
        settings = build(Settings, given)
    except ValueError as error:
        raise Refused(str(error)) from error
    from controller.agent import app  # noqa: PLC0415

    try:
        sys.exit(app.run(settings))
    except Rejected as error:
        raise Refused(str(error)) from error

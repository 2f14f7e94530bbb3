"""Runs a process of virtsync from the command line: its log, its settings, and one sentence for what cannot work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from controller.cli.options import build, misspelled
from controller.runtime.errors import Rejected

S = TypeVar("S")


class Refused(click.ClickException):
    """Settings that cannot work: the command prints one message on stderr and exits with code 2."""

    exit_code = 2


def run(command: click.Command, settings: type[S], given: dict[str, Any], program: Callable[[S], int]) -> NoReturn:
    """Run the program with the settings of the command line, and exit with its exit code. Raises Refused.

    `given` has the values of the options by the names of the fields.
    """
    # These modules are imported here, so that --help and the error for a wrong value appear without delay.
    import structlog  # noqa: PLC0415

    from controller.runtime import logs  # noqa: PLC0415

    logs.configure(given["log_format"], given["log_level"])
    log = structlog.get_logger()
    if unknown := " ".join(misspelled(os.environ, command)):  # one line, because a repeated warning is not logged
        log.warning("unknown environment variable", message=unknown)
    try:
        built = build(settings, given)
    except ValueError as error:
        raise Refused(str(error)) from error
    try:
        sys.exit(program(built))
    except Rejected as error:
        raise Refused(str(error)) from error

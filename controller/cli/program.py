"""How each command begins and ends: its standard streams, its error messages and its exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import IO, Any

import click

from controller.presentation.words import plain
from controller.runtime.errors import Rejected, Transient, Vanished

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""
UNREAD = 141
"""The exit code if nobody reads the output any more, as in `| head -1`: that of kubectl, which SIGPIPE ends."""


class Failure(click.ClickException):
    """An error that is neither drift nor wrong usage. The exit code is 2, because 1 means drift."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message. If stderr cannot be written, the exit code stays."""
        try:
            super().show(file)
        except OSError:
            abandon(sys.stderr)


class Command(click.Command):
    """A command whose --help ends as its other output if it cannot be written."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line, and print what --help and --version ask for."""
        with failures():
            return super().make_context(*args, **kwargs)


class Group(Command, click.Group):
    """The commands of a program, which has all standard streams."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program, and exit."""
        open_streams()
        return super().main(*args, **kwargs)

    def _main_shell_completion(self, *args: Any, **kwargs: Any) -> None:
        """Print what a shell asks for, and exit."""
        with completing():
            super()._main_shell_completion(*args, **kwargs)


class PeopleGroup(Group):
    """Commands for people: none of them runs until a signal, so what each of them raises is shown as an error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with failures():
            return super().invoke(ctx)


@contextmanager
def completing() -> Iterator[None]:
    """End with 2 if a completion cannot be written. An error message in the middle of a command line helps nobody."""
    try:
        yield
    except OSError:
        abandon(sys.stdout)
        sys.exit(Failure.exit_code)


def open_streams() -> None:
    """Open the standard streams that the caller has closed, as the shell does for `>&-`: Python has None for them.

    stdin is empty, each write to stdout fails, as on a full disk, and what is written to stderr is lost.
    """
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            # The lowest number that is free, so that usually no other file gets the number of this stream.
            setattr(sys, name, open(os.open(os.devnull, flags), mode))  # noqa: PTH123, SIM115 - for the whole process


@contextmanager
def failures() -> Iterator[None]:
    """Show what a request raises as an error message, and end with exit code 2. After Ctrl-C it is 130.

    An exception that nobody expects ends with 2 as well, and so does an output that cannot be written. Python would end
    with 1, which means drift. An output that nobody reads any more ends with 141. What the encoding of stdout does not
    have, is written as an escape sequence.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it
    try:
        yield
    except (Rejected, Transient, Vanished) as error:
        raise Failure(f"{plain(str(error)).rstrip('.')}.") from error
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise  # click has a message for each
    except BrokenPipeError:
        abandon(sys.stdout)
        sys.exit(UNREAD)
    except OSError as error:
        if not error.filename:
            abandon(sys.stdout)
        what = error.filename or "the output cannot be written"
        raise Failure(f"{what}: {error.strerror or error}.") from error
    except Exception:  # noqa: BLE001 - shown, with the exit code of an error
        try:
            traceback.print_exc()
        except OSError:
            abandon(sys.stderr)
        sys.exit(Failure.exit_code)


def abandon(stream: IO[str]) -> None:
    """Close stdout or stderr, so that Python does not write the rest at its end, and change its exit code."""
    with suppress(OSError):
        stream.close()

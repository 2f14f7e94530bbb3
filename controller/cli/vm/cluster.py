"""How a command for people reaches its cluster: the options of kubectl, and the connection that they lead to."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from controller.cli.options import reads
from controller.cli.vm import completion
from controller.presentation.words import plain
from controller.runtime.errors import Rejected, Transient, Vanished
from controller.runtime.settings import namespace as checked_namespace

if TYPE_CHECKING:
    from controller.kube.client import Api
    from controller.kube.reads import Reads
    from controller.kube.user_kubeconfig import Connection

F = TypeVar("F", bound=Callable[..., Any])
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
            _abandon(sys.stderr)


@dataclass
class Cluster:
    """The cluster that the options of a command name. Nothing is read or sent before it is used.

    `api`, `reads` and `namespace` raise Rejected; `failures` shows that to people.
    """

    kubeconfig: Path | None = None
    context: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    chosen_namespace: str = field(default="", repr=False)

    @property
    def namespace(self) -> str:
        """The namespace of the option -n, or else of the context."""
        return self.chosen_namespace or self._connection.namespace

    @property
    def options(self) -> list[str]:
        """The same choice as options of kubectl, without the namespace."""
        given = [("--kubeconfig", str(self.kubeconfig or "")), ("--context", self.context), ("--as", self.user)]
        given += [("--as-group", group) for group in self.groups]
        return [f"{option}={value}" for option, value in given if value]

    @property
    def api(self) -> Api:
        """Sends requests to the API server."""
        return self._connection.api

    @cached_property
    def reads(self) -> Reads:
        """Reads objects."""
        # Imported here, so that --help and the error for a wrong value appear without delay.
        from controller.kube.reads import Reads  # noqa: PLC0415

        return Reads(self.api)

    @cached_property
    def _connection(self) -> Connection:
        from controller.kube.user_kubeconfig import Wish, connect  # noqa: PLC0415

        wish = Wish(self.kubeconfig, self.context, self.user, self.groups)
        return connect(wish, terminal=sys.stdin.isatty())


def with_cluster(*, namespaced: bool = True, as_user: str = "--as") -> Callable[[F], F]:
    """Return a decorator that adds the options of kubectl, and gives the command a `cluster`.

    `namespaced`: with -n. `as_user` names the option to impersonate a user, for commands that use --as otherwise.
    """
    options = [
        click.option(
            "--kubeconfig",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The only kubeconfig to read.  [default: the files in $KUBECONFIG, or ~/.kube/config]",
        ),
        click.option(
            "--context",
            metavar="NAME",
            default="",
            help="The context of the kubeconfig to use.",
            shell_complete=completion.contexts,
        ),
        click.option(as_user, "user", metavar="USER", default="", help="Impersonate this user."),
        click.option("--as-group", "groups", metavar="GROUP", multiple=True, help="Impersonate this group, too."),
    ]
    if namespaced:
        options.append(
            click.option(
                "-n",
                "--namespace",
                "chosen_namespace",
                type=reads(checked_namespace),
                metavar="NS",
                default=None,
                shell_complete=completion.namespaces,
                help="The namespace of the VMs.  [default: that of the context]",
            )
        )

    def decorate(command: F) -> F:
        def with_given(
            *positional: Any,
            kubeconfig: Path | None,
            context: str,
            user: str,
            groups: tuple[str, ...],
            chosen_namespace: str | None = None,
            **given: Any,
        ) -> Any:
            cluster = Cluster(kubeconfig, context, user, groups, chosen_namespace or "")
            with failures(), without_warnings():
                return command(*positional, cluster=cluster, **given)

        wrapped: Any = update_wrapper(with_given, command)
        for option in options:
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


@contextmanager
def without_warnings() -> Iterator[None]:
    """Log errors only, because warnings about credentials would stand in the middle of an output.

    Afterwards, the configuration of the log is as before.
    """
    import logging  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**before)


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
        _abandon(sys.stdout)
        sys.exit(UNREAD)
    except OSError as error:
        if not error.filename:
            _abandon(sys.stdout)
        what = error.filename or "the output cannot be written"
        raise Failure(f"{what}: {error.strerror or error}.") from error
    except Exception:  # noqa: BLE001 - shown, with the exit code of an error
        try:
            traceback.print_exc()
        except OSError:
            _abandon(sys.stderr)
        sys.exit(Failure.exit_code)


def _abandon(stream: IO[str]) -> None:
    """Close stdout or stderr, so that Python does not write the rest at its end, and change its exit code."""
    with suppress(OSError):
        stream.close()

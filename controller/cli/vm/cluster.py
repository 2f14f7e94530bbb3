"""How a command for people reaches its cluster: the options of kubectl, and the connection that they lead to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from controller.cli.options import reads
from controller.cli.program import failures
from controller.cli.vm import completion
from controller.runtime.settings import namespace as checked_namespace

if TYPE_CHECKING:
    from controller.kube.client import Api
    from controller.kube.reads import Reads
    from controller.kube.user_kubeconfig import Connection

F = TypeVar("F", bound=Callable[..., Any])


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

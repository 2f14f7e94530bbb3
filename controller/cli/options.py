"""Generates the options of a command and the headings of its --help from a dataclass of settings (api/setting.py).

Such a command has the class `SettingsCommand`. `build` constructs the dataclass from the values of the options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from controller.api.setting import METADATA, Choice, Duration, File, Section, Setting, Switch, Text, Truth, Whole
from controller.cli.program import Command
from controller.runtime.settings import namespace

PREFIX = "VIRTSYNC_"
INSTALLED_IN = "virtsync-system"
"""The namespace in which deploy/base installs virtsync."""

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


class Option(click.Option):
    """The click option that sets one field of a dataclass of settings."""

    def __init__(self, field: str, setting: Setting) -> None:
        self.section = setting.section
        default: dict[str, Any] = {} if setting.default is None else {"default": setting.default}
        super().__init__(
            [setting.flag, field],
            envvar=setting.variable,
            help=setting.help,
            required=setting.default is None and not setting.shown_default and not isinstance(setting.kind, Switch),
            show_default=setting.shown_default or True,
            show_envvar=True,
            **default,
            **_click_type(setting),
        )


class SettingsCommand(Command):
    """A command whose --help groups the flags under headings, in the order of `Section`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags, grouped under their headings."""
        for heading, options in groupby(self.get_params(ctx), lambda one: getattr(one, "section", "Help")):
            with formatter.section(heading):
                formatter.write_dl([record for one in options if (record := one.get_help_record(ctx))])


def options_of(settings: type) -> list[Option]:
    """Return the options of a dataclass of settings and of the dataclasses nested in it, in the order of `Section`."""
    order = list(Section)
    return sorted(_options(settings), key=lambda option: order.index(option.section))


def with_settings(settings: type) -> Callable[[F], F]:
    """Return a decorator that adds the options of these settings to a function, before click makes it a command."""

    def decorate(command: F) -> F:
        declared = command.__dict__.setdefault("__click_params__", [])
        declared.extend(reversed(options_of(settings)))  # click reverses the order of the collected options
        return command

    return decorate


def build(settings: type[S], given: dict[str, Any]) -> S:
    """Construct the settings from the values of the options. `given` maps field names to values.

    Raises ValueError with a message if values contradict each other.
    """
    hints = get_type_hints(settings)
    values = {
        field.name: build(hints[field.name], given) if is_dataclass(hints[field.name]) else given[field.name]
        for field in fields(settings)  # type: ignore[arg-type]
    }
    return settings(**values)


def misspelled(variables: Iterable[str], command: click.Command) -> Iterator[str]:
    """Yield a message for each environment variable that begins with VIRTSYNC_ and is not a setting."""
    known = {str(option.envvar) for option in command.params if isinstance(option, click.Option)}
    by_end = {one.removeprefix(PREFIX): one for one in known}
    for variable in sorted(set(variables) - known):
        if variable.startswith(PREFIX):
            near = get_close_matches(variable.removeprefix(PREFIX), by_end, n=1)
            hint = (
                f"did you mean {by_end[near[0]]}?" if near else f"virtsync {command.name} --help lists the valid ones."
            )
            yield f"{variable} has no effect: {hint}"


def _options(settings: type) -> Iterator[Option]:
    hints = get_type_hints(settings)
    for field in fields(settings):
        if is_dataclass(hints[field.name]):
            yield from _options(hints[field.name])
        else:
            yield Option(field.name, field.metadata[METADATA])


def _click_type(setting: Setting) -> dict[str, Any]:  # noqa: PLR0911 - one kind on each line
    match setting.kind:
        case Duration():
            return {"type": reads(setting.kind.parse), "metavar": "DURATION"}
        case Text():
            return {"type": reads(setting.kind.parse), "metavar": setting.kind.metavar}
        case Whole():
            return {"type": click.IntRange(setting.kind.least, setting.kind.most), "metavar": setting.kind.metavar}
        case Choice():
            return {"type": click.Choice(setting.kind.words)}
        case File():
            return {"type": click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)}
        case Switch():
            return {"is_flag": True}
        case Truth():
            return {"type": click.BOOL, "metavar": "true|false"}


def reads(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a click type that converts with `parse`, and shows the message of its ValueError."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read


def installed_in(help_text: str) -> Callable[[F], F]:
    """Return a decorator that adds the option `--namespace` of a command that concerns virtsync itself."""
    return click.option(
        "-n",
        "--namespace",
        type=reads(namespace),
        metavar="NS",
        default=INSTALLED_IN,
        show_default=True,
        help=help_text,
    )

"""From the settings that a dataclass declares (api/setting.py) to flags, variables and headings of --help.

A command that takes them is a `SettingsCommand`; `build` makes the dataclass of what was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from controller.api.setting import METADATA, Choice, Duration, File, Section, Setting, Switch, Text, Whole

OURS = "VIRTSYNC_"

Command = TypeVar("Command", bound=Callable[..., Any])
S = TypeVar("S")


class Option(click.Option):
    """The flag of a setting, with its environment variable."""

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


class SettingsCommand(click.Command):
    """A command whose --help has its flags below headings, in the order of `Section`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags."""
        for heading, options in groupby(self.get_params(ctx), lambda one: getattr(one, "section", "Help")):
            with formatter.section(heading):
                formatter.write_dl([record for one in options if (record := one.get_help_record(ctx))])


def options_of(settings: type) -> list[Option]:
    """The flags of a dataclass of settings, and of the dataclasses in it, in the order of `Section`."""
    order = list(Section)
    return sorted(_options(settings), key=lambda option: order.index(option.section))


def takes(settings: type) -> Callable[[Command], Command]:
    """Give a click command the flags of these settings."""

    def decorate(command: Command) -> Command:
        declared = command.__dict__.setdefault("__click_params__", [])
        declared.extend(reversed(options_of(settings)))  # click reverses what decorators have gathered
        return command

    return decorate


def build(settings: type[S], given: dict[str, Any]) -> S:
    """The settings that these values of flags make, by the names of their fields.

    Raises ValueError with a sentence where they contradict each other.
    """
    hints = get_type_hints(settings)
    values = {
        field.name: build(hints[field.name], given) if is_dataclass(hints[field.name]) else given[field.name]
        for field in fields(settings)  # type: ignore[arg-type]
    }
    return settings(**values)


def misspelt(variables: Iterable[str], command: click.Command) -> Iterator[str]:
    """A sentence for each environment variable that looks like one of virtsync's and is none."""
    known = {str(option.envvar) for option in command.params if isinstance(option, click.Option)}
    by_end = {one.removeprefix(OURS): one for one in known}
    for variable in sorted(set(variables) - known):
        if variable.startswith(OURS):
            near = get_close_matches(variable.removeprefix(OURS), by_end, n=1)
            hint = (
                f"did you mean {by_end[near[0]]}?" if near else f"virtsync {command.name} --help lists those that have."
            )
            yield f"The environment variable {variable} has no effect: {hint}"


def _options(settings: type) -> Iterator[Option]:
    hints = get_type_hints(settings)
    for field in fields(settings):
        if is_dataclass(hints[field.name]):
            yield from _options(hints[field.name])
        else:
            yield Option(field.name, field.metadata[METADATA])


def _click_type(setting: Setting) -> dict[str, Any]:
    match setting.kind:
        case Duration():
            return {"type": _reads(setting.kind.parse), "metavar": "DURATION"}
        case Text():
            return {"type": _reads(setting.kind.parse), "metavar": setting.kind.metavar}
        case Whole():
            return {"type": click.IntRange(setting.kind.least, setting.kind.most), "metavar": setting.kind.metavar}
        case Choice():
            return {"type": click.Choice(setting.kind.words)}
        case File():
            return {"type": click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)}
        case Switch():
            return {"is_flag": True}


def _reads(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read

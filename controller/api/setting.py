"""Declares settings on the fields of a dataclass: the flag, environment variable, default and help of each. Pure.

cli/options.py generates the command line from these declarations, and a test compares docs/configuration.md with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from enum import StrEnum
from typing import Any

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
LONGEST_S = 365 * 24 * 3600.0
METADATA = "setting"


class Section(StrEnum):
    """The headings of --help, in the order in which --help shows them."""

    NODE = "Node, libvirt and cluster"
    CLUSTER = "Cluster"
    OWNERSHIP = "One agent per node"
    DRIFT = "Drift correction"
    STARTS = "Starting VMs"
    STOPS = "Stopping VMs"
    RESYNC = "Resync and workers"
    HOST = "The Hypervisor object"
    OUTPUT = "Logging and metrics"
    TESTS = "For tests"


@dataclass(frozen=True, slots=True)
class Duration:
    """The kind of a duration, such as 500ms, 10s, 15m, 1h or plain seconds. `never`: the word "never" is allowed."""

    least_s: float = 0.0
    most_s: float = LONGEST_S
    never: bool = False

    def parse(self, text: str) -> float | None:
        """Return the duration in seconds; None for "never". Raises ValueError with a message."""
        if self.never and text == "never":
            return None
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", text)
        if not found:
            examples = "500ms, 10s, 15m or 1h" + (", or never" if self.never else "")
            raise ValueError(f"{text!r} is not a duration like {examples}.")
        seconds = float(found[1]) * UNIT_S[found[2]]
        if not self.least_s <= seconds <= self.most_s:
            most = f"{self.most_s:g}s" if self.most_s < LONGEST_S else f"{LONGEST_S / 3600:g}h"
            limits = f"between {self.least_s:g}s and {most}"
            raise ValueError(f"{text!r} is out of bounds: it must be {limits}.")
        return seconds


@dataclass(frozen=True, slots=True)
class Whole:
    """The kind of a whole number between `least` and `most`, both included."""

    least: int
    most: int
    metavar: str = "COUNT"


@dataclass(frozen=True, slots=True)
class Choice:
    """The kind of a value that is one of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """The kind of a text. `parse` checks and converts it, and raises ValueError with a message."""

    metavar: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class File:
    """The kind of a path to a readable file."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The kind of a flag that has no value: the setting is True if the flag is given."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The kind of a value that is true or false. Unlike a Switch, the setting can be True by default."""


Kind = Duration | Whole | Choice | Text | File | Switch | Truth


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of a setting: everything except the name and the type of its field."""

    flag: str
    variable: str
    section: Section
    kind: Kind
    help: str
    default: str | None
    """The default as written on the command line; None: there is none, or it is determined at run time."""
    shown_default: str
    """The text that --help shows for a default that is determined at run time; empty: --help shows `default`."""


def setting(
    flag: str,
    section: Section,
    kind: Kind,
    help: str,  # noqa: A002 - the word of every command-line library
    *,
    default: str | None = None,
    found: Any = MISSING,
    shown_default: str = "",
    variable: str = "",
) -> Any:
    """Return a dataclass field that an operator can set.

    `default` is written as on the command line. If the default is determined at run time, `found` is the field's value
    until then, and `shown_default` describes the default. A setting without `default` and `found` is required, unless
    its kind is Switch. The default of `variable` is VIRTSYNC_ followed by the name of the flag.
    """
    name = variable or f"VIRTSYNC_{flag.removeprefix('--').replace('-', '_').upper()}"
    if isinstance(kind, Switch):
        found = False
    value = found if default is None else _parsed(kind, default)
    declared = Setting(flag, name, section, kind, help, default, shown_default)
    return field(default=value, metadata={METADATA: declared})


def _parsed(kind: Kind, text: str) -> Any:
    match kind:
        case Duration() | Text():
            return kind.parse(text)
        case Whole():
            return int(text)
        case Truth():
            return text == "true"
        case _:
            return text

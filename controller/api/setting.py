"""A setting, declared once, on the field of a dataclass: its flag, environment variable, default and help. Pure.

The command line is made from it (cli/options.py), and a test compares docs/configuration.md with it.
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
    """The headings of --help, in order."""

    NODE = "Node, libvirt and cluster"
    OWNERSHIP = "One agent per node"
    DRIFT = "Drift correction"
    STARTS = "Starting VMs"
    STOPS = "Stopping VMs"
    RESYNC = "Resync and workers"
    OUTPUT = "Logging and metrics"
    TESTS = "For tests"


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration such as 500ms, 10s, 15m, 1h or plain seconds, as seconds; `never` is None, where it is allowed."""

    least_s: float = 0.0
    never: bool = False

    def parse(self, text: str) -> float | None:
        """The duration in seconds. Raises ValueError with a sentence."""
        if self.never and text == "never":
            return None
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", text)
        if not found:
            examples = "500ms, 10s, 15m or 1h" + (", or never" if self.never else "")
            raise ValueError(f"{text!r} is not a duration like {examples}.")
        seconds = float(found[1]) * UNIT_S[found[2]]
        if not self.least_s <= seconds <= LONGEST_S:
            limits = f"between {self.least_s:g}s and {LONGEST_S / 3600:g}h"
            raise ValueError(f"{text!r} is out of bounds: it must be {limits}.")
        return seconds


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within these limits, both inclusive."""

    least: int
    most: int
    metavar: str = "COUNT"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text that `parse` checks and reads. `parse` raises ValueError with a sentence."""

    metavar: str
    parse: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class File:
    """The path of a readable file."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A flag without a value: on if it is given."""


Kind = Duration | Whole | Choice | Text | File | Switch


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything about a setting except the name and the type of its field."""

    flag: str
    variable: str
    section: Section
    kind: Kind
    help: str
    default: str | None
    """The default as written on the command line; None: required, or the default is found at run time."""
    shown_default: str
    """Where a default that is found at run time comes from; empty: --help shows the default itself."""


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
    """A dataclass field that an operator can set.

    `default` is written as on the command line. If the default is found at run time instead, `found` is the value that
    stands for it, and `shown_default` describes where it is found. Without both, the setting is required. `variable` is
    VIRTSYNC_ and the flag if it is left out.
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
        case _:
            return text

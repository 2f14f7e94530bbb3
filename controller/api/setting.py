"""A setting, declared once on the field of a dataclass: its flag, variable, default and help. Pure.

The command line and the documentation are made from it (cli/options.py).
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
    """The headings of --help, in their order."""

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
    """Seconds, from 500ms, 10s, 15m, 1h or a plain number; None from never, where that is allowed."""

    least_s: float = 0.0
    never: bool = False

    def parse(self, text: str) -> float | None:
        """The seconds. Raises ValueError with a sentence."""
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
    """A whole number within these limits."""

    least: int
    most: int
    metavar: str = "COUNT"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text that `parse` reads; it raises ValueError with a sentence."""

    metavar: str
    parse: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class File:
    """The path of a file that can be read."""


@dataclass(frozen=True, slots=True)
class Switch:
    """On when the flag is given."""


Kind = Duration | Whole | Choice | Text | File | Switch


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of a setting besides the name and the type of its field."""

    flag: str
    variable: str
    section: Section
    kind: Kind
    help: str
    default: str | None
    """As it is given on the command line; None: the setting is required, or its default is found at run time."""
    shown_default: str
    """Where a default comes from that is found at run time; empty: the default itself is shown."""


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
    """A field of a dataclass that an operator can set.

    `default` is written as on the command line; `found` is the value that stands for "found at run time", and then
    `shown_default` says where. Neither: the setting is required. `variable` is VIRTSYNC_ and the flag, if left out.
    """
    name = variable or f"VIRTSYNC_{flag.removeprefix('--').replace('-', '_').upper()}"
    if isinstance(kind, Switch):
        found = False
    value = found if default is None else _parsed(kind, default)
    told = Setting(flag, name, section, kind, help, default, shown_default)
    return field(default=value, metadata={METADATA: told})


def _parsed(kind: Kind, text: str) -> Any:
    match kind:
        case Duration() | Text():
            return kind.parse(text)
        case Whole():
            return int(text)
        case _:
            return text

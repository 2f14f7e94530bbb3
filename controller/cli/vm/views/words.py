"""Colored reasons and aligned tables, as all views write them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import click

from controller.api.conditions import Readiness
from controller.presentation.vms import readiness

COLORS = {
    Readiness.READY: "green",
    Readiness.RECONCILING: "yellow",
    Readiness.STALLED: "red",
    Readiness.HELD: "cyan",
    Readiness.UNKNOWN: "magenta",
}


def colored(reason: str) -> str:
    """Return a reason of Ready in the color of its meaning."""
    return click.style(reason, fg=COLORS[readiness(reason)])


def table(rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> list[str]:
    """Return rows as lines with aligned columns. Colors have no width. `least`: the least widths of the first ones."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    widths = [max(both) for both in zip_longest(widths, least, fillvalue=0)]
    return [
        "   ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _width(cell: str) -> int:
    return len(click.unstyle(cell))

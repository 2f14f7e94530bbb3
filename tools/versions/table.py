"""The table of what was tested on which versions: on the terminal with numbers, in docs/install.md without."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import LabError
from versions.plan import AREAS, Pair

DOCUMENT = Path(__file__).parents[2] / "docs" / "install.md"
BEGIN = "<!-- Written by `make versions`. -->\n"
NOT_RUN = "–"


@dataclass
class Count:
    """How many tests of an area ran, and how many of them did not pass."""

    tests: int = 0
    failed: int = 0

    @property
    def passed(self) -> bool:
        """Whether all passed; if none ran, none passed."""
        return bool(self.tests) and not self.failed

    def __str__(self) -> str:
        return f"{self.tests} passed" if self.passed else f"{self.failed} of {self.tests} failed"


@dataclass(frozen=True)
class Row:
    """What was seen on a pair; `server` and `kubectl` are the versions that the programs print."""

    pair: Pair
    server: str
    kubectl: str
    counts: Mapping[str, Count]
    seconds: int

    @property
    def passed(self) -> bool:
        """Whether each area of the pair passed."""
        return all(self.counts[area].passed for area in self.pair.areas)


def for_terminal(rows: Sequence[Row]) -> str:
    """Numbers of tests, and seconds."""
    lines = [
        [row.server, row.kubectl, *(str(row.counts.get(area, NOT_RUN)) for area in AREAS), str(row.seconds)]
        for row in rows
    ]
    table = [["KUBE-APISERVER", "KUBECTL", *(area.upper() for area in AREAS), "SECONDS"], *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def for_document(rows: Sequence[Row]) -> str:
    """The same in Markdown, without what changes with each test that is added."""
    head = ["kube-apiserver", "kubectl", *AREAS]
    lines = [
        [row.server, row.kubectl, *(_word(row.counts[area]) if area in row.counts else NOT_RUN for area in AREAS)]
        for row in rows
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *lines))


def documented(text: str) -> str:
    """The table that is in the document; LabError if there is none."""
    found = re.search(rf"(?<={re.escape(BEGIN)})(?:\|.*\n)*", text)
    if not found:
        raise LabError(f"{DOCUMENT} has no line {BEGIN}")
    return found[0]


def write(rows: Sequence[Row]) -> None:
    """Put the table into the document, in place of the one that is there."""
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text.replace(BEGIN + documented(text), BEGIN + for_document(rows)))


def _word(count: Count) -> str:
    return "passed" if count.passed else "failed"

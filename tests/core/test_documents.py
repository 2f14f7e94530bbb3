"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "examples/**/*.md", "tools/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TARGET = re.compile(r"^([a-z0-9-]+):", re.MULTILINE)
COMMAND = re.compile(r"\bmake ([a-z0-9]+(?:-[a-z0-9]+)*)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(CODE.sub("", FENCED.sub("", document.read_text()))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_the_commands_of_make_that_they_name_are_there() -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = {name for document in DOCUMENTS for name in COMMAND.findall(_code(document.read_text()))}

    assert named <= targets
    # that the search finds any
    assert {"demo", "test", "bench"} <= named


def _code(text: str) -> str:
    """What is written to be typed: fenced, indented or between backticks."""
    indented = re.findall(r"^    .*$", text, re.MULTILINE)
    return "\n".join([*FENCED.findall(text), *CODE.findall(FENCED.sub("", text)), *indented])


def _anchors(document: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = HEADING.findall(FENCED.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

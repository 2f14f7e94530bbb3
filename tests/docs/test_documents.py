"""What the documents point at is there."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
MADE = {"build", "dist", "mutants"}
"""Folders that are no part of the project."""
DOCUMENTS = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")) if path.relative_to(ROOT).parts[0] not in MADE
)
PARSER = MarkdownIt("commonmark").enable("table")
TARGET = re.compile(r"^((?:[a-z0-9-]+ ?)+):(?!=)", re.MULTILINE)
COMMAND = re.compile(r"\bmake ([a-z0-9]+(?:-[a-z0-9]+)*)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    for link in _links(document):
        if re.match("[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in _anchors(target), link


def test_links_are_found_at_all() -> None:
    assert {"docs/api.md", "LICENSE"} <= set(_links(ROOT / "README.md"))


def test_the_commands_of_make_that_they_name_are_there() -> None:
    targets = {name for names in TARGET.findall((ROOT / "Makefile").read_text()) for name in names.split()}
    named = {name for document in DOCUMENTS for code in _code(document) for name in COMMAND.findall(code)}

    assert named <= targets
    # that the search finds any: indented, fenced and in a sentence
    assert {"demo", "chaos", "image-size"} <= named


def test_each_decision_is_in_the_index_by_its_number() -> None:
    folder = ROOT / "docs" / "adr"
    indexed = re.findall(r"^\| \[(\d{3})\]\((\S+)\) \| .+ \|$", (folder / "README.md").read_text(), re.MULTILINE)
    files = sorted(path.name for path in folder.glob("[0-9]*.md"))

    assert [name for _, name in indexed] == files
    assert [number for number, _ in indexed] == [name[:3] for name in files]
    assert [(folder / name).read_text()[:7] for name in files] == [f"# {name[:3]}: " for name in files]


def _tokens(document: Path) -> Iterator[Token]:
    for block in PARSER.parse(document.read_text()):
        yield block
        yield from block.children or []


def _links(document: Path) -> Iterator[str]:
    for token in _tokens(document):
        if place := token.attrGet("href") or token.attrGet("src"):
            yield str(place)


def _code(document: Path) -> Iterator[str]:
    """What is written to be typed: fenced, indented or between backticks."""
    return (token.content for token in _tokens(document) if token.type in {"fence", "code_block", "code_inline"})


def _anchors(document: Path) -> set[str]:
    """The anchors that a forge makes of the headings; one that comes again gets a number."""
    blocks = PARSER.parse(document.read_text())
    seen: Counter[str] = Counter()
    anchors = set()
    for opening, heading in pairwise(blocks):
        if opening.type == "heading_open":
            text = "".join(part.content for part in heading.children or [])
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return anchors

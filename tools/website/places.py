"""Where a file of the repository is in the site, and the links that lead there. Pure, except that it reads files."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^()\s#]+)((?:#[^()\s]*)?)(?=\))")
"""The target of an inline link to a file, and its anchor."""
CODE = re.compile(r"^(`{3,}).*?^\1\s*$|^(?: {4,}).*?$", re.MULTILINE | re.DOTALL)
"""Code, in which nothing is a link: fenced or indented."""


def in_site(target: Path) -> str:
    """Return the path of a file of the repository in the site, as if the site were a folder of Markdown files.

    Pages of docs/ are at the root, and other files below their own folder. A file at the root of the repository is in
    `project/`, so that SECURITY.md and docs/security.md are two pages. The README is the site's own first page.
    """
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    if target == ROOT / "README.md":
        return "README.md"
    path = target.relative_to(ROOT)
    if target.is_dir():
        path /= "README.md"
    return path.as_posix() if len(path.parts) > 1 else f"project/{path}"


def targets(page: Path) -> Iterator[Path]:
    """Return the files of the repository to which a page links. A folder with a README is its README."""
    for before, text in _split(page.read_text()):
        if not before:
            yield from (_target(page, link[1]) for link in LINK.finditer(text))


def below(target: Path) -> list[Path]:
    """Return the files of a folder and of the folders in it; none if it is no folder."""
    return sorted(path for path in target.rglob("*") if path.is_file())


def with_links_of_the_site(markdown: str, source: Path, name: str) -> str:
    """Return the page with relative links between the paths of `in_site`. `name`: the path of the page itself."""

    def moved(link: re.Match[str]) -> str:
        there = in_site(_target(source, link[1]))
        return os.path.relpath(there, PurePosixPath(name).parent) + link[2]

    return "".join(text if is_code else LINK.sub(moved, text) for is_code, text in _split(markdown))


def _target(page: Path, link: str) -> Path:
    target = (page.parent / unquote(link)).resolve()
    return target / "README.md" if (target / "README.md").exists() else target


def _split(markdown: str) -> Iterator[tuple[bool, str]]:
    """Return the parts of a page, each with whether it is code."""
    at = 0
    for code in CODE.finditer(markdown):
        yield False, markdown[at : code.start()]
        yield True, code[0]
        at = code.end()
    yield False, markdown[at:]

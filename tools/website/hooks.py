"""What MkDocs asks while it builds the site: pages outside of docs/, links to them, and long lists of pages.

On the code host, a page in docs/ links to files beside docs/ by relative paths. The site has these files too: a
Markdown file as a page, any other file as it is, and a folder as its README. So a link works in both places, and the
site needs nothing from the code host.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from website import places
from website.places import DOCS, ROOT


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder in the navigation (`reasons/`) by its pages, the README first."""
    config.nav = _expanded(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to outside of docs/, and what these pages link to."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    while waiting:
        for target in places.targets(waiting.pop()):
            for path in [target, *places.below(target)]:
                name = places.in_site(path)
                if not path.exists() or files.get_file_from_path(name):
                    continue  # MkDocs reports a link to nothing
                files.append(_file(config, name, path))
                if path.suffix == ".md":
                    waiting.append(path)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - the signature is MkDocs'
    """Let links lead to where their targets are in the site."""
    source = page.file.abs_src_path
    return places.with_links_of_the_site(markdown, Path(source), page.file.src_uri) if source else markdown


def _file(config: MkDocsConfig, name: str, path: Path) -> File:
    if path.is_dir():
        return File.generated(config, name, content=_listing(path), inclusion=InclusionLevel.NOT_IN_NAV)
    return File.generated(config, name, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV)


def _listing(folder: Path) -> str:
    """Return a page for a folder that has no README."""
    names = [path.relative_to(folder).as_posix() for path in places.below(folder)]
    return f"# {folder.relative_to(ROOT)}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


def _expanded(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_expanded(one) for one in entry]
    if isinstance(entry, dict):
        return {title: _expanded(one) for title, one in entry.items()}
    if not entry.endswith("/"):
        return entry
    pages = sorted((DOCS / entry).glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
    return [str(PurePosixPath(entry, page.name)) for page in pages]

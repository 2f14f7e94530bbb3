"""The documentation site: it has every page, shows what the code host shows, and loads nothing from elsewhere."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort

from manifests import rules
from website.places import DOCS, ROOT, in_site, targets

STRUCTURE = {"ul", "ol", "li", "table", "tr", "td", "th", "h1", "h2", "h3", "h4", "pre", "em", "strong", "img"}
COMMONMARK = MarkdownIt("commonmark").enable("table")
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"?([^\s\">]+)|<link\b([^>]*)>")
STYLE_LOADS = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")
PAGES = sorted(DOCS.rglob("*.md"))


def config(**settings: Any) -> MkDocsConfig:
    return load_config(str(ROOT / "mkdocs.yml"), **settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(config(site_dir=str(folder)))
    return folder


def page(site: Path, source: Path) -> Path:
    """The file of the site that shows a Markdown file of the repository."""
    name = site / in_site(source)
    return name.with_name("index.html") if name.name == "README.md" else name.with_suffix("") / "index.html"


def structure(html: str) -> Counter[str]:
    return Counter(tag for tag in re.findall(r"<(\w+)[ >/]", html) if tag in STRUCTURE)


def test_it_has_every_page_of_docs_and_every_file_that_these_link_to(site: Path) -> None:
    linked = {target for source in PAGES for target in targets(source) if target.is_file()}
    assert ROOT / "deploy" / "README.md" in linked
    for source in linked | set(PAGES):
        shown = page(site, source) if source.suffix == ".md" else site / in_site(source)
        assert shown.exists(), source


def test_the_home_page_leads_to_every_page_that_is_in_no_folder() -> None:
    home = DOCS / "README.md"
    linked = {target.resolve() for target in targets(home)}
    assert [page.name for page in DOCS.glob("*.md") if page != home and page.resolve() not in linked] == []


@pytest.mark.parametrize("source", [*PAGES, ROOT / "deploy/flux/README.md"], ids=lambda it: str(it.relative_to(ROOT)))
def test_a_page_has_the_lists_and_tables_that_the_code_host_shows(site: Path, source: Path) -> None:
    article = page(site, source).read_text().partition("<article")[2].partition("</article>")[0]
    assert structure(article) == structure(COMMONMARK.render(source.read_text()))


def test_an_alert_leads_to_its_runbook(site: Path) -> None:
    for alert in rules.alerts():
        path = alert["annotations"]["runbook_url"].removeprefix("https://virtsync.dev/")
        assert (site / path / "index.html").exists(), path


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = set()
    for file in site.rglob("*.html"):
        for source, link in LOADED.findall(file.read_text()):
            rel, href = (re.search(rf'\b{name}="?([^\s">]+)', link) for name in ("rel", "href"))
            if source or (rel and href and rel[1] not in {"canonical", "prev", "next"}):
                loaded.add(source or (href[1] if href else ""))
    for file in site.rglob("*.css"):
        loaded |= {one or other for one, other in STYLE_LOADS.findall(file.read_text())}
    assert any(name.endswith(".css") for name in loaded)
    assert [name for name in loaded if re.match(r"(?:https?:)?//", name)] == []


def test_search_finds_the_text_of_a_page(site: Path) -> None:
    assert "the brake" in (site / "search" / "search_index.json").read_text()


@pytest.mark.parametrize("link", ["missing.md", "README.md#missing", "../deploy/missing.yaml", "/README.md"])
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path, link: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "README.md").write_text(f"# Title\n\nSee [there]({link}).\n")
    with pytest.raises(Abort):
        build(config(docs_dir=str(docs), site_dir=str(tmp_path / "site"), nav=["README.md"], hooks=[]))

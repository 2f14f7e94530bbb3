"""The pictures of docs/pictures: readable in light and dark and by a screen reader, and they load nothing."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = sorted((DOCS / "pictures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
DARK = re.compile(r"@media \(prefers-color-scheme: dark\) \{(.*?)\n    \}", re.DOTALL)


def colors(style: str) -> dict[tuple[str, str], str]:
    """The color of each property of each selector, except `none`."""
    rules = re.findall(r"([.\w]+) \{ ([^}]*) \}", style)
    found = {
        (selector, name): value
        for selector, body in rules
        for name, value in re.findall(r"(fill|stroke): (#\w+)", body)
    }
    assert found
    return found


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2, from 0 (black) to 1 (white)."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2, from 1 to 21."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_there_are_pictures() -> None:
    assert PICTURES


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
class TestPicture:
    def test_it_is_shown_on_a_page(self, picture: Path) -> None:
        assert any(f"pictures/{picture.name})" in page.read_text() for page in DOCS.rglob("*.md"))

    def test_a_screen_reader_has_a_title_and_a_description(self, picture: Path) -> None:
        root = ElementTree.parse(picture).getroot()  # noqa: S314 - it is ours
        for part in ("title", "desc"):
            element = root.find(f"{SVG}{part}")
            assert element is not None
            assert element.get("id") in root.get("aria-labelledby", "").split()
            assert (element.text or "").strip()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_the_contrast_of_wcag_aa_on_every_box(self, picture: Path, scheme: str) -> None:
        text = picture.read_text()
        dark = DARK.search(text)
        assert dark
        light = colors(text[: dark.start()])
        shown = light if scheme == "light" else colors(dark[1])
        assert shown.keys() == light.keys()
        for selector in ("text", ".small"):
            for box in (".panel", ".box", ".ours"):
                assert contrast(shown[selector, "fill"], shown[box, "fill"]) >= 4.5, (selector, box)

    def test_it_loads_nothing(self, picture: Path) -> None:
        assert re.findall(r"(?:href|src)=|url\((?!#)|@import", picture.read_text()) == []

"""HTML is built so that no text can become markup."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.page.markup import Html, joined, tag

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></tr></table>",
    "&lt;b&gt; &amp; &#x3c;",
    "<!-- -->",
    "]]>",
]


class Read(HTMLParser):
    """Collects the elements and the text, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_text_in_content_and_attributes(text: str) -> None:
    read = Read(tag("td", text, title=text))
    assert read.elements == [("td", {"title": text})]
    assert read.text == text


@settings(derandomize=True, database=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")))
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    read = Read(tag("td", "a", text, "b", title=text))
    assert read.elements == [("td", {"title": text})]
    assert read.text == f"a{text}b"


def test_only_what_a_tag_has_made_is_markup() -> None:
    assert tag("p", tag("b", "1 < 2"), "<i>") == "<p><b>1 &lt; 2</b>&lt;i&gt;</p>"
    assert joined([tag("b", "x"), "<b>"]) == "<b>x</b>&lt;b&gt;"
    assert isinstance(joined(["a"]), Html)


def test_to_change_html_as_text_makes_it_a_text_again() -> None:
    changed = tag("b", "x") + "<i>"
    assert not isinstance(changed, Html)
    assert tag("p", changed) == "<p>&lt;b&gt;x&lt;/b&gt;&lt;i&gt;</p>"


def test_attributes_can_be_left_out_or_have_no_value() -> None:
    assert tag("input", name="a", checked=True, title=None, disabled=False, class_="b") == (
        '<input name="a" checked class="b">'
    )
    assert tag("tr", data_key="x/y", aria_label="") == '<tr data-key="x/y" aria-label=""></tr>'

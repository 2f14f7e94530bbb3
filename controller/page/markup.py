"""Builds HTML that cannot be broken by the texts in it. Pure.

A text that is not `Html` is escaped, in content and in attributes, so a name or message of an object never becomes
markup. Only `tag` and `joined` make `Html`.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = frozenset({"input", "link", "meta", "wbr"})
"""The elements that have no content and no end tag."""


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str | bool | None) -> Html:
    """Return an element.

    An attribute that is None or False is left out; one that is True has no value. `class_` is `class`, and `data_key`
    is `data-key`.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in {None, False})
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(content)}</{name}>")


def joined(content: Iterable[str]) -> Html:
    """Return these contents one after the other."""
    return Html("".join([one if isinstance(one, Html) else escape(one) for one in content]))


def _attribute(key: str, value: str | bool | None) -> str:  # noqa: FBT001 - as HTML has them
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'

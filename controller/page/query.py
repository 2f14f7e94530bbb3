"""What a person has chosen to see, in the query of the page's address. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode

from controller.presentation.words import plain

LONGEST = 253
"""The longest value in characters: a node can have a name of this length."""
LAST_PAGE = 100_000
PAGE_NUMBER = re.compile("[0-9]{1,6}")
FIELDS_LIMIT = 20


class Sort(StrEnum):
    """An order of the VMs."""

    TROUBLE = "trouble"
    NEWEST = "newest"
    NAME = "name"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Query:
    """The filters, the order and the pages. An empty filter lets everything pass."""

    node: str = ""
    namespace: str = ""
    reason: str = ""
    text: str = ""
    """Only VMs that have this in their namespace and name, node, power state, reason or message."""
    drift: bool = False
    """Only VMs that are not as wanted."""
    sort: Sort = Sort.TROUBLE
    page: int = 1
    hosts_page: int = 1

    def changed(self, **changes: Any) -> Query:
        """Return the query with these changes. If a filter or the order changes, the VMs begin at their first page."""
        return replace(self, **({"page": 1} if changes.keys() - {"page", "hosts_page"} else {}) | changes)

    @property
    def filtered(self) -> bool:
        """Whether some VMs might be left out."""
        return bool(self.node or self.namespace or self.reason or self.text or self.drift)

    def address(self) -> str:
        """Return the relative address of the page, without what has its default."""
        chosen = {
            field.name: _written(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
        return f"./?{urlencode(chosen)}" if chosen else "./"


def parse_query(text: str) -> Query:
    """Return the query of an address. What cannot be read has its default."""
    try:
        given = dict(parse_qsl(text, max_num_fields=FIELDS_LIMIT))
    except ValueError:
        return Query()
    sort = given.get("sort")
    return Query(
        **{name: plain(given.get(name, ""))[:LONGEST] for name in ("node", "namespace", "reason", "text")},
        drift=bool(given.get("drift")),
        sort=Sort(sort) if sort in set(Sort) else Sort.TROUBLE,
        page=_page(given.get("page")),
        hosts_page=_page(given.get("hosts_page")),
    )


def _page(text: str | None) -> int:
    if not text or not PAGE_NUMBER.fullmatch(text):
        return 1
    return number if 1 <= (number := int(text)) <= LAST_PAGE else 1


def _written(value: object) -> str:
    return "1" if value is True else str(value)

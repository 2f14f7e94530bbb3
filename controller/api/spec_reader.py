"""Reads the fields of a spec, and collects those that this version does not understand. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TypeVar

from controller.api.json_mapping import as_map
from controller.api.text import sanitized

QUOTE_LIMIT = 80
"""The maximum length in bytes of each value that `misunderstood` quotes."""

V = TypeVar("V")


class SpecReader:
    """Reads a spec, or a map in a spec. No method raises an exception."""

    def __init__(self, raw: object, path: str = "spec", misunderstood: list[str] | None = None) -> None:
        self.raw, self._path = as_map(raw), path
        self.misunderstood = [] if misunderstood is None else misunderstood
        """A phrase for each field that is not understood, such as `spec.powerState "Hibernated"`. The readers of a spec
        and of its maps share it."""
        if not isinstance(raw, dict):
            self.note(raw)

    def map(self, field: str) -> SpecReader:
        """Return a reader of the map in this field."""
        return SpecReader(self.raw.get(field), f"{self._path}.{field}", self.misunderstood)

    def value(self, field: str, read: Callable[[object], V | None]) -> V | None:
        """Return the value of this field; None if the field is absent or `read` does not understand its value."""
        raw = self.raw.get(field)
        value = read(raw)
        if value is None:
            self.note(raw, field)
        return value

    def note(self, value: object, field: str = "") -> None:
        """Collect this value of a field, or of the whole map, as not understood, unless it is empty."""
        if value not in (None, "", {}):
            self.note_even_empty(value, field)

    def note_even_empty(self, value: object, field: str = "") -> None:
        """Collect this value of a field, or of the whole map, as not understood."""
        where = f"{self._path}.{sanitized(field, QUOTE_LIMIT)}" if field else self._path
        self.misunderstood.append(f"{where} {sanitized(json.dumps(value, ensure_ascii=False), QUOTE_LIMIT)}")

    def note_others(self, known: Collection[str]) -> None:
        """Collect all fields but the known ones as not understood, unless they are empty."""
        for field, value in self.raw.items():
            if field not in known:
                self.note(value, field)

"""Maps a dataclass to a JSON object and back, as its fields declare. Pure.

The JSON name of a field is its Python name in camel case (`node_boot_id` is `nodeBootID`), or the name in its metadata.
Its type says which values can be read; a value that cannot be read counts as absent. An absent field has the default
that the dataclass declares. Without a declared default, a string is empty, a number is 0, a flag is False, and an enum
has its member UNKNOWN. Any other field is required: an object without this field counts as absent. An object of which
no field can be read counts as absent too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from enum import EnumType, StrEnum
from functools import lru_cache
from operator import attrgetter
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints
from uuid import UUID

from controller.api.clock import api_time

LAST_YEAR = 9000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
CAPITALS = {"Id": "ID", "Uuid": "UUID", "Mib": "MiB"}

Json = dict[str, Any]
"""A JSON object."""
Reader = Callable[[Any], Any]
"""Returns the value of a field; None if the JSON value cannot be read. Never raises."""
Writer = Callable[[Any], Any]
Complete = Callable[[dict[str, Any], Json], bool]
"""Completes the values that were read from a JSON object. Returns False if the object counts as absent."""
_Field = tuple[str, str, Reader, Writer | None]
"""The JSON key of a field, its name in the dataclass, and its converters. No writer: JSON has the same value."""
T = TypeVar("T")
W = TypeVar("W", bound=StrEnum)


def named(name: str) -> Mapping[str, Any]:
    """Return the metadata of a field that has this JSON name. `libvirt.state` is the field `state` of a map."""
    return {"name": name}


def whole(least: int = 0, most: int = INT32_MAX) -> Mapping[str, Any]:
    """Return the metadata of an integer field that has these limits. The default limits need no metadata."""
    return {"least": least, "most": most}


class Mapper(Generic[T]):
    """Reads and writes the objects of one dataclass. Immutable, so thread-safe. Reading never raises."""

    def __init__(self, cls: type[T], complete: Complete | None = None, **parts: Mapper[Any]) -> None:
        """`parts` has the mappers of the fields for which the type does not say enough, by the name of the field."""
        self._cls, self._complete = cls, complete
        hints, found = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]  # the bound cannot say: a dataclass
        maps: dict[str, list[_Field]] = {"": []}
        for field in found:
            converters = _converters(hints[field.name], field.metadata, parts.get(field.name))
            path, _, key = field.metadata.get("name", _camel_case(field.name)).rpartition(".")
            maps.setdefault(path, []).append((key, field.name, *converters))
        self._top, self._maps = _Fields(maps.pop("")), {path: _Fields(inner) for path, inner in maps.items()}
        undeclared = {f.name: hints[f.name] for f in found if f.default is f.default_factory is MISSING}
        self._required = {name for name, hint in undeclared.items() if _is_required(hint)}
        self._absent = {name: _empty(hint) for name, hint in undeclared.items() if name not in self._required}

    def read(self, raw: object) -> T | None:
        """Return the object; None if it counts as absent."""
        if not isinstance(raw, dict):
            return None
        values = self._top.read(raw)
        for path, inner in self._maps.items():
            values |= inner.read(as_map(raw.get(path)))
        if self._complete and not self._complete(values, raw):
            return None
        if not values or not values.keys() >= self._required:
            return None
        return self._cls(**(self._absent | values))

    def read_all(self, raw: object) -> tuple[T, ...] | None:
        """Return the objects of a list, without those that count as absent; None if this is no list."""
        if not isinstance(raw, list):
            return None
        return tuple([item for entry in raw if (item := self.read(entry)) is not None])

    def write(self, value: T) -> Json:
        """Return the object as JSON with every key. The value of an unset key is None or empty."""
        written = self._top.write(value)
        for path, inner in self._maps.items():
            written[path] = inner.write(value)
        return written

    def write_all(self, values: tuple[T, ...]) -> list[Json]:
        """Return the objects as a list of JSON objects."""
        return [self.write(value) for value in values]


class _Fields:
    """The fields of a dataclass that are keys of the same JSON map."""

    def __init__(self, found: list[_Field]) -> None:
        self._readers = {key: (name, read) for key, name, read, _ in found}
        self._keys = [key for key, *_ in found]
        self._values_of = attrgetter(*(name for _, name, *_ in found))
        self._writers = [(key, write) for key, *_, write in found if write]

    def read(self, raw: Json) -> dict[str, Any]:
        """Return the values that can be read, by the name of the field."""
        values = {}
        for key, item in raw.items():
            if key in self._readers:
                name, read = self._readers[key]
                if (value := read(item)) is not None:
                    values[name] = value
        return values

    def write(self, value: object) -> Json:
        written = dict(zip(self._keys, self._values_of(value), strict=True))
        for key, write in self._writers:
            if (item := written[key]) is not None:
                written[key] = write(item)
        return written


def _converters(hint: Any, metadata: Mapping[str, Any], part: Mapper[Any] | None) -> tuple[Reader, Writer | None]:
    kind = _kind(hint)
    if is_dataclass(kind):
        mapper: Mapper[Any] = part or Mapper(kind)
        return (mapper.read_all, mapper.write_all) if get_origin(hint) is tuple else (mapper.read, mapper.write)
    if issubclass(kind, StrEnum):
        return words(kind), None
    if kind is int:
        most = metadata.get("most", INT32_MAX)
        return whole_within(metadata.get("least", 0), most), lambda number: min(number, most)
    return LEAVES[kind]


def _kind(hint: Any) -> type[Any]:
    """Return the type of the value in an optional field, or of the items in a list."""
    kind: type[Any] = next(arg for arg in get_args(hint) or (hint,) if arg is not NoneType)
    return kind


def _is_required(hint: Any) -> bool:
    return hint in {datetime, UUID} or (isinstance(hint, EnumType) and "UNKNOWN" not in hint.__members__)


def _empty(hint: Any) -> Any:
    """Return the value of an absent field for which the dataclass declares no default."""
    return hint() if hint in {str, int, bool} else getattr(hint, "UNKNOWN", None)


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(CAPITALS.get(word, word) for word in (part.capitalize() for part in rest))


def json_paths(cls: type) -> Iterator[str]:
    """Yield the path of each JSON key of a dataclass, and of the dataclasses in it, such as `operation.type`.

    The path of a key in the items of a list is the same as if there were no list.
    """
    hints = get_type_hints(cls)
    for field in fields(cls):
        path = field.metadata.get("name", _camel_case(field.name))
        yield path
        kind = _kind(hints[field.name])
        if is_dataclass(kind):
            yield from (f"{path}.{below}" for below in json_paths(kind))


def words(kind: type[W]) -> Callable[[object], W | None]:
    """Return a reader of the words of an enum. It returns None for other values, as for a word of a newer version."""
    known = {str(word): word for word in kind}
    return lambda text: known.get(text) if isinstance(text, str) else None


def whole_within(least: int, most: int) -> Callable[[object], int | None]:
    """Return a reader of whole numbers within these limits. It returns None for any other value."""
    return lambda value: (
        value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else None
    )


def as_map(value: object) -> Json:
    """Return the value if it is a map, otherwise an empty map."""
    return value if isinstance(value, dict) else {}


def as_text(value: object) -> str | None:
    """Return the value if it is a string, otherwise None."""
    return value if isinstance(value, str) else None


def as_flag(value: object) -> bool | None:
    """Return the value if it is true or false, otherwise None."""
    return value if isinstance(value, bool) else None


def as_uuid(text: object) -> UUID | None:
    """Return the UUID; None if it cannot be read."""
    try:
        return _uuid(text) if isinstance(text, str) else None
    except ValueError:
        return None


_uuid = lru_cache(maxsize=4096)(UUID)
"""Each status of a VM repeats two UUIDs; without this cache, they take an eighth of the time of a status (measured)."""


def as_time(text: object) -> datetime | None:
    """Parse a time, and return it in UTC; None if it cannot be read, or is not between the years 1970 and 9000.

    The limits exist because calculations with times outside of them might overflow.
    """
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not UTC:
            time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return time if EPOCH.year <= time.year <= LAST_YEAR else None


LEAVES: Mapping[type, tuple[Reader, Writer | None]] = {
    str: (as_text, None),
    bool: (as_flag, None),
    UUID: (as_uuid, str),
    datetime: (as_time, api_time),
}

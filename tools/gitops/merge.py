"""How a change is merged into an object."""

from typing import Any

Json = dict[str, Any]


def merged(old: Json, changes: Json) -> Json:
    """The object with these changes; a dictionary is merged into the one that it changes."""
    return old | {
        key: merged(old.get(key, {}), value) if isinstance(value, dict) else value for key, value in changes.items()
    }

"""Builds the merge patch of a status that has several writers. Pure. docs/adr/017 explains the rules."""

from __future__ import annotations

from collections.abc import Collection

from controller.api.json_mapping import Json

CONDITIONS_LIMIT = 16
"""The maximum number of conditions in a status, as in the CRD."""
EMPTY: tuple[object, ...] = (None, "", {})


def merge_patch(raw: Json, wanted: Json, condition_types: Collection[str]) -> Json | None:
    """Return the merge patch that changes the status `raw` to the wanted one; None if nothing changes.

    `wanted` has every key that the writer owns, and the value of an unset key is None or empty. At each level the patch
    has only these keys, so that the keys of newer agents and of other writers stay unchanged. To remove a key of its
    own, the patch sets it to null, as a merge patch requires. A merge patch replaces a list as a whole, so the new list
    of conditions also has those of other types than `condition_types`.
    """
    conditions = _with_foreign_conditions(raw.get("conditions"), wanted["conditions"], condition_types)
    return _difference(raw, {**wanted, "conditions": conditions}) or None


def without_empty(value: Json) -> Json:
    """Return the map without keys whose value is None, an empty text, or a map that is or becomes empty."""
    kept: Json = {}
    for key, item in value.items():
        cleaned = without_empty(item) if isinstance(item, dict) else item
        if cleaned or cleaned not in EMPTY:
            kept[key] = cleaned
    return kept


def _with_foreign_conditions(old: object, ours: list[Json], types: Collection[str]) -> list[Json]:
    """Return our conditions, followed by the old conditions of other types up to `CONDITIONS_LIMIT`.

    Returns the old list itself if it has exactly these conditions, in whatever order.
    """
    found = old if isinstance(old, list) else []
    others = [c for c in found if isinstance(c, dict) and _is_foreign(c.get("type"), types)]
    wanted = [*ours, *others[: CONDITIONS_LIMIT - len(ours)]]
    same = len(found) == len(wanted) and all(condition in found for condition in wanted)
    return found if same else wanted


def _is_foreign(condition_type: object, ours: Collection[str]) -> bool:
    return isinstance(condition_type, str) and condition_type != "" and condition_type not in ours


def _difference(old: Json, new: Json) -> Json:
    """Return the merge patch that sets the keys of `new` to their values, and changes no other key."""
    patch: Json = {}
    for key, value in new.items():
        before, after = old.get(key), without_empty(value) if isinstance(value, dict) else value
        if not after and after in EMPTY:
            if before is not None:
                patch[key] = None
        elif isinstance(value, dict) and isinstance(before, dict):
            if inner := _difference(before, value):
                patch[key] = inner
        elif before != after:
            patch[key] = after
    return patch

"""Copies frozen values with changed fields. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # mypy knows this function and checks the field names of each call
    from dataclasses import replace as replace  # noqa: PLC0414 - re-exported for importers of this module
else:
    import dataclasses

    def replace(value, **fields):
        """Return a copy with these fields, as `dataclasses.replace` does; `value` itself if all of them are equal (==).

        A copy of a status takes 5 us. A decision calls this 19 times, and most of the calls change nothing (measured).
        """
        if all(getattr(value, name) == new for name, new in fields.items()):
            return value
        return dataclasses.replace(value, **fields)

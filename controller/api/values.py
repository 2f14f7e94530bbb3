"""Copies of frozen values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # mypy knows this function and checks the field names of each call
    from dataclasses import replace as replace  # noqa: PLC0414 - re-exported for importers of this module
else:
    import dataclasses

    def replace(value, **fields):
        """`dataclasses.replace`, but returns `value` itself if nothing changes.

        A copy of a status takes 5 us, and a decision makes 19 calls, most of which change nothing (measured).
        """
        if all(getattr(value, name) == new for name, new in fields.items()):
            return value
        return dataclasses.replace(value, **fields)

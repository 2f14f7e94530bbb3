"""Times and foreign texts, as the commands and the page write them. Pure."""

from __future__ import annotations

import sys
from datetime import datetime

from controller.api.clock import api_time, duration
from controller.api.json_mapping import EPOCH
from controller.api.text import sanitized
from controller.api.virtualmachine import Condition

TEXT_LIMIT = 4096
"""The longest text from outside in a line, in bytes."""


def ago(time: datetime, now: datetime) -> str:
    """Return how long ago a time is, with the time: `12m ago (2026-11-27T10:00:00Z)`."""
    return f"{duration((now - time).total_seconds())} ago ({api_time(time)})"


def at(time: datetime, now: datetime) -> str:
    """Return a time, and how far away it is: `2026-11-27T10:00:00Z (in 12m)`."""
    left_s = (time - now).total_seconds()
    distance = f"in {duration(left_s)}" if left_s > 0 else f"{duration(-left_s)} ago"
    return f"{api_time(time)} ({distance})"


def since(condition: Condition | None) -> datetime | None:
    """Return since when a condition has its status; None: nobody has reported yet.

    A new object has conditions that the API server adds, with a time in 1970.
    """
    return condition.last_transition_time if condition and condition.last_transition_time != EPOCH else None


def plain(text: str) -> str:
    """Return a text that others have written on one line, without what a terminal would obey."""
    return sanitized(text, TEXT_LIMIT)


def plain_list(text: str) -> str:
    """Return the same of a text that lists things, which must not be cut."""
    return sanitized(text, sys.maxsize)

"""Limits what is remembered about domains: libvirt does not always say that a domain is gone."""

from __future__ import annotations

from typing import Any
from uuid import UUID

REMEMBERED = 20_000
"""The maximum number of domains about which one thing is remembered. No host has more domains."""


def forget_oldest(known: dict[UUID, Any]) -> None:
    """Remove the oldest entry if there are too many. Call this after each entry that is added."""
    if len(known) > REMEMBERED:
        del known[next(iter(known))]

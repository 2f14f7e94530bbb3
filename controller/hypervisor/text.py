"""What libvirt says, fit to be shown: its words may hold those of QEMU, and those of a guest."""

from __future__ import annotations

import re

import libvirt

LIMIT = 1000
STAMP = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z:? ?")
"""QEMU puts the time before its words: with it no two failures would be the same."""
UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def text(error: libvirt.libvirtError) -> str:
    """libvirt's words on one line of bounded length, without control characters and times."""
    return UNPRINTABLE.sub(" ", STAMP.sub("", str(error.get_error_message() or error))).strip()[:LIMIT]

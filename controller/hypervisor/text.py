"""Messages of libvirt, made safe to show. They may contain output of QEMU, and so text that a guest chose."""

from __future__ import annotations

import libvirt

from controller.api.text import sanitized, without_log_times

LIMIT_BYTES = 4000
"""Enough for 1000 characters of any script: a character of UTF-8 has at most 4 bytes."""


def error_text(error: libvirt.libvirtError) -> str:
    """The message of a libvirt error: one line of at most `LIMIT_BYTES`, without control characters and log times."""
    return sanitized(without_log_times(str(error.get_error_message() or error)), LIMIT_BYTES)

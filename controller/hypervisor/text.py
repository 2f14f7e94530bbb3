"""Makes libvirt's error messages safe to show. A message can contain output of QEMU, and thus text from a guest."""

from __future__ import annotations

import libvirt

from controller.api.text import sanitized, without_log_times

LIMIT_BYTES = 4000
"""The maximum size of a message. It can have 1000 characters of any script, of at most 4 bytes each in UTF-8."""


def error_text(error: libvirt.libvirtError) -> str:
    """Return the error's message as one line of at most `LIMIT_BYTES`, without control characters and log times."""
    return sanitized(without_log_times(str(error.get_error_message() or error)), LIMIT_BYTES)

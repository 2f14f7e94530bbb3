"""Text that others wrote: sanitized before it is shown, and compared without the parts that differ each time.

Pure. The messages of libvirt and QEMU, and the values that users write, may contain times, process ids, several lines
and control characters.
"""

from __future__ import annotations

import re

ELLIPSIS = "…"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_ESCAPE = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences, such as colors (ECMA-48)
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # strings, such as a window's title
    r"|\x1b[ -/]*[0-~]"  # all other escape sequences, such as a reset
)
_LINE_BREAK = r"[ \t]*[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029][\s\x1c-\x1f\x85]*"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]"
_UNSAFE = re.compile(f"(?P<escape>{_ESCAPE})|(?P<line_break>{_LINE_BREAK})|(?P<control>{_CONTROL})")

_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z\b|[+-]\d\d:?\d\d))?"
_LOG_TIME = re.compile(rf"{_TIME}:? (?=[\w./+-]+(?:\[\d+\])?: )")
"""The time that a program writes before its name in a log line: `2026-01-01T00:00:00.000000Z qemu-system-x86_64: `."""
_VARIABLE = re.compile(
    rf"{_TIME}"
    r"|\b\d\d:\d\d:\d\d(?:\.\d+)?Z?"
    r"|\b0x[0-9a-fA-F]+"
    r"|(?i:\b(?:pid|tid|process|thread|fd|fdset|port)[ =:]*\d+)"
    r"|(?<=[\w)])\[\d+\]"
    r"|\bdomain-\d+-"
)
"""Parts that differ with each run: times, addresses, process ids, descriptors, ports, libvirt's folder of the run."""


def sanitized(text: str, limit_bytes: int) -> str:
    """The text on one line, without escape sequences and control characters, cut to `limit_bytes` of UTF-8.

    A cut text ends in "…". A text has no more characters than bytes, so the limit also holds for an API that counts
    characters. Never raises, for any text.
    """
    return _cut(_UNSAFE.sub(_safe, text).strip(), limit_bytes)


def without_log_times(text: str) -> str:
    """The text without the times that programs write before their names in log lines; other times stay."""
    return _LOG_TIME.sub("", text)


def comparable(text: str) -> str:
    """The text for comparison only: the same for two failures that differ only in times, process ids and addresses."""
    return _VARIABLE.sub("#", without_log_times(text))


def _safe(found: re.Match[str]) -> str:
    if found["escape"]:
        return ""
    return " " if found["line_break"] else REPLACEMENT


def _cut(text: str, limit_bytes: int) -> str:
    """The first bytes of the text, never half a character."""
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    room = limit_bytes - len(ELLIPSIS.encode())
    if room < 0:
        return encoded[: max(limit_bytes, 0)].decode(errors="ignore")
    return encoded[:room].decode(errors="ignore") + ELLIPSIS

"""Sanitizes text from outside before virtsync shows it, and makes messages comparable. Pure.

The messages of libvirt and QEMU, and the values that users write, can contain times, process ids, several lines and
control characters.
"""

from __future__ import annotations

import re

ELLIPSIS = "…"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_ESCAPE = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences, such as colors (ECMA-48)
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])"  # strings, such as a window's title
    r"[^\x07\x1b\x9c\x9d\x90\x98\x9e\x9f]*+(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"  # all other escape sequences, such as a reset
)
_LINE_BREAK = r"(?<![ \t])[ \t]*[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029][\s\x1c-\x1f\x85]*"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]"
_UNSAFE = re.compile(f"(?P<escape>{_ESCAPE})|(?P<line_break>{_LINE_BREAK})|(?P<control>{_CONTROL})")
"""What is not shown as it is.

The time to find it must not grow with the square of the length: `re` holds the interpreter lock, and an annotation can
have 256 KiB. Therefore a match begins only at the first of several blanks, and a string has no second beginning inside.
"""

_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z\b|[+-]\d\d:?\d\d))?"
_LOG_TIME = re.compile(rf"{_TIME}:? (?=[\w./+-]+(?:\[\d+\])?: )")
"""A time that a program writes before its name in a log line: `2026-01-01T00:00:00.000000Z qemu-system-x86_64: `."""
_VARIABLE = re.compile(
    rf"{_TIME}"
    r"|\b\d\d:\d\d:\d\d(?:\.\d+)?Z?"
    r"|\b0x[0-9a-fA-F]+"
    r"|(?i:\b(?:pid|tid|process|thread|fd|fdset|port)[ =:]*\d+)"
    r"|(?<=[\w)])\[\d+\]"
    r"|\bdomain-\d+-"
)
"""The parts of a message that differ at each start of a VM: times, memory addresses, process ids, file descriptors,
ports, and the name of libvirt's directory for the domain."""


def sanitized(text: str, limit_bytes: int) -> str:
    """Return the text on one line, without escape sequences, cut to `limit_bytes` of UTF-8. Never raises.

    Other control characters are replaced. A cut text ends in "…". The text can also be used where an API limits the
    number of characters, because a text has at most as many characters as bytes.
    """
    return _cut(_UNSAFE.sub(_safe, text).strip(), limit_bytes)


def without_log_times(text: str) -> str:
    """Return the text without the times that programs write before their names in log lines. Keeps other times."""
    return _LOG_TIME.sub("", text)


def comparable(text: str) -> str:
    """Return a text for comparison: two messages that differ only in times, process ids and the like become equal."""
    return _VARIABLE.sub("#", without_log_times(text))


def _safe(found: re.Match[str]) -> str:
    if found["escape"]:
        return ""
    return " " if found["line_break"] else REPLACEMENT


def _cut(text: str, limit_bytes: int) -> str:
    """Cut the text to this number of bytes of UTF-8, and never inside a character."""
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    room = limit_bytes - len(ELLIPSIS.encode())
    if room < 0:
        return encoded[: max(limit_bytes, 0)].decode(errors="ignore")
    return encoded[:room].decode(errors="ignore") + ELLIPSIS

"""Words of others, made harmless before they are shown, and compared without what differs each time.

Pure. libvirt, QEMU and users write what they like: times, process ids, several lines, control characters.
"""

from __future__ import annotations

import re

ELLIPSIS = "…"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_ESCAPE = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences, such as colours (ECMA-48)
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # strings, such as a window's title
    r"|\x1b[ -/]*[0-~]"  # all other escape sequences, such as a reset
)
_LINE_BREAK = r"[ \t]*[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029][\s\x1c-\x1f\x85]*"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]"
_WILD = re.compile(f"(?P<escape>{_ESCAPE})|(?P<line_break>{_LINE_BREAK})|(?P<control>{_CONTROL})")

_MOMENT = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z\b|[+-]\d\d:?\d\d))?"
_LOG_TIME = re.compile(rf"{_MOMENT}:? (?=[\w./+-]+(?:\[\d+\])?: )")
"""A time that a program has put in front of its own name: `2026-01-01T00:00:00.000000Z qemu-system-x86_64: `."""
_PASSING = re.compile(
    rf"{_MOMENT}"
    r"|\b\d\d:\d\d:\d\d(?:\.\d+)?Z?"
    r"|\b0x[0-9a-fA-F]+"
    r"|(?i:\b(?:pid|tid|process|thread|fd|fdset|port)[ =:]*\d+)"
    r"|(?<=[\w)])\[\d+\]"
    r"|\bdomain-\d+-"
)
"""What is another with each run: times, addresses, process ids, descriptors, ports, and libvirt's folders of a run."""


def tamed(text: str, limit: int) -> str:
    """The text in one line, without what could change a terminal, in at most so many bytes of UTF-8.

    It has no more characters than bytes, so one limit serves an API that counts either. Never raises, for any text.
    """
    return _cut(_WILD.sub(_tame, text).strip(), limit)


def untimed(text: str) -> str:
    """The text without the times that programs put in front of their names when they write a log."""
    return _LOG_TIME.sub("", text)


def gist(text: str) -> str:
    """What a text says, for comparison only: the same for two failures that differ in times, process ids, addresses."""
    return _PASSING.sub("#", untimed(text))


def _tame(wild: re.Match[str]) -> str:
    if wild["escape"]:
        return ""
    return " " if wild["line_break"] else REPLACEMENT


def _cut(text: str, limit: int) -> str:
    """The text within so many bytes, never in the middle of a character."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    room = limit - len(ELLIPSIS.encode())
    if room < 0:
        return encoded[: max(limit, 0)].decode(errors="ignore")
    return encoded[:room].decode(errors="ignore") + ELLIPSIS

"""Any text that others wrote is shown as one safe line, and a repeated failure is recognized."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.text import comparable, sanitized, without_log_times

FIXED = settings(derandomize=True, database=None)
UNSAFE = st.text(
    st.sampled_from("\x1b\x9b\x9d[]m0;1 \n\t\r\x00\x07\x7f\u2028\u202e\ud800aé東\U0001f600\\"), max_size=40
)
ANY = st.text(st.characters(exclude_categories=[])) | UNSAFE


@FIXED
@given(ANY, st.integers(-1, 60))
def test_any_text_becomes_one_safe_line_within_the_limit(text: str, limit: int) -> None:
    shown = sanitized(text, limit)
    assert len(shown) <= len(shown.encode()) <= max(limit, 0)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ufeff]", shown)


@FIXED
@given(ANY)
def test_sanitized_text_stays_as_it_is(text: str) -> None:
    shown = sanitized(text, 10_000)
    assert sanitized(shown, 10_000) == shown


@FIXED
@given(ANY)
def test_any_text_can_be_compared_with_and_without_log_times(text: str) -> None:
    assert comparable(text) == comparable(without_log_times(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Cannot access storage file '/a  b'", "Cannot access storage file '/a  b'"),
        ("東京 – Zürich \U0001f600", "東京 – Zürich \U0001f600"),
        ("one\r\n\ttwo\n", "one two"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1bcreset", "reset"),
        ("\x9b31mred", "red"),
        ("nothing\x00 \x1b", "nothing\ufffd \ufffd"),
        ("cod.exe\u202etxt", "cod.exe\ufffdtxt"),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_sanitized_text(text: str, shown: str) -> None:
    assert sanitized(text, 100) == shown


@pytest.mark.parametrize("part", [" ", "\t", "\x9d", "\x9d\x90", "\x1b]", "\x9b", "\x1b ", "\u2028 "])
def test_no_text_takes_much_longer_than_letters(part: str) -> None:
    """The whole agent waits meanwhile. With the square of the length, it is 1000 times as long."""
    letters, odd = (min(seconds(text * (20_000 // len(text))) for _ in range(3)) for text in ("a", part))
    assert odd < 100 * letters


def seconds(text: str) -> float:
    """The processor time that it takes to make a text safe."""
    began_s = time.thread_time()
    sanitized(text, 32768)
    return time.thread_time() - began_s


def test_a_long_text_is_cut_between_characters_and_says_so() -> None:
    assert sanitized("ü" * 10, 20) == "ü" * 10
    assert sanitized("ü" * 11, 20) == "ü" * 8 + "…"


QEMU = (
    "internal error: QEMU unexpectedly closed the monitor (vm='web'): {} qemu-system-x86_64: -drive file=/a: no medium"
)


def test_the_time_before_a_message_of_qemu_is_not_shown_and_makes_no_difference() -> None:
    first, second = (QEMU.format(f"2026-01-01T00:00:{second}.123456Z") for second in ("11", "12"))
    assert without_log_times(first) == QEMU.replace("{} ", "")
    assert comparable(first) == comparable(second)


def test_a_time_within_a_message_is_shown() -> None:
    line = "write virtsync.dev/confirmed-off: node-a 2026-01-01T00:00:11Z"
    assert without_log_times(line) == line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2026-01-01 00:00:11.123+0000: 77: error : died", "2026-01-01 00:00:12.456+0000: 77: error : died"),
        ("process 4711 exited", "process 815 exited"),
        ("held by pid 4711", "held by pid 815"),
        ("qemu-system-x86_64[4711]: no", "qemu-system-x86_64[815]: no"),
        ("fault at 0x7f00deadbeef", "fault at 0x7f00c0ffee00"),
        ("/qemu/domain-12-web/monitor.sock", "/qemu/domain-13-web/monitor.sock"),
        ("next attempt at 22:13:37Z", "next attempt at 22:13:57Z"),
        ("fd=28 refused", "fd=29 refused"),
    ],
)
def test_parts_that_differ_each_time_make_no_difference(one: str, other: str) -> None:
    assert comparable(one) == comparable(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no such file '/disk1'", "no such file '/disk2'"),
        ("spec generation 1", "spec generation 2"),
        ("Cause: Crash", "Cause: External"),
    ],
)
def test_other_differences_are_kept(one: str, other: str) -> None:
    assert comparable(one) != comparable(other)

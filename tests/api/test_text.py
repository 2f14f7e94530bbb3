"""Whatever others write, what is shown is one harmless line, and a repeated failure is recognized."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.text import gist, tamed, untimed

FIXED = settings(derandomize=True, deadline=None, database=None)
WILD = st.text(st.sampled_from("\x1b\x9b\x9d[]m0;1 \n\t\r\x00\x07\x7f\u2028\u202e\ud800aé東\U0001f600\\"), max_size=40)
ANY = st.text(st.characters(exclude_categories=[])) | WILD


@FIXED
@given(ANY, st.integers(-1, 60))
def test_any_text_becomes_a_harmless_line_within_the_limit(text: str, limit: int) -> None:
    shown = tamed(text, limit)
    assert len(shown) <= len(shown.encode()) <= max(limit, 0)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ufeff]", shown)


@FIXED
@given(ANY)
def test_what_is_tame_stays_as_it_is(text: str) -> None:
    shown = tamed(text, 10_000)
    assert tamed(shown, 10_000) == shown


@FIXED
@given(ANY)
def test_any_text_has_a_gist(text: str) -> None:
    assert gist(text) == gist(untimed(text))


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
def test_what_is_shown(text: str, shown: str) -> None:
    assert tamed(text, 100) == shown


def test_a_long_text_is_cut_between_characters_and_says_so() -> None:
    assert tamed("ü" * 10, 20) == "ü" * 10
    assert tamed("ü" * 11, 20) == "ü" * 8 + "…"


QEMU = (
    "internal error: QEMU unexpectedly closed the monitor (vm='web'): {} qemu-system-x86_64: -drive file=/a: no medium"
)


def test_the_time_in_front_of_the_words_of_qemu_is_not_shown_and_makes_no_difference() -> None:
    first, second = (QEMU.format(f"2026-01-01T00:00:{second}.123456Z") for second in ("11", "12"))
    assert untimed(first) == QEMU.replace("{} ", "")
    assert gist(first) == gist(second)


def test_a_time_that_is_told_is_shown() -> None:
    line = "write virtsync.dev/confirmed-off: node-a 2026-01-01T00:00:11Z"
    assert untimed(line) == line


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
def test_what_is_another_each_time_makes_no_difference(one: str, other: str) -> None:
    assert gist(one) == gist(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no such file '/disk1'", "no such file '/disk2'"),
        ("spec generation 1", "spec generation 2"),
        ("Cause: Crash", "Cause: External"),
    ],
)
def test_what_says_something_else_is_told_apart(one: str, other: str) -> None:
    assert gist(one) != gist(other)

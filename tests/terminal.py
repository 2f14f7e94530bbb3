"""A program on a real pseudo-terminal, and the screen that a person would see."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import pyte

LIMIT_S = 60.0
CHUNK_BYTES = 65536
UNKNOWN = re.compile(rb"\x1b\[[<=>][\d;]*[A-Za-z]")
"""Sequences that pyte would show: modes of the keyboard, which fish 4 switches on and off."""
UNFINISHED = re.compile(rb"\x1b(\[[<=>]?[\d;]*)?$")
"""The begin of a sequence whose end has not been read yet."""


class Terminal:
    """Runs a program on a terminal; use it as a context manager."""

    def __init__(
        self, words: Sequence[str], *, lines: int = 24, columns: int = 100, env: Mapping[str, str] | None = None
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.said = b""
        """All that the program has written, with its escape sequences."""
        self._stream = pyte.ByteStream(self.screen)
        self._begun = b""
        self._ours, theirs = pty.openpty()
        self._resize(lines, columns)
        self.settings = termios.tcgetattr(theirs)
        # setsid makes the terminal the controlling one, which sends Ctrl-C and changes of its size.
        self.program = subprocess.Popen(
            ["setsid", "--ctty", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=_without_size(os.environ if env is None else env) | {"TERM": "xterm-256color"},
        )
        self._theirs = theirs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.program.poll() is None:
            self.program.kill()
        self.program.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def text(self) -> str:
        """The screen as a person sees it."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def row(self, start: str) -> str:
        """The first line of the screen in which this text is, or an empty one."""
        return next((line.rstrip() for line in self.screen.display if start in line), "")

    def press(self, keys: str) -> None:
        """Send these keys."""
        os.write(self._ours, keys.encode())

    def resize(self, lines: int, columns: int) -> None:
        """Change the size of the terminal, as a person does with the mouse."""
        self.screen.resize(lines, columns)
        self._resize(lines, columns)

    def until(self, holds: Callable[[str], bool]) -> str:
        """Wait until this holds for the screen, and return the screen. AssertionError if it never does."""
        deadline = time.monotonic() + LIMIT_S
        while not holds(self.text):
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"The screen never became that, but:\n{self.text}"
            self._read(left_s)
        return self.text

    def ended(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        deadline = time.monotonic() + LIMIT_S
        while self.program.poll() is None:
            assert time.monotonic() < deadline, f"The program does not end:\n{self.text}"
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.program.returncode

    def until_stopped(self) -> None:
        """Wait until the program is suspended."""
        deadline = time.monotonic() + LIMIT_S
        while os.waitid(os.P_PID, self.program.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() < deadline, f"The program is not suspended:\n{self.text}"
            self._read(0.05)
        while self._read(0.0):
            pass

    def resume(self) -> None:
        """Have a suspended program run on."""
        self.program.send_signal(signal.SIGCONT)

    @property
    def settings_now(self) -> object:
        """The settings of the terminal as they are now; compare them with `settings`."""
        return termios.tcgetattr(self._theirs)

    def _resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self, wait_s: float) -> bool:
        """Read what the program has written, for at most this time; whether there was anything."""
        ready, _, _ = select.select([self._ours], [], [], wait_s)
        if not ready:
            return False
        given = os.read(self._ours, CHUNK_BYTES)
        self.said += given
        shown = self._begun + given
        unfinished = UNFINISHED.search(shown)
        self._begun = unfinished[0] if unfinished else b""
        self._stream.feed(UNKNOWN.sub(b"", shown.removesuffix(self._begun)))
        return bool(given)


def _without_size(env: Mapping[str, str]) -> dict[str, str]:
    """The variables without those that would count instead of the size of the terminal. pytest-xdist sets them."""
    return {name: value for name, value in env.items() if name not in {"LINES", "COLUMNS"}}

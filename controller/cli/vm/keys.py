"""Reads single keys from a terminal, and says what a key does to the choice of a person who looks at `top`."""

from __future__ import annotations

import os
import re
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from controller.cli.vm.views.top import Choice

READ_BYTES = 1024
FAR = 10**9
UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page up", "page down", "home", "end"
ENTER, ESCAPE, BACKSPACE = "enter", "escape", "backspace"
SEQUENCES = {
    "\x1b[A": UP,
    "\x1b[B": DOWN,
    "\x1bOA": UP,
    "\x1bOB": DOWN,
    "\x1b[5~": PAGE_UP,
    "\x1b[6~": PAGE_DOWN,
    "\x1b[H": HOME,
    "\x1b[F": END,
    "\x1bOH": HOME,
    "\x1bOF": END,
    "\x1b[1~": HOME,
    "\x1b[4~": END,
    "\x1b": ESCAPE,
    "\r": ENTER,
    "\n": ENTER,
    "\x7f": BACKSPACE,
    "\b": BACKSPACE,
    "k": UP,
    "j": DOWN,
    "b": PAGE_UP,
    " ": PAGE_DOWN,
    "g": HOME,
    "G": END,
}
"""The keys that have another meaning than their letter, as terminals send them.

Source: ECMA-48, and https://invisible-island.net/xterm/ctlseqs/ctlseqs.html.
"""
CHANGES: dict[str, Callable[[Choice], Choice]] = {
    "s": Choice.next_sort,
    "d": lambda choice: replace(choice, only_drift=not choice.only_drift, first=0),
    "/": lambda choice: replace(choice, typing=True, filter="", first=0),
    ESCAPE: lambda choice: replace(choice, filter="", first=0),
}
TYPED: dict[str, Callable[[Choice], Choice]] = {
    ENTER: lambda choice: replace(choice, typing=False),
    ESCAPE: lambda choice: replace(choice, typing=False, filter="", first=0),
    BACKSPACE: lambda choice: replace(choice, filter=choice.filter[:-1], first=0),
}
"""What keys do while the filter is typed."""
QUIT = "q"
_KEY = re.compile(r"\x1b\[[0-9;]*[@-~]|\x1bO[@-~]|.", re.DOTALL)


@contextmanager
def single_keys(terminal: int) -> Iterator[None]:
    """Have this terminal give each key at once, and not show it. Afterwards it is as before."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def read(terminal: int) -> list[str] | None:
    """Return the keys that were pressed, as the terminal sends them; None: the terminal is gone."""
    try:
        given = os.read(terminal, READ_BYTES)
    except OSError:
        return None
    return _KEY.findall(given.decode(errors="ignore")) if given else None


def obeyed(choice: Choice, key: str, page: int) -> Choice | None:
    """Return the choice after this key; None: the key ends the program. `page`: how many VMs are on the screen."""
    name = SEQUENCES.get(key, key)
    if choice.typing:
        if key.isprintable():
            return replace(choice, filter=choice.filter + key, first=0)
        change = TYPED.get(name)
    elif name == QUIT:
        return None
    else:
        moved = {UP: -1, DOWN: 1, PAGE_UP: -page, PAGE_DOWN: page, HOME: -FAR, END: FAR}
        if name in moved:
            return replace(choice, first=max(0, choice.first + moved[name]))
        change = CHANGES.get(name)
    return change(choice) if change else choice

"""Shows what changes on a terminal, until a key or a signal ends it. Needs the package rich."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from controller.cli.vm import keys
from controller.cli.vm.views.top import Choice, Frame

TICK_S = 1.0
"""How often the screen is drawn if nothing changes, because it shows durations."""
LEAST_S = 0.2
"""The shortest time between two drawings, however often something changes."""
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Draw = Callable[[Choice, int], Frame]
"""Returns what to show, from the choice and the height of the screen."""


class Screen:
    """The terminal of a person. Only `wake` can be called from other threads."""

    def __init__(self) -> None:
        self._waken, self._wake = os.pipe()
        os.set_blocking(self._waken, False)
        os.set_blocking(self._wake, False)
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._signal: int | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._wake)
        os.close(self._waken)

    def wake(self) -> None:
        """Have the screen drawn soon."""
        try:
            os.write(self._wake, b".")
        except OSError:  # it is full, so the screen is drawn anyway; or closed
            return

    def show(self, draw: Draw) -> int:
        """Show what `draw` returns until a person or a signal ends it. Return the exit code.

        Ctrl-C and q end with 0, another signal with 128 and its number. Ctrl-Z suspends the program.
        """
        choice = Choice()
        with self._signals():
            while True:
                with ExitStack() as ends:
                    if self._keyboard is not None:
                        ends.enter_context(keys.single_keys(self._keyboard))
                    live = ends.enter_context(
                        Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False)
                    )
                    choice = self._show(live, draw, choice)
                if self._signal != signal.SIGTSTP:
                    return 128 + self._signal if self._signal in {signal.SIGTERM, signal.SIGHUP} else 0
                self._signal = None
                os.kill(os.getpid(), signal.SIGSTOP)

    def _show(self, live: Live, draw: Draw, choice: Choice) -> Choice:
        """Draw until a key ends the program, or a signal has come. Return the last choice."""
        while True:
            frame = draw(choice, self._console.height)
            choice = frame.choice
            live.update(Group(*map(_text, frame.lines)), refresh=True)
            drawn = time.monotonic()
            pressed = self._pressed(TICK_S)
            if pressed == [] and (left_s := drawn + LEAST_S - time.monotonic()) > 0:
                pressed = self._pressed(left_s, woken=False)
            for key in pressed or ():
                after = keys.obeyed(choice, key, frame.page)
                if after is None:
                    return choice
                choice = after
            if self._signal is not None or pressed is None:
                return choice

    def _pressed(self, wait_s: float, *, woken: bool = True) -> list[str] | None:
        """Wait for keys, and if `woken` also for `wake` and signals. Return the keys; None: the keyboard is gone."""
        sources = ([] if self._keyboard is None else [self._keyboard]) + ([self._waken] if woken else [])
        ready, _, _ = select.select(sources, [], [], wait_s)
        if self._waken in ready:
            os.read(self._waken, 65536)
        return keys.read(self._keyboard) if self._keyboard is not None and self._keyboard in ready else []

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note signals, so that the terminal is put back in order before the program ends."""
        before = {number: signal.signal(number, self._note) for number in (*ENDS, signal.SIGTSTP)}
        # A change of the size of the terminal only has to end `select`.
        before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)
        woken_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number


def _text(line: str) -> Text:
    """Return a line with the colors of click, which ends with … where the screen ends."""
    text = Text.from_ansi(line, no_wrap=True, overflow="ellipsis")
    text.end = "\n"
    return text

"""The screen of `top` on a real pseudo-terminal. tests/integration/test_top.py has the rest, with real VMs."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.terminal import Terminal

SHOWN = [sys.executable, "-m", "tests.cli.shown"]
LEFT = b"\x1b[?1049l"
"""Leaves the second screen, so that the first one has what the shell had written."""


def drawn(screen: str) -> int:
    """How often the screen was drawn."""
    found = re.search(r"drawn-(\d+)", screen)
    return int(found[1]) if found else 0


def test_durations_run_on_without_a_key() -> None:
    with Terminal([*SHOWN, "3"]) as terminal:
        first = drawn(terminal.until(lambda screen: drawn(screen) > 0))
        terminal.until(lambda screen: drawn(screen) > first)


def test_keys_scroll_filter_and_quit_and_the_terminal_is_as_before() -> None:
    with Terminal([*SHOWN, "5000"], lines=20) as terminal:
        terminal.until(lambda screen: "vm-0000" in screen and "of 5000" in screen)
        terminal.press("\x1b[F")
        terminal.until(lambda screen: "vm-4999" in screen)
        terminal.press("/vm-00")
        terminal.until(lambda screen: "filter: vm-00_" in screen)
        terminal.press("\r")
        terminal.until(lambda screen: "of 100 " in screen)
        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.said.endswith(LEFT)
        assert terminal.settings_now == terminal.settings


def test_another_size_of_the_terminal_is_obeyed_at_once() -> None:
    with Terminal([*SHOWN, "500"], lines=12, columns=60) as terminal:
        terminal.until(lambda screen: "of 500" in screen)
        terminal.resize(30, 110)
        bigger = terminal.until(lambda screen: "1-24 of 500" in screen)
        assert bigger.splitlines()[29].startswith("1-24 of 500")
        terminal.resize(9, 40)
        smaller = terminal.until(lambda screen: "1-3 of 500" in screen)
        assert max(map(len, smaller.splitlines())) <= 40
        assert smaller.splitlines()[8].endswith("…")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals, code: int) -> None:
    with Terminal([*SHOWN, "3"]) as terminal:
        terminal.until(lambda screen: "vm-0000" in screen)
        if number == signal.SIGINT:
            terminal.press("\x03")
        else:
            terminal.program.send_signal(number)
        assert terminal.ended() == code
        assert terminal.said.endswith(LEFT)
        assert terminal.settings_now == terminal.settings


def test_ctrl_z_gives_the_terminal_back_until_the_program_runs_on() -> None:
    with Terminal([*SHOWN, "3"]) as terminal:
        terminal.until(lambda screen: "vm-0000" in screen)
        terminal.press("s")
        terminal.until(lambda screen: "sort: name" in screen)
        terminal.press("\x1a")
        terminal.until_stopped()
        assert terminal.settings_now == terminal.settings
        assert terminal.said.endswith(LEFT)
        before = drawn(terminal.text)
        terminal.resume()
        again = terminal.until(lambda screen: drawn(screen) > before)
        assert "sort: name" in again
        terminal.press("q")
        assert terminal.ended() == 0


@pytest.mark.parametrize(("environ", "colors"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colors_are_left_out_on_request(environ: dict[str, str], *, colors: bool) -> None:
    with Terminal([*SHOWN, "3"], env=os.environ | environ) as terminal:
        terminal.until(lambda screen: "vm-0000" in screen)
        assert (b"\x1b[32m" in terminal.said) is colors


def test_without_rich_top_says_what_to_install() -> None:
    hidden = "import sys; sys.modules['rich.console'] = None; from controller.cli import main; main()"
    with Terminal([sys.executable, "-c", hidden, "vm", "top", "-n", "shop"], columns=120) as terminal:
        assert terminal.ended() == 2
        assert "Error: top needs the Python package rich on a terminal. Install it into the environ" in terminal.text


def test_the_commands_that_need_no_terminal_do_not_load_rich() -> None:
    loaded = "import sys; import controller.cli.vm.top; print('controller.cli.vm.screen' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_only_the_extra_top_needs_rich() -> None:
    """The image of the agent has no extras."""
    needed = [one for one in importlib.metadata.requires("virtsync") or () if one.startswith("rich")]
    assert needed
    assert all(re.search(r"""; extra == ['"]top['"]$""", one) for one in needed)

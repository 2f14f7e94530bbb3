"""Chromium of Debian, driven by Playwright. Its own connections to the outside are switched off."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from lab import LabError

Scheme = Literal["light", "dark"]
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 30_000
"""How long Playwright waits before it gives up: a limit for hangs."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium without a window. LabError if it is not installed."""
    program = shutil.which("chromium")
    if not program:
        raise LabError("chromium was not found: run `make page-setup`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True)
class Tab:
    """A tab, and what its console has said."""

    page: Page
    problems: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions of scripts."""


@contextmanager
def tab(
    browser: Browser, *, scheme: Scheme = "light", scripts: bool = True, size: tuple[int, int] = (1440, 900)
) -> Iterator[Tab]:
    """Open a tab in a profile of its own."""
    context = browser.new_context(
        color_scheme=scheme,
        java_script_enabled=scripts,
        viewport={"width": size[0], "height": size[1]},
        timezone_id="UTC",
        locale="en-US",
    )
    context.set_default_timeout(TIMEOUT_MS)
    opened = Tab(context.new_page())

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            opened.problems.append(message.text)

    opened.page.on("console", note)
    opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
    try:
        yield opened
    finally:
        context.close()

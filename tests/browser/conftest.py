"""A Chromium for the tests of this folder, and a manager whose page it opens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from browser.chromium import Tab, chromium, tab
from lab.manager import Manager
from lab.world import World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, which need a browser that not everybody has installed."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.page)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def manager(world: World) -> Manager:
    return world.start_manager()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Tab]:
    """A tab that is open, with nothing in it. At the end its console must have said nothing."""
    with tab(browser) as one:
        yield one
        assert one.problems == []

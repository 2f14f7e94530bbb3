"""Takes the pictures of the page for the documents."""

from pathlib import Path

from PIL import Image

from browser.chromium import Scheme, chromium, tab
from browser.example import HOSTS, VMS
from browser.stage import stage
from lab.manager import Manager

SIZE = (1280, 880)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


def take(folder: Path, images: Path) -> list[Path]:
    """Write `page-light.png` and `page-dark.png` into the folder `images`, and return their paths."""
    images.mkdir(parents=True, exist_ok=True)
    with stage(folder, VMS, HOSTS) as manager:
        return [_take(manager, scheme, images / f"page-{scheme}.png") for scheme in SCHEMES]


def _take(manager: Manager, scheme: Scheme, path: Path) -> Path:
    with chromium() as browser, tab(browser, scheme=scheme, size=SIZE) as opened:
        opened.page.goto(manager.page)
        opened.page.wait_for_selector("#live.live")
        opened.page.screenshot(path=path, animations="disabled")
    with Image.open(path) as picture:
        picture.convert("RGB").save(path, optimize=True)
    return path

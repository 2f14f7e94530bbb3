"""Takes the pictures of the page for the documents."""

from collections import Counter
from pathlib import Path

from PIL import Image

from browser.chromium import Scheme, chromium, tab
from browser.example import HOSTS, VMS
from browser.stage import stage
from lab.manager import Manager

SIZE = (1280, 880)
COLORS = 256
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
    _shrink(path)
    return path


def _shrink(path: Path) -> None:
    """Keep the 256 most frequent colors: a third of the size, and the colors of small texts stay as they are."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    pixels = picture.tobytes()
    counts = Counter(pixels[place : place + 3] for place in range(0, len(pixels), 3))
    palette = Image.new("P", (1, 1))
    palette.putpalette(b"".join(color for color, _ in counts.most_common(COLORS)))
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)

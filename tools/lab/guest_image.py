"""The floppy image that a guest boots from, built from tools/guest/guest.S."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from lab import LabError
from lab.binaries import CACHE

SOURCE = Path(__file__).parents[1] / "guest" / "guest.S"
FLOPPY_BYTES = 1474560


def guest_image() -> Path:
    """The floppy image that the guest boots from, built unless it exists; LabError if binutils is missing."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    image = CACHE / f"guest-{digest}" / "guest.img"
    if not image.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="guest-") as partial:
            built = _assemble(Path(partial))
            image.parent.mkdir(exist_ok=True)
            built.rename(image)
    return image


def _assemble(folder: Path) -> Path:
    image = folder / "guest.img"
    linker = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]
    try:
        subprocess.run(["as", "--32", "-o", folder / "guest.o", SOURCE], check=True)
        subprocess.run([*linker, "-o", image, folder / "guest.o"], check=True)
    except FileNotFoundError as error:
        raise LabError(f"{error.filename} not found: run `apt-get install binutils`.") from None
    os.truncate(image, FLOPPY_BYTES)
    return image

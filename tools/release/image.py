"""Reads an image archive: its platform, and files of it, without unpacking it."""

import json
import posixpath
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

WHITEOUT = ".wh."


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """An archive as tools/image/canonical.py writes it."""

    path: Path

    @property
    def architecture(self) -> str:
        """Such as `amd64`."""
        with tarfile.open(self.path) as image:
            (manifest,) = json.load(_file(image, "manifest.json"))
            config = json.load(_file(image, manifest["Config"]))
        architecture: str = config["architecture"]
        return architecture

    def texts(self, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Return the text of each wanted file by its path without a leading slash, as the last layer leaves it."""
        found: dict[str, str] = {}
        with tarfile.open(self.path) as image:
            (manifest,) = json.load(_file(image, "manifest.json"))
            for layer in manifest["Layers"]:
                with tarfile.open(fileobj=_file(image, layer)) as files:
                    _add_layer(found, files, wanted)
        return found


def _add_layer(found: dict[str, str], files: tarfile.TarFile, wanted: Callable[[str], bool]) -> None:
    """First remove what this layer removes, then add its files."""
    for folder, name in map(posixpath.split, files.getnames()):
        if name.startswith(WHITEOUT):
            gone = posixpath.join(folder, name.removeprefix(WHITEOUT))
            for path in [path for path in found if path == gone or path.startswith(f"{gone}/")]:
                del found[path]
    for entry in files:
        if entry.isreg() and wanted(entry.name):
            found[entry.name] = _file(files, entry.name).read().decode()


def _file(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file

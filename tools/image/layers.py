"""Print the unpacked size of each layer of an image archive: `python tools/image/layers.py build/image.tar`."""

import json
import re
import sys
import tarfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

MB = 10**6
STEP_LENGTH = 70


def main(archive: Path) -> None:
    """Print the table. Raises SystemExit with a sentence if the file is not an image archive."""
    try:
        with tarfile.open(archive) as image:
            manifest = json.loads(_read(image, "manifest.json"))[0]
            steps = [step for step in json.loads(_read(image, manifest["Config"]))["history"] if not _is_empty(step)]
            sizes = [_unpacked_size(image, layer) for layer in manifest["Layers"]]
    except (OSError, tarfile.TarError, KeyError) as error:
        reason = str(error).partition("\n")[0].removesuffix(":")
        sys.exit(f"{archive} is no archive of an image ({reason}): run `make image`.")
    table = Table("layer", "MB unpacked", title=" ".join(manifest["RepoTags"]))
    table.columns[1].justify = "right"
    table.add_row("the base", f"{sizes[0] / MB:.1f}")
    for step, size in zip(steps[1:], sizes[1:], strict=True):
        table.add_row(escape(_name(step)), f"{size / MB:.1f}")
    table.add_section()
    table.add_row("above the base", f"{sum(sizes[1:]) / MB:.1f}")
    Console().print(table)


def _read(image: tarfile.TarFile, name: str) -> bytes:
    file = image.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _unpacked_size(image: tarfile.TarFile, layer: str) -> int:
    """Size of all files in bytes, without hard links to a file that was already counted."""
    with tarfile.open(fileobj=image.extractfile(layer)) as files:
        return sum(entry.size for entry in files if entry.isreg())


def _is_empty(step: dict[str, object]) -> bool:
    return bool(step.get("empty_layer"))


def _name(step: dict[str, object]) -> str:
    """The instruction that created the layer, without the text that builders add."""
    name = re.sub(r"/bin/sh -c |#\(nop\) |dir:[0-9a-f]+ |# buildkit", "", str(step.get("created_by", "")))
    return " ".join(name.split())[:STEP_LENGTH]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/image.tar"))

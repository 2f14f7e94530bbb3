"""Write an image archive in one canonical form: `python3 canonical.py ARCHIVE TARGET EPOCH`.

Two builds of one commit differ in the times and the order of files, and in what the builder notes about itself. The
canonical form has none of these, so it is equal if the files and the settings of the image are equal. EPOCH, in
seconds, is the time of the image. All files have one fixed time, so that a layer is the same in each version that does
not change it. Only the standard library is used, as this runs before any package is installed.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

CONFIG_KEYS = ("architecture", "os", "os.version", "variant", "config")
"""Of the image's configuration, what says how it runs. The rest is the builder's, and is left out or replaced."""
STEP_KEYS = ("created_by", "empty_layer")
FILE_TIME = 315532800
"""1980-01-01."""
XATTR = "SCHILY.xattr."

Json = dict[str, Any]


def canonical(archive: Path, target: Path, epoch: int) -> None:
    """Write the image in `archive`, as docker, podman or buildah save one, to `target`.

    Raises KeyError or tarfile.TarError if `archive` has no image. `target` is complete only when this returns.
    """
    with (
        tarfile.open(archive) as image,
        tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out,
        tempfile.TemporaryDirectory(dir=target.parent) as folder,
    ):
        manifest = json.loads(_read(image, "manifest.json"))[0]
        layers = []
        for number, name in enumerate(manifest["Layers"]):
            copy = Path(folder) / str(number)
            layers.append(digest := _layer(image, name, copy))
            if layers.index(digest) == number:
                with copy.open("rb") as file:
                    _add(out, f"{digest}.tar", file, copy.stat().st_size)
            copy.unlink()
        config = _json(_config(json.loads(_read(image, manifest["Config"])), layers, epoch))
        named = f"{hashlib.sha256(config).hexdigest()}.json"
        _add(out, named, io.BytesIO(config), len(config))
        one = {"Config": named, "RepoTags": manifest["RepoTags"], "Layers": [f"{digest}.tar" for digest in layers]}
        listed = _json([one])
        _add(out, "manifest.json", io.BytesIO(listed), len(listed))


def _config(config: Json, layers: list[str], epoch: int) -> Json:
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    steps = [{key: step[key] for key in STEP_KEYS if step.get(key)} for step in config.get("history", ())]
    # The base is one step whose name has a digest of the archive that it came from.
    if steps and "created_by" in steps[0]:
        steps[0]["created_by"] = "the base"
    return {key: config[key] for key in CONFIG_KEYS if config.get(key)} | {
        "created": created,
        "history": [step | {"created": created} for step in steps],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layers]},
    }


def _layer(image: tarfile.TarFile, name: str, target: Path) -> str:
    """Write one layer to `target`, and return its digest."""
    with (
        tarfile.open(fileobj=_open(image, name)) as source,
        tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out,
    ):
        for entry, content in _entries(source):
            out.addfile(entry, source.extractfile(content) if content else None)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(source: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Yield each entry as it is to be, in the order of names, and the entry that has its content.

    Of several names of one file, the first is the file, and the others link to it.
    """
    # Of two entries with one name, the later one counts.
    found = {_name(entry.name): entry for entry in source}
    first: dict[str, str] = {}
    for name in sorted(found):
        entry = found[name]
        original = _name(entry.linkname) if entry.islnk() else name
        content = found[original]
        made = tarfile.TarInfo(name)
        for field in ("mode", "uid", "gid", "size", "type", "linkname", "devmajor", "devminor"):
            setattr(made, field, getattr(content, field))
        made.mtime = FILE_TIME
        made.pax_headers = {key: value for key, value in content.pax_headers.items() if key.startswith(XATTR)}
        if original in first:
            made.type, made.linkname, made.size = tarfile.LNKTYPE, first[original], 0
        else:
            first[original] = name
        yield made, content if made.isreg() else None


def _name(name: str) -> str:
    return os.path.normpath(name).lstrip("/")


def _open(image: tarfile.TarFile, name: str) -> IO[bytes]:
    file = image.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file


def _read(image: tarfile.TarFile, name: str) -> bytes:
    return _open(image, name).read()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(out: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, FILE_TIME, 0o644
    out.addfile(entry, content)


if __name__ == "__main__":
    canonical(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

"""Container images without a registry or an engine: archives in the format of `docker save`, for `ctr import`."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import LabError
from lab.binaries import CACHE

PAUSE_SOURCE = Path(__file__).with_name("pause.c")
PAUSE_IMAGE = "localhost/pause:lab"
BUSYBOX_IMAGE = "localhost/busybox:lab"


def pause_program() -> Path:
    """The program of the first process of nodes and pods, built unless it exists; LabError without a compiler."""
    digest = hashlib.sha256(PAUSE_SOURCE.read_bytes()).hexdigest()[:12]
    program = CACHE / f"pause-{digest}" / "pause"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="pause-") as partial:
            built = Path(partial) / "pause"
            try:
                subprocess.run(["gcc", "-Os", "-static", "-s", "-o", built, PAUSE_SOURCE], check=True)
            except FileNotFoundError:
                raise LabError("gcc not found: run `make cluster-setup`.") from None
            program.parent.mkdir(exist_ok=True)
            built.rename(program)
    return program


def pause_image(archive: Path) -> None:
    """Write the image of the process that holds a pod's namespaces."""
    write_image(archive, PAUSE_IMAGE, {"pause": pause_program()}, entrypoint=["/pause"])


def busybox_image(archive: Path, name: str = BUSYBOX_IMAGE, entrypoint: Sequence[str] = ("/bin/busybox",)) -> None:
    """Write an image with a shell and the usual small programs, for test pods."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox not found: run `make cluster-setup`.")
    write_image(archive, name, {"bin/busybox": Path(busybox)}, entrypoint=entrypoint)


def write_image(archive: Path, name: str, files: Mapping[str, Path], *, entrypoint: Sequence[str]) -> None:
    """Write an image of one layer with these files, each at its path, readable and executable for everybody."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, file in files.items():
            tar.add(file, path, filter=_plain)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for path, data in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make the entry reproducible: the same for every user and at every time."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755
    return entry

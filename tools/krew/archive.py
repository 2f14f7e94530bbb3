"""Builds the archive: a launcher, and the packages that the plugin imports, all in pure Python.

Two builds of the same checkout are equal, byte by byte: files are sorted, and have no owner and one fixed time.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("launcher.py")
PROGRAM = "kubectl-virtsync"
TIME = 315532800
"""1980-01-01, the earliest time that also a zip archive can have."""
EXTRA = "top"
LEFT_OUT = (
    # Only the agent, the manager and the import of a libvirt load them.
    *("kopf", "libvirt-python", "prometheus-client"),
    # The kubernetes package requires them; the modules that are kept do not load them. pydantic is machine code.
    *("aiohttp", "aiohttp-retry", "certifi", "durationpy", "oauthlib", "pydantic", "python-dateutil"),
    *("requests", "requests-oauthlib", "websocket-client"),
    # rich requires them; what draws `top` does not load them.
    *("markdown-it-py", "pygments"),
)
KUBERNETES = {f"client/{name}.py" for name in ("configuration", "exceptions", "rest")} | {
    f"utils/{name}.py" for name in ("_retry_base", "keepalive", "retry")
}
"""The modules of the kubernetes package that kube/client.py loads. The package's own __init__.py would load all of it,
so that is not here, and the folders are namespace packages (PEP 420)."""
NOT_NEEDED = (".lock", "__pycache__", "bin", "direct_url.json", "INSTALLER", "RECORD", "REQUESTED", "uv_cache.json")


def build(archive: Path) -> None:
    """Write the archive. CalledProcessError if a package cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        library = tree / "lib"
        _install(library, Path(folder) / "requirements.txt")
        _prune(library)
        shutil.copytree(ROOT / "controller", library / "controller", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(LAUNCHER, tree / PROGRAM)
        (tree / PROGRAM).chmod(0o755)
        shutil.copyfile(ROOT / "LICENSE", tree / "LICENSE")
        archive.parent.mkdir(parents=True, exist_ok=True)
        pack(tree, archive, programs=(PROGRAM,))


def _install(library: Path, requirements: Path) -> None:
    """Install the locked versions, each of which must have the hash in uv.lock."""
    given = [word for name in LEFT_OUT for word in ("--prune", name)]
    _uv("export", "--locked", "--no-dev", "--extra", EXTRA, "--no-emit-project", "-o", str(requirements), *given)
    target = ("--target", str(library), "--python", sys.executable, "--link-mode", "copy")
    _uv("pip", "install", *target, "--no-deps", "--require-hashes", "-r", str(requirements))


def _uv(*words: str) -> None:
    program = os.environ.get("UV", "uv")
    subprocess.run([program, *words, "--quiet"], cwd=ROOT, check=True)


def _prune(library: Path) -> None:
    """Remove what the plugin does not import, and machine code: PyYAML is slower without, but runs everywhere."""
    for file in [*library.rglob("*")]:
        if file.name in NOT_NEEDED or file.suffix == ".so":
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    kubernetes = library / "kubernetes"
    for file in [*kubernetes.rglob("*")]:
        if file.is_file() and str(file.relative_to(kubernetes)) not in KUBERNETES:
            file.unlink()
    for folder in sorted(library.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def pack(tree: Path, archive: Path, *, programs: Collection[str] = ()) -> None:
    """Write the files of a folder as a .tar.gz: sorted, with no owner and one time. `programs` can be executed."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=TIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in _files(tree):
            entry = tarfile.TarInfo(path.relative_to(tree).as_posix())
            entry.size, entry.mtime = path.stat().st_size, TIME
            entry.mode = 0o755 if entry.name in programs else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def _files(tree: Path) -> Iterator[Path]:
    return iter(sorted(path for path in tree.rglob("*") if path.is_file()))

"""The binaries of the control plane: taken from the user's folder, or built once from tools/kubernetes with Go."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lab import LabError

COMMANDS = ("etcd", "kube-apiserver", "kubectl")
MODULE = Path(__file__).parents[1] / "kubernetes"
CACHE = platformdirs.user_cache_path("virtsync")
LINES_SHOWN = 20
LINE_INTERVAL_S = 15


def kubernetes_version() -> str:
    """The version of Kubernetes that the Go module requires, such as v1.35.4."""
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    if not found:
        raise LabError(f"{MODULE / 'go.mod'} does not require k8s.io/kubernetes.")
    return found[1]


def find_assets(commands: Iterable[str] = COMMANDS) -> Path:
    """The folder that holds these binaries: $KUBEBUILDER_ASSETS if set, otherwise the folder that set-up built.

    LabError if one is missing.
    """
    if chosen := os.environ.get("KUBEBUILDER_ASSETS"):
        folder, cure = Path(chosen).absolute(), "complete the folder KUBEBUILDER_ASSETS names, or unset it"
    else:
        folder, cure = cached_assets(), "run `make setup`"
    if missing := [name for name in commands if not os.access(folder / name, os.X_OK)]:
        raise LabError(f"{', '.join(missing)} not found in {folder}: {cure}.")
    return folder


def cached_assets() -> Path:
    """The folder of the built binaries: a different one for every version of the Go module."""
    digest = hashlib.sha256()
    for file in sorted([*MODULE.glob("*.go"), MODULE / "go.mod", MODULE / "go.sum"]):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return CACHE / f"{kubernetes_version()}-{digest.hexdigest()[:12]}"


def build_assets() -> Path:
    """Build the control plane unless it exists; the first build takes minutes and shows progress on standard error.

    The folder appears only when it is complete. A lock makes concurrent builds run one after the other.
    """
    if os.environ.get("KUBEBUILDER_ASSETS"):
        return find_assets()
    folder = cached_assets()
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _build(partial / "kubernetes")
            _link_commands(partial)
            partial.rename(folder)
    return folder


def _build(binary: Path) -> None:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    words = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    stamps = " ".join(f"-X k8s.io/component-base/version.{name}={word}" for name, word in words.items())
    with _progress(f"Control plane {version}") as show:
        downloads = packages = built = 0
        for line in _go("list", "-deps", "."):
            downloads += line.startswith("go: downloading")
            packages += not line.startswith("go: ")
            show("downloading modules", downloads, None)
        for line in _go("build", "-v", "-trimpath", f"-ldflags=-s -w {stamps}", "-o", str(binary), "."):
            built += not line.startswith("go: ")
            show("compiling packages", built, packages)


def _link_commands(folder: Path) -> None:
    """Make one link for each command in the binary, which prints the commands when it is called by its own name."""
    names = subprocess.run([folder / "kubernetes"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        (folder / name).symlink_to("kubernetes")


def _go(*arguments: str) -> Iterator[str]:
    """Run Go on the module and yield the lines that it prints; LabError with the last lines if it fails."""
    settings = {
        "GOPATH": str(CACHE / "go"),
        "GOCACHE": str(CACHE / "go-build"),
        # `rm -r` cannot remove read-only modules.
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    said: deque[str] = deque(maxlen=LINES_SHOWN)
    go = subprocess.Popen(
        # Go ends too when its owner is killed.
        ["setpriv", "--pdeathsig", "TERM", Path(sys.executable).with_name("go"), *arguments],
        cwd=MODULE,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert go.stdout  # noqa: S101 - a pipe was asked for
    with go:
        for line in go.stdout:
            said.append(line.rstrip())
            yield said[-1]
    if go.returncode:
        raise LabError(f"go {arguments[0]} failed in {MODULE}; the end of what it said:\n" + "\n".join(said))


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show the progress of a long step on standard error: a bar on a terminal, otherwise a line every few seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LineProgress(title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title)
        yield lambda step, done, total: bar.update(task, description=f"{title}: {step}", completed=done, total=total)


class _LineProgress:
    """Progress for logs: a line when a step begins and then at most one every few seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._step = ""
        self._next_line_at = 0.0

    def __call__(self, step: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if step == self._step and now < self._next_line_at and done != total:
            return
        self._step, self._next_line_at = step, now + LINE_INTERVAL_S
        of_total = f" of {total}" if total else ""
        print(f"{self.title}: {step}, {done}{of_total}", file=sys.stderr, flush=True)

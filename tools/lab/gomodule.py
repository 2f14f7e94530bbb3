"""A Go module below tools/: the upstream commands that it names, built once with Go."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lab import LabError

CACHE = platformdirs.user_cache_path("virtsync")
LINES_SHOWN = 20
LINE_INTERVAL_S = 15


@dataclass(frozen=True)
class GoModule:
    """A module whose main package becomes the command by whose name it is called, and else prints the names.

    If `programs` are named, these main packages are built instead, each into a binary with the last word of its path.
    `upstream` is the module whose version is shown. `name` is what the name of the folder of the commands begins with.
    `stamps` are the values of Go variables that the linker sets. `copied` are folders of other modules that are copied
    beside the binary: the name of each, its module, its path there.
    """

    folder: Path
    title: str
    upstream: str
    name: str = ""
    stamps: Mapping[str, str] = field(default_factory=dict)
    copied: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    programs: Sequence[str] = ()

    @property
    def version(self) -> str:
        """The version of `upstream` that the module requires, such as v1.35.4."""
        found = re.search(rf"{re.escape(self.upstream)} (v\S+)", (self.folder / "go.mod").read_text())
        if not found:
            raise LabError(f"{self.folder / 'go.mod'} does not require {self.upstream}.")
        return found[1]

    @property
    def digest(self) -> str:
        """It differs for every version of the module."""
        digest = hashlib.sha256()
        for file in sorted([*self.folder.glob("*.go"), self.folder / "go.mod", self.folder / "go.sum"]):
            digest.update(f"{file.name}\n".encode() + file.read_bytes())
        return digest.hexdigest()[:12]

    @property
    def commands(self) -> Path:
        """The folder of the commands, which `build` makes: a different one for every version of the module."""
        return CACHE / "-".join(filter(None, (self.name, self.version, self.digest)))

    def program(self, command: str) -> Path:
        """The path of a command; LabError if it is not built."""
        found = self.commands / command
        if not found.exists():
            raise LabError(f"{found} not found: run `make setup`.")
        return found

    def build(self) -> Path:
        """Build the commands, unless they are built, and return their folder; it can take minutes.

        It shows progress on standard error. The folder appears only when it is complete. A lock makes concurrent builds
        run one after the other. LabError with the end of what Go says if it fails.
        """
        folder = self.commands
        if folder.exists():
            return folder
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "build.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = folder.with_name(f"{folder.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                self._build(partial)
                for name, (module, path) in self.copied.items():
                    shutil.copytree(self.source_of(module) / path, partial / name)
                partial.rename(folder)
        return folder

    def source_of(self, module: str) -> Path:
        """The folder of a module that this one requires, in Go's cache; it must have been downloaded."""
        *_, folder = self.go("list", "-m", "-f", "{{.Dir}}", module)
        return Path(folder)

    def go(self, *arguments: str) -> Iterator[str]:
        """Run Go in the module and yield the lines that it prints; LabError with the last lines if it fails."""
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
            cwd=self.folder,
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
            raise LabError(f"go {arguments[0]} failed in {self.folder}; the end of what it said:\n" + "\n".join(said))

    def _build(self, folder: Path) -> None:
        packages = self.programs or (".",)
        # A folder that exists gets one binary for each program.
        target = folder if self.programs else folder / self.folder.name
        stamps = " ".join(f"-X {name}={word}" for name, word in self.stamps.items())
        with _progress(f"{self.title} {self.version}") as show:
            downloads = found = built = 0
            for line in self.go("list", "-deps", *packages):
                downloads += line.startswith("go: downloading")
                found += not line.startswith("go: ")
                show("downloading modules", downloads, None)
            for line in self.go("build", "-v", "-trimpath", f"-ldflags=-s -w {stamps}", "-o", str(target), *packages):
                built += not line.startswith("go: ")
                show("compiling packages", built, found)
        if not self.programs:
            _link_commands(target)


def _link_commands(binary: Path) -> None:
    """Make one link for each command in the binary, which prints the commands when it is called by its own name."""
    for name in subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split():
        binary.with_name(name).symlink_to(binary.name)


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

"""A systemd of the test's own: the first process of namespaces, with nothing but the units of the test. Needs root."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

from cluster import cgroups
from cluster.janitor import remove_cgroup
from lab import LabError
from lab.processes import Process, children_of
from lab.world import until

SCRIPT = Path(__file__).with_name("own_systemd.sh")
SYSTEMD = Path("/lib/systemd/systemd")
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc")
APART = (*NAMESPACES, "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private")


class OwnSystemd:
    """A host with this name, with the libvirt of this folder in /run/libvirt; use it as a context manager.

    `units` of its folder becomes /etc/systemd/system, `default` /etc/default and `opt` /opt.
    """

    def __init__(self, name: str, folder: Path, libvirt: Path) -> None:
        self.folder = folder
        self._cgroup = cgroups.group_name(folder)
        words: list[str | Path] = ["unshare", *APART, "sh", SCRIPT, name, folder, libvirt]
        words += cgroups.folders(self._cgroup)
        self._process = Process(f"the systemd of {name}", words, log=folder / "systemd.log")

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError(
                "A systemd of its own needs root: it has mounts and cgroups of its own. Run `sudo make e2e`."
            )
        if not SYSTEMD.exists():
            raise LabError(f"{SYSTEMD} not found: run `make cluster-setup`.")
        for folder in cgroups.folders(self._cgroup):
            _make(folder)
        self._process.start()
        try:
            until(self._answers, f"systemd does not answer, see {self._process.log}")
        except LabError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(LabError, ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._process.kill()
        for folder in cgroups.folders(self._cgroup):
            remove_cgroup(folder)

    def run(self, *command: str | Path, text: str | None = None, check: bool = True) -> str:
        """Run a command on the host; its output. CalledProcessError with the error output if it fails."""
        enter = ("nsenter", f"--target={self._pid}", *NAMESPACES, "--")
        done = subprocess.run([*enter, *command], input=text, capture_output=True, text=True, check=False)
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stdout + done.stderr)
            raise error
        return done.stdout

    def path(self, path: str) -> Path:
        """The path outside of a path on the host."""
        return Path(f"/proc/{self._pid}/root") / path.lstrip("/")

    @property
    def _pid(self) -> int:
        children = children_of(self._process.pid)
        if not children:
            raise LabError(f"{self._process.name} does not run.")
        return children[0]

    def _answers(self) -> bool:
        with suppress(LabError):
            return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}
        return False


def _make(cgroup: Path) -> None:
    """Make an empty cgroup. Its controllers are not passed on, because systemd itself has to be in it (version 2)."""
    cgroup.mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):  # in version 1 they begin empty
        if (cgroup.parent / file).exists():
            (cgroup / file).write_text((cgroup.parent / file).read_text())

"""The host lock: whoever switches the domains of a libvirt holds a lock on the directory of its socket.

The lock is the kernel's (flock): it works on a read-only mount and ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class HostLock:
    """The right to act on a libvirt. One thread asks for it; any may read `held` and `hindrance`."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is that of the socket; None for a libvirt within this process, which nobody else can reach."""
        self._folder = folder
        self._file: int | None = None
        self.held = folder is None
        self.hindrance = "This agent has not asked yet whether another process acts on this libvirt"
        """Why it is not held, as a sentence without its full stop."""
        self.name = ""
        """The name of the lock while it is held: on this machine, in this boot, it is that of no other."""

    @classmethod
    def of(cls, uri: str) -> HostLock:
        """The lock of the libvirt of this URI."""
        return cls(socket_folder(uri))

    def acquire(self) -> bool:
        """Take it if it is free, without waiting; whether it is ours now."""
        if self.held:
            return True
        assert self._folder is not None  # noqa: S101 - None is held from the beginning
        try:
            file = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.hindrance = (
                f"Nobody can tell whether another process acts on this libvirt: {self._folder} cannot be opened "
                f"({error.strerror})"
            )
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.hindrance = (
                f"Another process acts on this libvirt: process {_holder(file)} has the lock on {self._folder}"
            )
            os.close(file)
            return False
        self._file, self.name, self.held = file, _name(file), True
        return True

    def removed(self) -> bool:
        """Whether the folder that this process knows is no more: one that is made anew has another lock and socket."""
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            return True
        try:
            # Of a mount of it, as a Pod has one, the path still leads to the old one.
            return self._folder is not None and self._folder.stat().st_nlink == 0
        except OSError:
            return False

    def release(self) -> None:
        """Let somebody else act."""
        if self._file is not None:
            os.close(self._file)
            self._file, self.name, self.held = None, "", False


def socket_folder(uri: str) -> Path | None:
    """The folder of the socket of the libvirt of this URI; None: it is within this process."""
    parts = urlsplit(uri)
    socket = parse_qs(parts.query).get("socket")
    if socket:
        return Path(socket[0]).parent
    if parts.scheme == "test":
        return None
    if parts.path == "/session":
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"{Path.home()}/.cache"
        return Path(runtime) / "libvirt"
    return Path("/run/libvirt")


def _name(file: int) -> str:
    """As the kernel names it; a mount of the same folder elsewhere has the same."""
    stat = os.fstat(file)
    return f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"


def _holder(file: int) -> str:
    """Who has it, as far as the kernel tells this process: it hides those of other PID namespaces."""
    name = _name(file)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "(unknown)"
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == name:
            return f"{fields[4]} ({_command(fields[4])})"
    return "(unknown)"


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "unknown"

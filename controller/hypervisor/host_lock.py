"""The host lock: the process that acts on the domains of a libvirt holds a lock on the folder of libvirt's socket.

It is a lock of the kernel (flock): it works on a read-only mount, and the kernel releases it when the process ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class HostLock:
    """The lock that a process needs to act on a libvirt. One thread acquires it; any thread may read its fields."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is that of the socket; None: libvirt runs in this process, and no other process can reach it."""
        self._folder = folder
        self._file: int | None = None
        self.held = folder is None
        self.why_not_held = "This agent has not tried to acquire the host lock yet"
        """Why the lock is not held, as a sentence without a full stop."""
        self.name = ""
        """The name of the lock while it is held; unique on this machine within one boot."""

    @classmethod
    def of(cls, uri: str) -> HostLock:
        """The lock of the libvirt of this URI."""
        return cls(socket_folder(uri))

    def acquire(self) -> bool:
        """Acquire the lock if it is free, without waiting; returns whether this process holds it now."""
        if self.held:
            return True
        assert self._folder is not None  # noqa: S101 - without a folder, `held` is always true
        try:
            file = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.why_not_held = f"The host lock cannot be acquired: {self._folder} cannot be opened ({error.strerror})"
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.why_not_held = (
                f"Another process acts on this libvirt: process {_holder(file)} holds the lock on {self._folder}"
            )
            os.close(file)
            return False
        self._file, self.name, self.held = file, _name(file), True
        return True

    def removed(self) -> bool:
        """Whether the folder was removed; if it was created again, the new one has another lock and another socket."""
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            return True
        try:
            # If the folder is a mount, as in a Pod, the path still leads to the removed folder.
            return self._folder is not None and self._folder.stat().st_nlink == 0
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock, so that another process can act."""
        if self._file is not None:
            os.close(self._file)
            self._file, self.name, self.held = None, "", False


def socket_folder(uri: str) -> Path | None:
    """The folder of libvirt's socket for this URI; None: libvirt runs in this process."""
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
    """The kernel's name of the file, the same for each mount of the folder: device and inode."""
    stat = os.fstat(file)
    return f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"


def _holder(file: int) -> str:
    """The process that holds the lock; the kernel does not show processes of other PID namespaces."""
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

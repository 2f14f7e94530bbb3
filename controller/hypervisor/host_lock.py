"""The host lock is a lock on libvirt's socket directory. Only the process that holds it acts on libvirt's domains.

The lock is a flock, so it works on a read-only mount, and the kernel releases it when the process ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class HostLock:
    """The lock that a process needs to act on one libvirt.

    Only one thread may call `acquire`. Any thread may read the fields.
    """

    def __init__(self, directory: Path | None) -> None:
        """`directory` is libvirt's socket directory, or None if libvirt runs in this process.

        No other process can act on a libvirt that runs in this process, so no lock is needed.
        """
        self._directory = directory
        self._file: int | None = None
        self.held = directory is None
        self.why_not_held = "This agent has not tried to acquire the host lock yet"
        """Why this process does not hold the lock, as a sentence without a full stop."""
        self.name = ""
        """The name of the lock, unique on this machine within one boot. Empty if the lock is not held or not needed."""

    @classmethod
    def of(cls, uri: str) -> HostLock:
        """Return the lock of the libvirt with this URI."""
        return cls(socket_directory(uri))

    def acquire(self) -> bool:
        """Try to acquire the lock, without waiting. Return whether this process now holds the lock."""
        if self.held:
            return True
        assert self._directory is not None  # noqa: S101 - without a directory, `held` is always true
        try:
            file = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.why_not_held = (
                f"The host lock cannot be acquired: {self._directory} cannot be opened ({error.strerror})"
            )
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.why_not_held = (
                f"Another process acts on this libvirt: process {_holder(file)} holds the lock on {self._directory}"
            )
            os.close(file)
            return False
        self._file, self.name, self.held = file, _name(file), True
        return True

    def removed(self) -> bool:
        """Whether the socket directory was removed.

        If the directory was created again, the new directory has another lock and another socket.
        """
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            return True
        try:
            # If the directory is a mount point, as in a Pod, its path still refers to the removed directory.
            return self._directory is not None and self._directory.stat().st_nlink == 0
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock, so that another process can act."""
        if self._file is not None:
            os.close(self._file)
            self._file, self.name, self.held = None, "", False


def socket_directory(uri: str) -> Path | None:
    """Return libvirt's socket directory for this URI, or None if libvirt runs in this process."""
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
    """Return the device and inode of the file in the form of /proc/locks. They are the same for each mount."""
    stat = os.fstat(file)
    return f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"


def _holder(file: int) -> str:
    """Return the process that holds the lock. The kernel does not show processes of other PID namespaces."""
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

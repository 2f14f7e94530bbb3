"""The host lock is a lock on libvirt's socket directory. Only the process that holds it acts on libvirt's domains.

The lock is a flock, so it works on a read-only mount, and the kernel releases it when the process ends.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

AGENT_COMMAND = re.compile(r"(^|[ /])virtsync agent\b|-m controller agent\b")
"""The command line of an agent, whether it was started as a program or as a Python module."""


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
            file = _opened(self._directory)
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


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a host lock."""

    pid: str
    """Empty if the kernel does not show it, because it belongs to another PID namespace."""

    @property
    def command(self) -> str:
        """The words of its command line, separated by spaces; empty if not known."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes() if self.pid else b""
        except OSError:
            return ""
        return words.replace(b"\0", b" ").decode(errors="replace").strip()

    @property
    def is_agent(self) -> bool:
        """Whether it is a `virtsync agent`."""
        return bool(AGENT_COMMAND.search(self.command))


def lock_holder(directory: Path) -> LockHolder | None:
    """Return the process that holds the host lock on this directory; None: the lock is free.

    Tests it with a shared lock, which it releases at once: an agent that tries to acquire the lock at the same moment
    tries again after a second. Raises OSError if the directory cannot be opened.
    """
    file = _opened(directory)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockHolder(_holding_pid(file))
    else:
        return None
    finally:
        os.close(file)


def lock_name(directory: Path) -> str:
    """Return the name of the host lock on this directory, as in `HostLock.name`. Raises OSError."""
    file = _opened(directory)
    try:
        return _name(file)
    finally:
        os.close(file)


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


def _opened(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _holder(file: int) -> str:
    """Return the process that holds the lock."""
    pid = _holding_pid(file)
    return f"{pid} ({_command(pid)})" if pid else "(unknown)"


def _holding_pid(file: int) -> str:
    """Return the process that holds the lock. The kernel does not show processes of other PID namespaces."""
    name = _name(file)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == name:
            return fields[4]
    return ""


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "unknown"

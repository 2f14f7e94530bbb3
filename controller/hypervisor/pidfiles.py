"""Reads QEMU's pid files. They show when a QEMU was started, and whether it still exists after libvirt reports it off.

Each QEMU that libvirt starts holds a write lock (fcntl) on its file NAME.pid until QEMU ends. The lock is visible
through a read-only mount and from another PID namespace. After the file was removed, the lock is still visible on a
descriptor that was opened earlier (measured: libvirt 9.0). libvirt's own report is not reliable: if a QEMU does not end
after SIGKILL, libvirt reports the domain off after some time.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from controller.hypervisor.host_lock import socket_directory
from controller.hypervisor.remembered import forget_oldest
from controller.policy.view import Qemu

FLOCK = "hhqqi4x"
"""The format of struct flock on 64-bit Linux: type, whence, start, length, process id."""


class PidFiles:
    """The pid files of the QEMUs of one libvirt. Thread-safe. The methods do not call libvirt."""

    def __init__(self, directory: Path | None) -> None:
        """`directory` is the directory of the pid files, or None if this libvirt runs no QEMU."""
        self._directory = directory
        self._lock = threading.Lock()
        self._watched: dict[UUID, list[int]] = {}
        """Descriptors of the pid files of killed QEMUs that have not been observed to end."""
        self._names: dict[UUID, str] = {}
        """The names of the domains in `_watched`."""
        self._unwatched: dict[UUID, None] = {}
        """Domains whose last QEMU was killed while no open descriptor could show its end. The oldest entry is first."""

    @classmethod
    def of(cls, uri: str) -> PidFiles:
        """Return the pid files of the libvirt with this URI."""
        directory, parts = socket_directory(uri), urlsplit(uri)
        if directory is None or parts.scheme.partition("+")[0] != "qemu":
            return cls(None)
        return cls(directory / "qemu" / "run" if parts.path == "/session" else directory / "qemu")

    def run_since(self, name: str) -> datetime | None:
        """Return when the QEMU of this domain was started, by the host's wall clock, or None if unknown."""
        return self._modified(name)

    def libvirtd_since(self) -> datetime | None:
        """Return when libvirtd (or virtqemud) was started, by the host's wall clock, or None if unknown."""
        return self._modified("driver")

    def watch(self, uuid: UUID, name: str) -> None:
        """Open the pid file of a QEMU that will be killed, and keep the file open, because libvirt removes it."""
        if self._directory is None:
            return
        with self._lock:
            self._unwatched.pop(uuid, None)
            try:
                watched = self._watch(uuid, name, self._open(name))
            except OSError:
                watched = False
            if not watched:
                self._unwatched[uuid] = None
                forget_oldest(self._unwatched)

    def _watch(self, uuid: UUID, name: str, file: int) -> bool:
        """Keep the file open. Return whether it is locked: an older libvirt or another program locks no pid file."""
        watched = self._watched.setdefault(uuid, [])
        self._names[uuid] = name
        if any(os.path.sameopenfile(file, other) for other in watched):
            os.close(file)
        else:
            watched.append(file)
        return _locked(watched[-1])

    def release(self, uuid: UUID) -> None:
        """Close the files of this domain's QEMUs that have ended, and keep the other files open."""
        with self._lock, suppress(OSError):
            self._release(uuid)

    def lives_on(self, uuid: UUID) -> bool:
        """Whether a killed QEMU of this domain still locks its pid file. True if the lock cannot be read.

        False if `watch` did not open the file.
        """
        if uuid not in self._watched:  # the usual case: an observation then makes no system call here
            return False
        with self._lock, suppress(OSError):
            return self._release(uuid)
        return True

    def lives_on_named(self, name: str) -> bool:
        """`lives_on` for a domain of which only the name is known, because libvirt no longer has it."""
        if not self._names:
            return False
        with self._lock:
            uuids = [uuid for uuid, known in self._names.items() if known == name]
        return any(self.lives_on(uuid) for uuid in uuids)

    def started(self, uuid: UUID) -> None:
        """Record that a new QEMU of this domain runs. `qemu` then no longer returns UNSURE for an earlier QEMU."""
        with self._lock:
            self._unwatched.pop(uuid, None)

    def qemu(self, uuid: UUID, name: str) -> Qemu:
        """Return whether a QEMU of this domain still exists, although libvirt reports the domain off."""
        if self._directory is None:
            return Qemu.GONE
        with self._lock:
            try:
                alive = self._release(uuid) or self._locked_by_name(name)
            except OSError:
                return Qemu.UNSURE
            if alive:
                return Qemu.ALIVE
            return Qemu.UNSURE if uuid in self._unwatched else Qemu.GONE

    def _release(self, uuid: UUID) -> bool:
        """Close this domain's files that are no longer locked. Return whether a locked file remains. Raises OSError."""
        for file in list(self._watched.get(uuid, ())):
            if not _locked(file):
                self._watched[uuid].remove(file)
                os.close(file)
        if not self._watched.get(uuid):
            self._watched.pop(uuid, None)
            self._names.pop(uuid, None)
        return uuid in self._watched

    def _locked_by_name(self, name: str) -> bool:
        """Whether the pid file of the domain with this name exists and is locked. Raises OSError."""
        try:
            file = self._open(name)
        except FileNotFoundError:
            return False
        try:
            return _locked(file)
        finally:
            os.close(file)

    def _open(self, name: str) -> int:
        return os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def _modified(self, name: str) -> datetime | None:
        if self._directory is None:
            return None
        try:
            # Each observation calls this, and os.stat of a string takes half the time of Path.stat (measured).
            return datetime.fromtimestamp(os.stat(self._path(name)).st_mtime, UTC)  # noqa: PTH116
        except (OSError, ValueError, OverflowError):  # no file, or a time outside the range of datetime
            return None

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}.pid"


def _locked(file: int) -> bool:
    """Whether a lock of another process keeps this process from write-locking the file. Raises OSError."""
    request = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))[0] != fcntl.F_UNLCK)

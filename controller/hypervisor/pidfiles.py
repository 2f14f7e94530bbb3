"""Reads QEMU's pid files. They show when a QEMU was started, and whether it still exists after libvirt reports it off.

Each QEMU that libvirt starts holds a write lock (fcntl) on its file NAME.pid until QEMU ends. The lock is visible
through a read-only mount and from another PID namespace. After the file was removed, the lock is still visible on a
descriptor that was opened earlier (measured: libvirt 9.0). libvirt's own report is not reliable: if a QEMU does not end
after SIGKILL, libvirt reports the domain off after some time, whoever destroyed it. So the file of each QEMU that is
observed running is kept open.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import threading
from collections.abc import Container
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from controller.hypervisor.host_lock import socket_directory
from controller.hypervisor.remembered import forget_oldest
from controller.policy.view import Qemu

FLOCK = "hhqqi4x"
"""The format of struct flock on 64-bit Linux: type, whence, start, length, process id."""
RESERVED_FILES = 256
"""The number of descriptors that are left for everything else that this process opens: connections, for example."""
OPEN_FILES = 8192
"""The limit of open files that `raise_file_limit` sets. Hosts run at most some thousand domains. A limit of millions
would slow down programs that close all possible descriptors."""


def raise_file_limit() -> None:
    """Raise this process's limit of open files (usually 1024), because one is kept open for each running domain."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # fewer files are then kept open
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class PidFile(NamedTuple):
    """An open pid file."""

    descriptor: int
    device: int
    inode: int
    """Not used for another file while the descriptor is open."""


class PidFiles:
    """The pid files of the QEMUs of one libvirt. Thread-safe. The methods do not call libvirt."""

    def __init__(self, directory: Path | None) -> None:
        """`directory` is the directory of the pid files, or None if this libvirt runs no QEMU."""
        self._directory = directory
        self._lock = threading.Lock()
        self._limit = _limit()
        """The number of domains from which on no more files are opened of domains that are only observed running."""
        self._watched: dict[UUID, tuple[PidFile, ...]] = {}
        """The pid files of QEMUs that were observed running, or were killed, and have not been observed to end."""
        self._names: dict[UUID, str] = {}
        """The names of the domains in `_watched`."""
        self._named: dict[str, tuple[UUID, ...]] = {}
        """The domains in `_watched` by name."""
        self._unwatched: dict[UUID, None] = {}
        """Domains whose last QEMU was killed while no open descriptor could show its end. The oldest entry is first."""

    @classmethod
    def of(cls, uri: str) -> PidFiles:
        """Return the pid files of the libvirt with this URI."""
        directory, parts = socket_directory(uri), urlsplit(uri)
        if directory is None or parts.scheme.partition("+")[0] != "qemu":
            return cls(None)
        return cls(directory / "qemu" / "run" if parts.path == "/session" else directory / "qemu")

    def libvirtd_since(self) -> datetime | None:
        """Return when libvirtd (or virtqemud) was started, by the host's wall clock, or None if unknown."""
        return _modified(self._stat("driver"))

    def watch_running(self, uuid: UUID, name: str) -> datetime | None:
        """Keep the pid file of a running QEMU open, because anyone might kill it, and libvirt then removes the file.

        Return when the QEMU was started, by the host's wall clock, or None if unknown. Makes one system call if the
        file is open already. If too many files are open, or this file cannot be opened, it is not watched.
        """
        stat = self._stat(name)
        if stat and not _among(self._watched.get(uuid, ()), stat.st_dev, stat.st_ino):
            with self._lock, suppress(OSError):
                self._open_running(uuid, name)
        return _modified(stat)

    def _open_running(self, uuid: UUID, name: str) -> None:
        if uuid not in self._watched and len(self._watched) >= self._limit:
            return
        watched = self._keep(uuid, name, self._open(name))
        self._release(uuid)  # the files of earlier QEMUs
        if watched:
            self._unwatched.pop(uuid, None)

    def watch(self, uuid: UUID, name: str) -> None:
        """Open the pid file of a QEMU that will be killed, and keep the file open, because libvirt removes it."""
        if self._directory is None:
            return
        with self._lock:
            self._unwatched.pop(uuid, None)
            try:
                watched = self._keep(uuid, name, self._open(name))
            except OSError:
                watched = False
            if not watched:
                self._unwatched[uuid] = None
                forget_oldest(self._unwatched)

    def _keep(self, uuid: UUID, name: str, file: PidFile) -> bool:
        """Keep the file open. Return whether it is locked: an older libvirt or another program locks no pid file."""
        watched = self._watched.get(uuid, ())
        self._set_name(uuid, name)
        if _among(watched, file.device, file.inode):
            locked = _locked(file)
            os.close(file.descriptor)
            return locked
        self._watched[uuid] = (*watched, file)
        return _locked(file)

    def release(self, uuid: UUID) -> None:
        """Close the files of this domain's QEMUs that have ended, and keep the other files open."""
        with self._lock, suppress(OSError):
            self._release(uuid)

    def release_all_but(self, running: Container[UUID]) -> None:
        """`release` for each domain that is not in `running`: nobody might observe it any more."""
        for uuid in list(self._watched):  # a copy, because other threads change the dict
            if uuid not in running:
                self.release(uuid)

    def lives_on(self, uuid: UUID | None, name: str = "") -> bool:
        """Whether a QEMU of this domain, which libvirt reports off or no longer has, still locks its pid file.

        With `name`, also a QEMU of any domain that had this name: its definition might have been removed, and the VM
        defined again with another UUID. Without `uuid`, only a QEMU of a domain that had this name.

        True if the lock cannot be read. False if neither `watch` nor `watch_running` opened the file.
        """
        uuids = self._watched_as(uuid, name)
        if not uuids:  # the usual case: an observation then makes no system call here
            return False
        with self._lock, suppress(OSError):
            return self._release_all(uuids)
        return True

    def started(self, uuid: UUID) -> None:
        """Record that a new QEMU of this domain runs. `qemu` then no longer returns UNSURE for an earlier QEMU."""
        with self._lock:
            self._unwatched.pop(uuid, None)

    def qemu(self, uuid: UUID, name: str) -> Qemu:
        """Return whether a QEMU of this domain, or of another with its name, lives, although libvirt reports it off."""
        if self._directory is None:
            return Qemu.GONE
        with self._lock:
            try:
                alive = self._release_all(self._watched_as(uuid, name)) or self._locked_by_name(name)
            except OSError:
                return Qemu.UNSURE
            if alive:
                return Qemu.ALIVE
            return Qemu.UNSURE if uuid in self._unwatched else Qemu.GONE

    def _watched_as(self, uuid: UUID | None, name: str) -> list[UUID]:
        """The domains in `_watched` with this UUID or this name."""
        found = [other for other in self._named.get(name, ()) if other != uuid]
        return [uuid, *found] if uuid in self._watched else found

    def _set_name(self, uuid: UUID, name: str) -> None:
        """Record the name of a domain in `_watched`; empty: it is no longer there."""
        former = self._names.get(uuid, "")
        if former == name:  # no other thread must find it without its name meanwhile
            return
        if former:
            del self._names[uuid]
            self._named[former] = tuple(other for other in self._named[former] if other != uuid)
            if not self._named[former]:
                del self._named[former]
        if name:
            self._names[uuid] = name
            self._named[name] = (*self._named.get(name, ()), uuid)

    def _release_all(self, uuids: list[UUID]) -> bool:
        return any(self._release(uuid) for uuid in uuids)

    def _release(self, uuid: UUID) -> bool:
        """Close this domain's files that are no longer locked. Return whether a locked file remains. Raises OSError."""
        for file in self._watched.get(uuid, ()):
            if not _locked(file):
                self._watched[uuid] = tuple(other for other in self._watched[uuid] if other is not file)
                os.close(file.descriptor)
        if not self._watched.get(uuid):
            self._watched.pop(uuid, None)
            self._set_name(uuid, "")
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
            os.close(file.descriptor)

    def _open(self, name: str) -> PidFile:
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stat = os.fstat(descriptor)
        return PidFile(descriptor, stat.st_dev, stat.st_ino)

    def _stat(self, name: str) -> os.stat_result | None:
        if self._directory is None:
            return None
        try:
            # Each observation calls this, and os.stat of a string takes half the time of Path.stat (measured).
            return os.stat(self._path(name))  # noqa: PTH116
        except (OSError, ValueError):
            return None

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}.pid"


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft == resource.RLIM_INFINITY else max(soft - RESERVED_FILES, 0)


def _among(files: tuple[PidFile, ...], device: int, inode: int) -> bool:
    return any(file.inode == inode and file.device == device for file in files)


def _modified(stat: os.stat_result | None) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):  # a time outside the range of datetime
        return datetime.fromtimestamp(stat.st_mtime, UTC) if stat else None
    return None


def _locked(file: PidFile) -> bool:
    """Whether a lock of another process keeps this process from write-locking the file. Raises OSError."""
    request = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(struct.unpack(FLOCK, fcntl.fcntl(file.descriptor, fcntl.F_GETLK, request))[0] != fcntl.F_UNLCK)

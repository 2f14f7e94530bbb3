"""QEMU's pid files: since when a QEMU runs, and whether the QEMU of a domain that libvirt reports off has really ended.

A QEMU that libvirt starts holds a write lock (fcntl) on its NAME.pid until it ends. The lock is visible through a
read-only mount and from another PID namespace, and also after the file was removed, on a descriptor that was opened
before (measured: libvirt 9.0). libvirt itself is not reliable here: after a while it treats a QEMU that has not ended
on SIGKILL as gone.
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

from controller.hypervisor.host_lock import socket_folder
from controller.policy.view import Qemu

FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, process id."""

REMEMBERED = 20_000


class PidFiles:
    """The pid files of one libvirt's QEMUs. Thread-safe; does not call libvirt, and never waits."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is where libvirt keeps the files; None: this libvirt has no QEMUs."""
        self._folder = folder
        self._lock = threading.Lock()
        self._watched: dict[UUID, list[int]] = {}
        """Descriptors of the files of QEMUs that were killed and have not ended."""
        self._unwatched: dict[UUID, None] = {}
        """Domains whose last QEMU was killed without a descriptor that shows its end; the oldest first."""

    @classmethod
    def of(cls, uri: str) -> PidFiles:
        """The pid files of the libvirt with this URI."""
        folder, parts = socket_folder(uri), urlsplit(uri)
        if folder is None or parts.scheme.partition("+")[0] != "qemu":
            return cls(None)
        return cls(folder / "qemu" / "run" if parts.path == "/session" else folder / "qemu")

    def run_since(self, name: str) -> datetime | None:
        """When the QEMU of this domain was started, by the wall clock of the host; None: not known."""
        return self._modified(name)

    def libvirtd_since(self) -> datetime | None:
        """When libvirtd (or virtqemud) was started, by the wall clock of the host; None: not known."""
        return self._modified("driver")

    def watch(self, uuid: UUID, name: str) -> None:
        """Keep the file of a QEMU open that is about to be killed, because libvirt removes the file."""
        if self._folder is None:
            return
        with self._lock:
            self._unwatched.pop(uuid, None)
            try:
                watched = self._watch(uuid, self._open(name))
            except OSError:
                watched = False
            if not watched:
                self._unwatched[uuid] = None
                if len(self._unwatched) > REMEMBERED:
                    del self._unwatched[next(iter(self._unwatched))]

    def _watch(self, uuid: UUID, file: int) -> bool:
        """Keep the file open; returns whether a QEMU locks it. An older libvirt or another program locks no file."""
        watched = self._watched.setdefault(uuid, [])
        if any(os.path.sameopenfile(file, other) for other in watched):
            os.close(file)
        else:
            watched.append(file)
        return _locked(watched[-1])

    def release(self, uuid: UUID) -> None:
        """Close the files of this domain's QEMUs that have ended; the other files stay open."""
        with self._lock, suppress(OSError):
            self._release(uuid)

    def lives_on(self, uuid: UUID) -> bool:
        """Whether a QEMU of this domain that was killed has not ended, as far as its file is watched."""
        if uuid not in self._watched:  # almost always, so an observation costs nothing more
            return False
        with self._lock, suppress(OSError):
            return self._release(uuid)
        return True

    def started(self, uuid: UUID) -> None:
        """A new QEMU runs, so it no longer matters whether the end of the last one was watched."""
        with self._lock:
            self._unwatched.pop(uuid, None)

    def qemu(self, uuid: UUID, name: str) -> Qemu:
        """Whether a QEMU of this domain, which libvirt reports off, still exists."""
        if self._folder is None:
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
        """Close the files that are no longer locked; returns whether others are left. Raises OSError."""
        for file in list(self._watched.get(uuid, ())):
            if not _locked(file):
                self._watched[uuid].remove(file)
                os.close(file)
        if not self._watched.get(uuid):
            self._watched.pop(uuid, None)
        return uuid in self._watched

    def _locked_by_name(self, name: str) -> bool:
        """Whether a file of this name exists, and a QEMU locks it. Raises OSError."""
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
        if self._folder is None:
            return None
        try:
            # Each observation needs this: os.stat of a string takes half the time of Path.stat (measured).
            return datetime.fromtimestamp(os.stat(self._path(name)).st_mtime, UTC)  # noqa: PTH116
        except (OSError, ValueError, OverflowError):  # no file, or a time outside the range of datetime
            return None

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}.pid"


def _locked(file: int) -> bool:
    """Whether another process holds a lock on the file that excludes a write lock. Raises OSError."""
    request = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))[0] != fcntl.F_UNLCK)

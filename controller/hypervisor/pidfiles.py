"""QEMU's pid files: since when a QEMU runs, and whether one that libvirt shows off has really ended.

A QEMU that libvirt starts holds a write lock (fcntl) on its NAME.pid for life. It is seen through a read-only mount and
from another PID namespace, and on a descriptor that was opened before also when the file has been removed (measured:
libvirt 9.0). libvirt itself is no witness: it takes a QEMU for gone that has not obeyed SIGKILL for long enough.
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
    """The pid files of one libvirt's QEMUs. Any thread may use it; no call of libvirt is made, and none waits."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is where libvirt keeps them; None where there are no QEMUs."""
        self._folder = folder
        self._lock = threading.Lock()
        self._kept: dict[UUID, list[int]] = {}
        """Descriptors of the files of QEMUs that were killed and have not ended."""
        self._unwatched: dict[UUID, None] = {}
        """Domains whose last QEMU was killed without a descriptor that tells of its end; the oldest first."""

    @classmethod
    def of(cls, uri: str) -> PidFiles:
        """Those of the libvirt of this URI."""
        folder, parts = socket_folder(uri), urlsplit(uri)
        if folder is None or parts.scheme.partition("+")[0] != "qemu":
            return cls(None)
        return cls(folder / "qemu" / "run" if parts.path == "/session" else folder / "qemu")

    def run_since(self, name: str) -> datetime | None:
        """When the QEMU of this domain was started, by the wall clock of the host; None: not known."""
        return self._written(name)

    def libvirtd_since(self) -> datetime | None:
        """When libvirtd (or virtqemud) was started, by the wall clock of the host; None: not known."""
        return self._written("driver")

    def watch(self, uuid: UUID, name: str) -> None:
        """Keep hold of the file of a QEMU that is about to be killed: libvirt removes it."""
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
        """Keep it; whether it tells of a QEMU. One that nobody locks is of an older libvirt, or of another program."""
        kept = self._kept.setdefault(uuid, [])
        if any(os.path.sameopenfile(file, other) for other in kept):
            os.close(file)
        else:
            kept.append(file)
        return _locked(kept[-1])

    def release(self, uuid: UUID) -> None:
        """Let go of the files of QEMUs of this domain that have ended; those of others are kept."""
        with self._lock, suppress(OSError):
            self._release(uuid)

    def lives_on(self, uuid: UUID) -> bool:
        """Whether a QEMU of this domain that was killed has not ended, as far as its file is kept hold of."""
        if uuid not in self._kept:  # as good as always, and then this costs a look nothing
            return False
        with self._lock, suppress(OSError):
            return self._release(uuid)
        return True

    def started(self, uuid: UUID) -> None:
        """A new QEMU runs: how sure one can be of the end of the last is of no interest any more."""
        with self._lock:
            self._unwatched.pop(uuid, None)

    def qemu(self, uuid: UUID, name: str) -> Qemu:
        """Whether a QEMU of this domain, which libvirt shows off, is still there."""
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
        """Close the files that nobody locks any more; whether there are others. Raises OSError."""
        for file in list(self._kept.get(uuid, ())):
            if not _locked(file):
                self._kept[uuid].remove(file)
                os.close(file)
        if not self._kept.get(uuid):
            self._kept.pop(uuid, None)
        return uuid in self._kept

    def _locked_by_name(self, name: str) -> bool:
        """Whether there is a file of this name, and a QEMU that holds it. Raises OSError."""
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

    def _written(self, name: str) -> datetime | None:
        if self._folder is None:
            return None
        try:
            # Each look asks: os.stat on text takes half the time of a Path (measured).
            return datetime.fromtimestamp(os.stat(self._path(name)).st_mtime, UTC)  # noqa: PTH116
        except (OSError, ValueError, OverflowError):  # no file; or a time that the calendar does not have
            return None

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}.pid"


def _locked(file: int) -> bool:
    """Whether another process holds a lock on it that forbids to write."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)

"""Which QEMUs run: read from the kernel's process table, without libvirt or an agent."""

import os
import select
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from lab.libvirtd import Libvirtd

LOOK_INTERVAL_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """A QEMU of a domain on a node, and when the kernel started its process (Unix time)."""

    node: str
    uuid: str
    pid: int
    begin_s: float


@dataclass(frozen=True, slots=True)
class DoubleRun:
    """Two QEMUs of one domain that ran at the same time; `second` was started later."""

    first: Run
    second: Run
    seen_s: float


class Runs:
    """Watches the QEMUs of several libvirtds in a separate thread; use it as a context manager.

    Any thread may use it. A run that ends within 0.05 s of its start can be missed. A reported double run is certain:
    both processes are checked again after both were found.
    """

    def __init__(self, libvirtds: Mapping[str, Libvirtd]) -> None:
        self._libvirtds = libvirtds
        self._lock = threading.Lock()
        self._alive: dict[int, tuple[Run, int]] = {}
        """The running QEMUs by process id, with a descriptor that becomes readable when the process ends."""
        self._doubles: dict[frozenset[int], DoubleRun] = {}
        self._seen_doubles = 0
        self.count = 0
        """How many runs have begun."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="runs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for _run, descriptor in self._alive.values():
            os.close(descriptor)

    def of(self, uuid: object) -> list[Run]:
        """The current runs of a domain, on any node."""
        with self._lock:
            return [run for run, descriptor in self._alive.values() if run.uuid == str(uuid) and _lives(descriptor)]

    def alive(self) -> list[Run]:
        """All current runs."""
        with self._lock:
            return [run for run, descriptor in self._alive.values() if _lives(descriptor)]

    def doubles(self) -> list[DoubleRun]:
        """The double runs that were found since the last call."""
        with self._lock:
            found = list(self._doubles.values())[self._seen_doubles :]
            self._seen_doubles += len(found)
            return found

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_INTERVAL_S):
            with self._lock:
                self._look()

    def _look(self) -> None:
        for pid, (_run, descriptor) in list(self._alive.items()):
            if not _lives(descriptor):
                os.close(descriptor)
                del self._alive[pid]
        for node, libvirtd in self._libvirtds.items():
            for pid in libvirtd.orphans():
                if pid not in self._alive and (found := _open(node, pid)):
                    self._alive[pid] = found
                    self.count += 1
        by_uuid: dict[str, list[tuple[Run, int]]] = {}
        for run, descriptor in self._alive.values():
            by_uuid.setdefault(run.uuid, []).append((run, descriptor))
        for together in by_uuid.values():
            if len(together) > 1:
                self._note([run for run, descriptor in together if _lives(descriptor)])

    def _note(self, together: list[Run]) -> None:
        together.sort(key=lambda run: run.begin_s)
        for first, second in pairwise(together):
            double = DoubleRun(first, second, time.time())
            self._doubles.setdefault(frozenset((first.pid, second.pid)), double)


def _open(node: str, pid: int) -> tuple[Run, int] | None:
    """The run of a process, with a descriptor of the process; None if the process is not the QEMU of a domain."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        if "-uuid" in words and _lives(descriptor):
            boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
            return Run(node, words[words.index("-uuid") + 1], pid, boot_s + ticks * TICK_S), descriptor
    os.close(descriptor)
    return None


def _lives(descriptor: int) -> bool:
    return not select.select([descriptor], [], [], 0)[0]

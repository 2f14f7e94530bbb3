"""What the API server, etcd, the manager and this process have used."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet.client import Client
from lab.controlplane import COMPONENTS, ControlPlane

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals at one moment; the CPU times are in seconds since each process began."""

    at_s: float
    server_cpu_s: float
    server_rss_mib: float
    etcd_cpu_s: float
    etcd_rss_mib: float
    etcd_size_mib: float
    """The database file of etcd, as the API server reports it."""
    manager_cpu_s: float
    manager_rss_mib: float
    own_cpu_s: float
    rejected: float
    """Requests that the API server's flow control has answered with 429."""


@dataclass(frozen=True, slots=True)
class Used:
    """What was used between two readings."""

    seconds: float
    server_cpu_s: float
    etcd_cpu_s: float
    manager_cpu_s: float
    own_cpu_s: float
    rejected: float

    @property
    def server_cores(self) -> float:
        """The CPU of the API server, in cores."""
        return self.server_cpu_s / self.seconds

    @property
    def manager_cores(self) -> float:
        """The CPU of the manager, in cores."""
        return self.manager_cpu_s / self.seconds

    def figures(self) -> dict[str, float]:
        """For the results."""
        return {
            "seconds": self.seconds,
            "server_cores": self.server_cores,
            "server_cpu_s": self.server_cpu_s,
            "etcd_cores": self.etcd_cpu_s / self.seconds,
            "manager_cores": self.manager_cores,
            "own_cores": self.own_cpu_s / self.seconds,
            "rejected": self.rejected,
        }


class Gauge:
    """Reads the processes."""

    def __init__(self, controlplane: ControlPlane, client: Client, manager_pid: Callable[[], int | None]) -> None:
        self._controlplane, self._client, self._manager_pid = controlplane, client, manager_pid

    async def read(self) -> Reading:
        """Read everything now. Raises Failed."""
        text = (await self._client.send("other", "GET", "/metrics", accept="text/plain")).decode()
        etcd, manager = self._controlplane.pid("etcd"), self._manager_pid()
        return Reading(
            at_s=time.monotonic(),
            server_cpu_s=_sum(text, "process_cpu_seconds_total"),
            server_rss_mib=_sum(text, "process_resident_memory_bytes") / MIB,
            etcd_cpu_s=cpu_s(etcd),
            etcd_rss_mib=memory_mib(etcd),
            etcd_size_mib=_sum(text, "apiserver_storage_size_bytes") / MIB,
            manager_cpu_s=cpu_s(manager) if manager else 0.0,
            manager_rss_mib=memory_mib(manager) if manager else 0.0,
            own_cpu_s=time.process_time(),
            rejected=_sum(text, "apiserver_flowcontrol_rejected_requests_total"),
        )

    def peaks_mib(self) -> dict[str, float]:
        """The most memory that each process has had since it began."""
        pids = {name: self._controlplane.pid(name) for name in COMPONENTS} | {"this program": os.getpid()}
        if manager := self._manager_pid():
            pids["manager"] = manager
        return {name: memory_mib(pid, "VmHWM") for name, pid in pids.items()}


def used(earlier: Reading, later: Reading) -> Used:
    """What was used between two readings without a restart of a process."""
    return Used(
        seconds=later.at_s - earlier.at_s,
        server_cpu_s=later.server_cpu_s - earlier.server_cpu_s,
        etcd_cpu_s=later.etcd_cpu_s - earlier.etcd_cpu_s,
        manager_cpu_s=later.manager_cpu_s - earlier.manager_cpu_s,
        own_cpu_s=later.own_cpu_s - earlier.own_cpu_s,
        rejected=later.rejected - earlier.rejected,
    )


def cpu_s(pid: int) -> float:
    """The CPU time of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """The resident memory of a process: now, or its maximum (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 1024


def _sum(text: str, name: str) -> float:
    """The sum of all series of a metric."""
    return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))

"""Which sizes the machine can bear: memory and file descriptors."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from lab import LabError

BASE_MIB = 700
"""The API server, etcd, the manager and this program without objects and agents."""
MIB_PER_NODE = 2.0
"""Connections and watches, in the API server and here."""
KIB_PER_VM = 90.0
"""An object and its last changes in the API server's caches, its versions in etcd, and the lists while all agents list
at once. Measured while 20,000 VMs were created; an API server that is left alone afterwards needs much less."""
SHARE = 0.8
"""How much of the available memory the fleet may take."""
FILES_PER_NODE, OTHER_FILES = 4, 500
"""A node has two watches and one or two connections for requests, in each of the two processes."""


def needed_mib(nodes: int, vms: int) -> float:
    """An estimate of the memory that all processes take together at their peak."""
    return BASE_MIB + nodes * MIB_PER_NODE + vms * KIB_PER_VM / 1024


def check(nodes: int, vms: int) -> None:
    """Raise the limit of open files as far as needed. LabError in one sentence if memory or files do not suffice."""
    needed, available = needed_mib(nodes, vms), SHARE * _available_mib()
    if needed > available:
        raise LabError(
            f"{nodes} nodes with {vms} VMs take about {needed / 1024:.1f} GiB, and {available / 1024:.1f} GiB"
            f" ({SHARE:.0%} of what is available) may be used: take fewer."
        )
    files = OTHER_FILES + nodes * FILES_PER_NODE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and files > hard:
        raise LabError(f"{nodes} nodes take {files} open files, and the limit is {hard}: raise it with `ulimit -Hn`.")
    if soft != resource.RLIM_INFINITY and files > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def _available_mib() -> float:
    return int(re.findall(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)[0]) / 1024

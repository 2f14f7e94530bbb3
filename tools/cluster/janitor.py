"""Removes what would outlive the owner of a cluster: cgroups, and the disks of the nodes.

It is a separate program. Its argument names what it removes (`{"cgroups": [...], "folders": [...]}`). It reads the
process id of each node's first process from standard input, one per line. When standard input ends, also because the
owner was killed with SIGKILL, it kills these processes, which ends everything in their nodes, and then cleans up.
"""

import json
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

LIMIT_S = 60
POLL_INTERVAL_S = 0.02


def end(node: int) -> None:
    """Kill the first process of a node; it ends when all other processes of the node have ended."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(node, signal.SIGKILL)
    if not select.select([node], [], [], LIMIT_S)[0]:
        raise TimeoutError("A node does not end.")


def remove_cgroup(root: Path) -> None:
    """Remove a cgroup and everything below it; the kernel refuses while a killed process has not ended yet."""
    deadline = time.monotonic() + LIMIT_S
    while root.exists():
        for cgroup in [*sorted(root.glob("**/"), reverse=True), root]:
            with suppress(OSError):
                cgroup.rmdir()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{root} cannot be removed.")
        time.sleep(POLL_INTERVAL_S)


def main() -> None:
    """Wait for the end of standard input, and clean up."""
    remains = json.loads(sys.argv[1])
    nodes = []
    for line in sys.stdin:
        with suppress(ProcessLookupError):  # it has ended already
            nodes.append(os.pidfd_open(int(line)))
    for node in nodes:
        end(node)
    for cgroup in remains["cgroups"]:
        remove_cgroup(Path(cgroup))
    for folder in remains["folders"]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

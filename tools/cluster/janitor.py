"""Outlives the owner of a cluster, and then removes what would outlive both: cgroups, and the disks of the nodes.

A program of its own, called with what it is to remove as JSON (`{"cgroups": [...], "folders": [...]}`), and told on
standard input, a line each, which processes are the first of a node. The end of standard input, which also comes when
the owner is killed with -9, ends these, and with each all that runs in its node.
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
    """Kill the first process of a node; it is gone when all others of the node are."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(node, signal.SIGKILL)
    if not select.select([node], [], [], LIMIT_S)[0]:
        raise TimeoutError("A node does not end.")


def remove_cgroup(root: Path) -> None:
    """Remove a cgroup and all below it; the kernel refuses while a process that was killed is still on its way out."""
    deadline = time.monotonic() + LIMIT_S
    while root.exists():
        for cgroup in [*sorted(root.glob("**/"), reverse=True), root]:
            with suppress(OSError):
                cgroup.rmdir()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{root} cannot be removed.")
        time.sleep(POLL_INTERVAL_S)


def main() -> None:
    """Wait for the end, and clean up."""
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

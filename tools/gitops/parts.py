"""What the processes of both engines need: free ports, and a start that returns when they are ready."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, closing

from lab.processes import Process, reserve_port

READY_TIMEOUT_S = 120


def run(ends: ExitStack, process: Process, ready: Callable[[], bool]) -> None:
    """Start a process that ends with `ends`, and return when it is ready; LabError with the end of its log if not."""
    ends.callback(process.stop)
    process.start()
    process.wait_until(ready, timeout_s=READY_TIMEOUT_S)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now: a program of an engine cannot share a port that is held for it."""
    with ExitStack() as held:
        return [held.enter_context(reserve_port()).getsockname()[1] for _ in range(count)]


def listens(port: int) -> bool:
    """Whether a program listens on this port of 127.0.0.1."""
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

"""What both engines need: their programs, free ports, and a start that returns when they are ready."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from lab import LabError
from lab.controlplane import ControlPlane
from lab.gomodule import GoModule
from lab.processes import Process, reserve_port
from lab.world import until

READY_TIMEOUT_S = 120


def built(module: GoModule) -> Path:
    """The folder of an engine's programs, with its CRDs; LabError if they are not built."""
    if not module.commands.exists():
        raise LabError(f"{module.title} not found in {module.commands}: run `make gitops-setup`.")
    return module.commands


def until_served(controlplane: ControlPlane, *kinds: str) -> None:
    """Wait until the API server serves these kinds, each as `group/version/plural`."""

    def served(kind: str) -> bool:
        # Any other request would have kubectl remember for hours what was not served yet.
        return controlplane.kubectl("get", "--raw", f"/apis/{kind}", check=False).returncode == 0

    for kind in kinds:
        until(partial(served, kind), f"{kind} is not served.")


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

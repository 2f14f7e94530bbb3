"""Kubernetes' garbage collector and namespace controller, which every cluster has and the lab's control plane lacks."""

from pathlib import Path
from typing import Self

from lab.binaries import find_assets
from lab.controlplane import ControlPlane
from lab.processes import Process

COMMAND = "kube-controller-manager"


class Collector:
    """kube-controller-manager with the two controllers that delete; use it as a context manager.

    Without it, an object that is deleted in the foreground stays for ever, with a `deletionTimestamp`, and so does a
    namespace.
    """

    def __init__(self, controlplane: ControlPlane, folder: Path) -> None:
        arguments = [
            f"--kubeconfig={controlplane.kubeconfig}",
            "--controllers=garbage-collector-controller,namespace-controller",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        self._process = Process(COMMAND, [find_assets([COMMAND]) / COMMAND, *arguments], log=folder / f"{COMMAND}.log")

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

"""Flux as processes on a control plane of the lab: the source-controller and the kustomize-controller.

These are the parts that apply a folder of Git. Flux's Helm, image and notification controllers do not run.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from gitops.parts import built, free_ports, listens, run, until_served
from lab.controlplane import ControlPlane
from lab.gomodule import GoModule
from lab.processes import Process

NAMESPACE = "flux-system"
SOURCE, KUSTOMIZE = "source-controller", "kustomize-controller"
UPSTREAM = "github.com/fluxcd"
MODULE = GoModule(
    Path(__file__).parent / "engines" / "flux",
    "Flux",
    f"{UPSTREAM}/{KUSTOMIZE}",
    name="flux",
    copied={f"crds-{name}": (f"{UPSTREAM}/{name}", "config/crd/bases") for name in (SOURCE, KUSTOMIZE)},
    programs=[f"{UPSTREAM}/{name}" for name in (SOURCE, KUSTOMIZE)],
)
KUSTOMIZATIONS = "kustomize.toolkit.fluxcd.io/v1/kustomizations"
KINDS = ("source.toolkit.fluxcd.io/v1/gitrepositories", KUSTOMIZATIONS)
SHARD = "sharding.fluxcd.io/key"
"""The label that assigns a Kustomization to a controller of its own."""
CANCEL = "--feature-gates=CancelHealthCheckOnNewRevision=true"
"""With it, a new commit ends the health check of the one before it. deploy/flux/README.md recommends it."""


class Flux:
    """A source-controller and kustomize-controllers in a folder; use it as a context manager.

    Its binaries must be built. The kustomize-controller cancels health checks (`CANCEL`). `shard` starts another one
    with other flags.
    """

    def __init__(self, controlplane: ControlPlane, folder: Path) -> None:
        self.controlplane = controlplane
        self.folder = folder.resolve()
        self._binaries = built(MODULE)
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._install()
        with ExitStack() as ends:
            self._ends = ends
            self._start_source_controller()
            self._start_kustomize_controller(KUSTOMIZE, f"!{SHARD}", [CANCEL])
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def log(self, name: str) -> Path:
        """The log of one of its processes."""
        return self.folder / f"{name}.log"

    def shard(self, key: str, flags: Sequence[str] = ()) -> None:
        """Start one more kustomize-controller, for the Kustomizations whose label `SHARD` has this value."""
        self._start_kustomize_controller(f"{KUSTOMIZE}-{key}", f"{SHARD}={key}", flags)

    def _install(self) -> None:
        """Create what its processes read, and wait until it is served."""
        kubectl = self.controlplane.kubectl
        for name in (SOURCE, KUSTOMIZE):
            kubectl("apply", "--server-side", "-f", str(self._binaries / f"crds-{name}"))
        until_served(self.controlplane, *KINDS)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        kubectl("apply", "-f", "-", input=json.dumps(namespace))

    def _start_source_controller(self) -> None:
        data = self.folder / "artifacts"
        data.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        # The kustomize-controller fetches from the advertised address.
        words = [f"--storage-path={data}", f"--storage-addr={address}", f"--storage-adv-addr={address}"]
        self._part(SOURCE, SOURCE, words, listens_on=port)

    def _start_kustomize_controller(self, name: str, selector: str, flags: Sequence[str]) -> None:
        words = [f"--watch-label-selector={selector}", "--no-remote-bases", "--requeue-dependency=2s", *flags]
        self._part(name, KUSTOMIZE, words)

    def _part(self, name: str, program: str, words: Sequence[str], *, listens_on: int | None = None) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        health, metrics = free_ports(2)
        common = [
            "--enable-leader-election=false",
            "--watch-all-namespaces",
            "--events-addr=",
            "--log-level=info",
            f"--health-addr=127.0.0.1:{health}",
            f"--metrics-addr=127.0.0.1:{metrics}",
        ]
        settings = {
            "KUBECONFIG": str(self.controlplane.kubeconfig),
            "RUNTIME_NAMESPACE": NAMESPACE,
            "TMPDIR": str(self.folder / "tmp"),
        }
        process = Process(
            name, [self._binaries / program, *common, *words], log=self.log(name), env=os.environ | settings
        )
        run(self._ends, process, lambda: listens(health) and (listens_on is None or listens(listens_on)))

"""The binaries of the control plane: taken from the user's folder, or built once from tools/kubernetes with Go."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lab import LabError, gomodule
from lab.gomodule import GoModule

COMMANDS = ("etcd", "kube-apiserver", "kubectl")
MODULE = Path(__file__).parents[1] / "kubernetes"
CACHE = gomodule.CACHE


def find_assets(commands: Iterable[str] = COMMANDS) -> Path:
    """The folder that holds these binaries: $KUBEBUILDER_ASSETS if set, otherwise the folder that set-up built.

    LabError if one is missing.
    """
    if chosen := os.environ.get("KUBEBUILDER_ASSETS"):
        folder, cure = Path(chosen).absolute(), "complete the folder KUBEBUILDER_ASSETS names, or unset it"
    else:
        folder, cure = cached_assets(), "run `make setup`"
    if missing := [name for name in commands if not os.access(folder / name, os.X_OK)]:
        raise LabError(f"{', '.join(missing)} not found in {folder}: {cure}.")
    return folder


def cached_assets() -> Path:
    """The folder of the built binaries: a different one for every version of the Go module."""
    return _module().commands


def build_assets() -> Path:
    """Build the control plane unless it exists; the first build takes minutes and shows progress on standard error."""
    if os.environ.get("KUBEBUILDER_ASSETS"):
        return find_assets()
    return _module().build()


def stamped(module: GoModule) -> GoModule:
    """The module with the version of Kubernetes in its commands, for otherwise clients and servers see v0.0.0."""
    major, minor, _ = module.version.removeprefix("v").split(".")
    words = {"gitVersion": module.version, "gitMajor": major, "gitMinor": minor}
    stamps = {f"k8s.io/component-base/version.{name}": word for name, word in words.items()}
    return replace(module, stamps=stamps)


def _module() -> GoModule:
    return stamped(GoModule(MODULE, "Control plane", "k8s.io/kubernetes"))

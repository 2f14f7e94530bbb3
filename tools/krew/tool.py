"""The real Krew, built with Go for the tests."""

from pathlib import Path

from lab.gomodule import CACHE, GoModule

MODULE = GoModule(Path(__file__).with_name("upstream"), "Krew", "sigs.k8s.io/krew")


def folder() -> Path:
    """The folder that has kubectl-krew once it is built."""
    return CACHE / f"krew-{MODULE.version}-{MODULE.digest}"


def build() -> Path:
    """Build Krew unless it exists, and return its folder. LabError if it cannot be built."""
    MODULE.build(folder())
    return folder()

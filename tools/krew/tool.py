"""The real Krew, built with Go for the tests."""

from pathlib import Path

from lab.gomodule import GoModule

MODULE = GoModule(Path(__file__).with_name("upstream"), "Krew", "sigs.k8s.io/krew", name="krew")
"""Its folder of commands has kubectl-krew."""

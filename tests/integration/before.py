"""The version before this one, from the history of this repository. It has no Hypervisor and no manager."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BEFORE = "d2d1f1e1a5cc7cc42de576e3689f00816a99bd97"
"""While nothing is released: the last commit whose agents know no Hypervisor, and wrote none of the newer fields."""


def unpack_before(folder: Path) -> dict[str, str]:
    """Unpack its `controller` and `deploy` into a folder.

    Returns what makes `python -m controller` its agent, whatever the working directory is.
    """
    words = ["git", "archive", BEFORE, "controller", "deploy"]
    packed = subprocess.run(words, cwd=REPOSITORY, check=False, capture_output=True)
    if packed.returncode:
        pytest.fail(f"This clone has not the history back to {BEFORE}: run `git fetch --unshallow`.")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}

"""Builds the wheel and the source distribution."""

import sys
from pathlib import Path

from release import ROOT, run


def build_packages(folder: Path, epoch: int, source: Path = ROOT) -> list[Path]:
    """Write the wheel and the source distribution. ReleaseError if a build fails.

    The build backend is that of this environment, whose version is in uv.lock: it writes its name into the wheel.
    """
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=source, SOURCE_DATE_EPOCH=str(epoch))
    return sorted(folder.iterdir())

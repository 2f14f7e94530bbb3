"""The Helm chart as an archive in Helm's layout."""

import shutil
import tempfile
from pathlib import Path

import yaml

from krew.archive import pack
from release import ROOT, ReleaseError

CHART = ROOT / "deploy" / "chart"


def build_chart(folder: Path, version: str, chart: Path = CHART) -> Path:
    """Write the archive of the chart, and return it.

    `helm package` writes the time of the build and the times of files, so two archives of it differ. ReleaseError if
    the chart has another version.
    """
    described = yaml.safe_load((chart / "Chart.yaml").read_text())
    for key in ("version", "appVersion"):
        if described[key] != version:
            raise ReleaseError(f"{key} of deploy/chart/Chart.yaml is {described[key]}, not {version}.")
    archive = folder / f"{described['name']}-{version}.tgz"
    with tempfile.TemporaryDirectory() as name:
        # Files that are links to others of the repository become copies.
        shutil.copytree(chart, Path(name) / described["name"])
        pack(Path(name), archive)
    return archive

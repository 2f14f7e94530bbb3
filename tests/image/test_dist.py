"""A release is built twice, from nothing, and has all of its files."""

import json
import subprocess
from pathlib import Path

import pytest

from controller import __version__
from release.build import DIST
from release.sbom import problems

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ROOT = Path(__file__).parents[2]
HANG_LIMIT_S = 3000


@pytest.mark.timeout(HANG_LIMIT_S)
def test_two_builds_of_the_present_commit_are_equal_and_complete() -> None:
    subprocess.run(["make", "dist-check"], cwd=ROOT, check=True)
    image = f"virtsync-{__version__}-image-amd64"
    assert {file.name for file in DIST.iterdir()} == {
        f"virtsync-{__version__}.tgz",
        "SHA256SUMS",
        "constraints.txt",
        "crds.yaml",
        "install.yaml",
        "krew.yaml",
        "virtsync-agent.service",
        f"kubectl-virtsync-v{__version__}.tar.gz",
        f"virtsync-{__version__}-py3-none-any.whl",
        f"virtsync-{__version__}.tar.gz",
        f"virtsync-{__version__}-wheel.cdx.json",
        f"{image}.tar.gz",
        f"{image}.cdx.json",
    }
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=DIST, check=True)
    for bill in DIST.glob("*.cdx.json"):
        assert problems(bill.read_text()) == ""
    inside = {one["purl"].split("@")[0] for one in json.loads((DIST / f"{image}.cdx.json").read_text())["components"]}
    assert {
        "pkg:deb/debian/libvirt0",
        "pkg:deb/debian/python3",
        "pkg:pypi/virtsync",
        "pkg:pypi/libvirt-python",
    } <= inside

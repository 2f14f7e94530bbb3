"""Builds the release of the present commit twice, from nothing, and compares the two."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from release import ROOT, ReleaseError, run
from release.compare import differences

VARIED = ({"TZ": "UTC"}, {"TZ": "Pacific/Kiritimati", "LC_ALL": "C"})
"""What the two builds do not share, besides the folder: the time zone and the language of the machine."""


def build_twice(folder: Path) -> None:
    """Build twice, each in a clone of its own and with an image from an empty store; keep the first build in `folder`.

    ReleaseError with one sentence for each file that differs. Takes about ten minutes, and the space of two images.
    """
    with tempfile.TemporaryDirectory(prefix="virtsync-dist-") as name:
        # The lengths of the paths differ, too.
        builds = [Path(name) / "one", Path(name) / "the-other"]
        commit = run("git", "rev-parse", "HEAD").strip()
        for clone, varied in zip(builds, VARIED, strict=True):
            run("git", "clone", "--quiet", "--no-checkout", ROOT, clone)
            run("git", "checkout", "--quiet", "--detach", commit, cwd=clone)
            _make_dist(clone, Path(name) / f"store-{clone.name}", varied)
        if found := differences(*(clone / "dist" for clone in builds)):
            raise ReleaseError("Two builds of this commit differ:\n" + "\n".join(found))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(builds[0] / "dist", folder)


def _make_dist(clone: Path, store: Path, varied: dict[str, str]) -> None:
    try:
        run("make", "dist", cwd=clone, STORE=str(store), **varied)
    finally:
        # An engine that was interrupted leaves its mounts behind.
        for layers in store.glob("images-*/overlay"):
            subprocess.run(["umount", "--recursive", "--quiet", layers], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(store, ignore_errors=True)

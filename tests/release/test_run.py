"""A program that fails, or is missing, ends in one sentence instead of a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from release import ROOT, ReleaseError, run


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(ReleaseError, match=r"^no-such-program was not found: install it"):
        run("no-such-program", "release", "create")


def test_a_program_that_fails_is_told_with_its_output() -> None:
    with pytest.raises(ReleaseError, match="it is so"):
        run("sh", "-c", "echo it is so; exit 3")


def test_publishing_without_gh_says_so_in_one_sentence(tmp_path: Path) -> None:
    """The whole command, in a folder that has the files of a release."""
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    for name in ("dist/SHA256SUMS", "build/release-notes.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    # `release` finds its files beside the folder that it is imported from.
    env = {"PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path / 'tools'}:{ROOT}"}
    publish = [sys.executable, "-m", "release", "publish"]
    done = subprocess.run(publish, cwd=tmp_path, env=env, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "gh was not found: install it and run the command again.\n")

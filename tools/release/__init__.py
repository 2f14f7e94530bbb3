"""The files of a release: builds them, builds them again to compare, and says whether a version can be released."""

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = "https://github.com/virtsync/virtsync"


class ReleaseError(Exception):
    """A release that cannot be built, or must not be published; the message is for people."""


def run(*words: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """Run a program and return what it printed.

    ReleaseError with the end of its output if it fails, and with a sentence if it is not installed.
    """
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=os.environ | env,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename} was not found: install it and run the command again.") from None
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, words))} failed; the end of its output:\n{done.stdout[-4000:]}")
    return done.stdout


def commit_epoch() -> int:
    """The time of the commit in seconds, which all files of a release have; SOURCE_DATE_EPOCH overrides it."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct"))


def sha256(file: Path) -> str:
    """The SHA-256 digest of a file in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

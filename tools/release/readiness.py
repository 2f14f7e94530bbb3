"""Whether the present commit is a release: its tag, its changelog, and no change that is not committed."""

from pathlib import Path

from controller import __version__
from release import ROOT, ReleaseError, changelog, run


def release_notes(folder: Path = ROOT) -> str:
    """Return the notes of the release that the commit in a folder is. ReleaseError with a sentence if it is none."""
    if run("git", "status", "--porcelain", cwd=folder):
        raise ReleaseError("There are changes that are not committed.")
    tag = f"v{__version__}"
    tags = [name for name in run("git", "tag", "--points-at", "HEAD", cwd=folder).split() if name.startswith("v")]
    if tags != [tag]:
        found = f"its tags are {', '.join(tags)}" if tags else "it has no tag"
        raise ReleaseError(f"The version of this commit is {__version__}, so its tag must be {tag}; {found}.")
    return changelog.notes((folder / "CHANGELOG.md").read_text(), __version__)

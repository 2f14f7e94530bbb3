"""`make release-check` accepts a commit only with the tag of its version, and with nothing that is not committed."""

import subprocess
from pathlib import Path

import pytest

from controller import __version__
from release import ReleaseError
from release.readiness import release_notes

CHANGELOG = f"## [Unreleased]\n\n## [{__version__}] - 2026-11-30\n\n- All.\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    for words in ("init -q", "add .", "commit -q -m one"):
        _git(tmp_path, *words.split())
    return tmp_path


def _git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def test_the_tag_of_the_version_is_needed(repository: Path) -> None:
    with pytest.raises(ReleaseError, match=rf"must be v{__version__}; it has no tag"):
        release_notes(repository)
    _git(repository, "tag", "v9.9.9")
    with pytest.raises(ReleaseError, match=r"its tags are v9\.9\.9"):
        release_notes(repository)


def test_a_tagged_commit_has_its_notes(repository: Path) -> None:
    _git(repository, "tag", f"v{__version__}")
    assert release_notes(repository) == "- All.\n"


def test_a_change_that_is_not_committed_is_refused(repository: Path) -> None:
    _git(repository, "tag", f"v{__version__}")
    (repository / "new").touch()
    with pytest.raises(ReleaseError, match="not committed"):
        release_notes(repository)

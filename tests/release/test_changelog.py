"""The notes of a release come from CHANGELOG.md, and a version without notes is not released."""

from pathlib import Path

import pytest

from controller import __version__
from release import ReleaseError
from release.changelog import HEADING, notes, section

CHANGELOG = """\
# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-24

### Added

- A thing ([docs/api.md](docs/api.md#a-thing), [elsewhere](https://example.org/x)).

## [0.1.0] - 2026-11-30

- All.
"""


def test_the_notes_of_a_version_are_its_section_with_links_that_work_elsewhere() -> None:
    assert notes(CHANGELOG, "0.2.0") == (
        "### Added\n\n- A thing ([docs/api.md](https://github.com/virtsync/virtsync/blob/v0.2.0/docs/api.md#a-thing),"
        " [elsewhere](https://example.org/x)).\n"
    )
    assert notes(CHANGELOG, "0.1.0") == "- All.\n"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (CHANGELOG.replace("[0.2.0]", "[0.3.0]"), "no section"),
        (CHANGELOG.replace(" - 2026-12-24", ""), "no date"),
        (CHANGELOG.replace("- All.\n", "").replace("0.2.0", "0.0.9"), "no section"),
        (CHANGELOG.replace("## [Unreleased]\n", "## [Unreleased]\n\n- A change.\n"), "unreleased changes"),
        (CHANGELOG.replace("### Added\n\n- A thing", "\n## [0.1.9]\n- A thing"), "is empty"),
        (CHANGELOG.replace("### Added", "To become 0.2.0.\n\n### Added"), r"still says 'To become 0\.2\.0\.': remove"),
    ],
)
def test_a_version_that_is_not_ready_is_told_apart(changed: str, told: str) -> None:
    with pytest.raises(ReleaseError, match=told):
        notes(changed, "0.2.0")


def test_the_changelog_of_this_project_has_the_version_or_what_is_to_become_it() -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    names = [heading["name"] for heading in HEADING.finditer(changelog)]
    assert names[0] == "Unreleased"
    released = [heading for heading in HEADING.finditer(changelog) if heading["name"] == __version__]
    if released:
        assert released[0]["date"]
    else:
        assert section(changelog, "Unreleased")[0].startswith(f"To become {__version__}.")

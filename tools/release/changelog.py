"""Reads CHANGELOG.md: the notes of one version, and what keeps a version from being released. Pure."""

import re

from release import PROJECT, ReleaseError

UNRELEASED = "Unreleased"
HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)
PLAN = re.compile(r"^To become \S+\.$", re.MULTILINE)
"""The first line of what is not released yet."""
LINK = re.compile(r"\]\((?![a-z]+:|#)")


def section(changelog: str, name: str) -> tuple[str, str | None]:
    """Return the text of the section with this name, and its date. ReleaseError if there is none."""
    headings = [*HEADING.finditer(changelog)]
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading["name"] == name:
            end = following.start() if following else len(changelog)
            return changelog[heading.end() : end].strip(), heading["date"]
    raise ReleaseError(f"CHANGELOG.md has no section '## [{name}] - DATE'.")


def notes(changelog: str, version: str) -> str:
    """Return the notes of a version, with links that work outside of the repository.

    ReleaseError if the version has no section with a date and text, if the section still says what it is to become, or
    if there are changes that have no version.
    """
    text, date = section(changelog, version)
    if not date:
        raise ReleaseError(f"The section of {version} in CHANGELOG.md has no date.")
    if not text:
        raise ReleaseError(f"The section of {version} in CHANGELOG.md is empty.")
    if plan := PLAN.search(text):
        raise ReleaseError(f"The section of {version} in CHANGELOG.md still says '{plan[0]}': remove this line.")
    if section(changelog, UNRELEASED)[0]:
        raise ReleaseError(f"CHANGELOG.md has unreleased changes: move them to the section of {version}.")
    return LINK.sub(f"]({PROJECT}/blob/v{version}/", text) + "\n"

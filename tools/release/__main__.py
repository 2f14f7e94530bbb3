"""The commands: `python -m release build`, `check`, `notes`, `publish`."""

import sys
from pathlib import Path

import click

from controller import __version__
from release import ROOT, ReleaseError, run
from release.build import DIST, SUMS, build
from release.readiness import release_notes
from release.rebuild import build_twice

NOTES = ROOT / "build" / "release-notes.md"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Build the files of a release, check them, and publish them."""


@cli.command("build")
def build_once() -> None:
    """Write the files of this version into dist/; build/image.tar must be there."""
    _print_sizes(build(DIST))


@cli.command()
def check() -> None:
    """Build the present commit twice, fail if one byte differs, and keep one build in dist/."""
    build_twice(DIST)
    _print_sizes(sorted(DIST.iterdir()))
    click.echo("Two builds are equal, byte by byte.")


@cli.command()
def notes() -> None:
    """Fail unless the present commit is a release; else write its notes to build/release-notes.md."""
    text = release_notes()
    NOTES.parent.mkdir(exist_ok=True)
    NOTES.write_text(text)
    click.echo(f"{__version__} can be released; its notes are in {NOTES.relative_to(ROOT)}.")


@cli.command()
def publish() -> None:
    """Create the release on GitHub with gh, from dist/ and build/release-notes.md."""
    if not (DIST / SUMS).exists() or not NOTES.exists():
        raise ReleaseError("There is nothing to publish: run `make release-check dist-check`.")
    tag = f"v{__version__}"
    words = ("--verify-tag", "--title", tag, "--notes-file", NOTES)
    click.echo(run("gh", "release", "create", tag, *words, *sorted(DIST.iterdir())))


def _print_sizes(files: list[Path]) -> None:
    for file in files:
        click.echo(f"{file.stat().st_size:>11,} {file.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        cli()
    except ReleaseError as error:
        sys.exit(str(error))

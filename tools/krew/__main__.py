"""The commands: `python -m krew archive FOLDER`, `python -m krew tool`."""

from pathlib import Path

import click

from krew import archive, manifest, tool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Build the plugin as Krew installs it, and Krew itself."""


@cli.command("archive")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def build_archive(folder: Path) -> None:
    """Write the archive and its manifest into FOLDER."""
    packed, described = folder / manifest.archive_name(), folder / "virtsync.yaml"
    archive.build(packed)
    described.write_text(manifest.render(packed))
    click.echo(f"kubectl krew install --manifest={described} --archive={packed}")


@cli.command("tool")
def build_tool() -> None:
    """Build Krew with Go unless it exists, and print its folder."""
    click.echo(tool.MODULE.build())


if __name__ == "__main__":
    cli()

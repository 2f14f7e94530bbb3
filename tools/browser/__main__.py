"""The commands about the page of the manager: `python -m browser COMMAND`."""

import json
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from browser import bench as benchmark
from browser import screenshots as pictures
from browser.example import HOSTS, VMS
from browser.objects import fleet
from browser.stage import stage
from lab import processes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "page.json"
IMAGES = ROOT / "docs" / "images"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Look at the page of the manager with a real Chromium."""


@cli.command()
@click.option("--vms", default=5000, show_default=True, help="How many VMs there are.")
def bench(vms: int) -> None:
    """Measure the page, print the figures, and write them to build/page.json."""
    with processes.terminating(), tempfile.TemporaryDirectory(prefix="virtsync-") as folder:
        figures = benchmark.measure(Path(folder), vms)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    print("\n".join(figures.lines()))


@cli.command()
def screenshots() -> None:
    """Write docs/images/page-light.png and page-dark.png."""
    with processes.terminating(), tempfile.TemporaryDirectory(prefix="virtsync-") as folder:
        for path in pictures.take(Path(folder), IMAGES):
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


@cli.command()
@click.option("--vms", default=0, help="Show this number of VMs instead of the example.")
def run(vms: int) -> None:
    """Serve the page about an example until Ctrl-C."""
    made, hosts = fleet(vms) if vms else (VMS, HOSTS)
    with (
        processes.terminating(),
        tempfile.TemporaryDirectory(prefix="virtsync-") as folder,
        stage(Path(folder), made, hosts) as manager,
    ):
        print(f"{manager.page} is the page, until Ctrl-C.", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            processes.own_until_asked()


if __name__ == "__main__":
    cli(prog_name="python -m browser")

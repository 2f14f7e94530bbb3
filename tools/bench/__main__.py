"""`python -m bench`: measure, print the table, write build/bench.json; `make bench` runs all measurements.

Exit code 0: all measurements succeeded, whether or not the goals were met.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import imports, latency, load, plot, report, stuck
from bench.parts import INSTALLED, ROOT, Lab, step
from lab import LabError, processes
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.trace import event_loop

RESULTS = ROOT / "build" / "bench.json"
PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"
EVENTS = 300
"""Measured for each reporter and driver."""
IDLE_S = 60.0
OUTAGE_MIN = 10.0

Figures = dict[str, Any]


LOADS = {
    "start": load.measure_start,
    "storm": load.measure_storm,
    "resync": load.measure_resync,
    "reconnect": load.measure_reconnect,
}
PARTS = ("imports", "latency", *LOADS, "stuck", "outage")


def chosen(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Parse names separated by commas."""
    names = tuple(value.split(",")) if value else PARTS
    if unknown := set(names) - set(PARTS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(PARTS)}.")
    return names


@click.command()
@click.option("--only", callback=chosen, default="", metavar="NAMES", help=f"Some of {', '.join(PARTS)}.")
@click.option("--imports", "only_imports", is_flag=True, help="The same as --only imports.")
@click.option("--events", default=EVENTS, show_default=True, help="latency: events timed for each reporter and driver.")
@click.option("--idle", "idle_s", default=IDLE_S, show_default=True, help="latency: seconds the agent is left alone.")
@click.option("--outage", "outage_min", default=OUTAGE_MIN, show_default=True, help="outage: its minutes.")
def main(*, only: tuple[str, ...], only_imports: bool, events: int, idle_s: float, outage_min: float) -> None:
    """Measure the agent, print the figures, and write them to build/bench.json.

    If all parts are measured, it also writes them into docs/performance.md and its picture.
    """
    if not INSTALLED.exists():
        raise LabError(f"{INSTALLED.relative_to(ROOT)} is missing: run `make installed`.")
    figures: Figures = {"machine": machine()}
    try:
        with processes.terminating(), tempfile.TemporaryDirectory(prefix="virtsync-") as name:
            with step("the agent's bytecode, as a first start leaves it"):
                keep_bytecode(Path(name, "bytecode"))
            if only_imports or "imports" in only:
                figures["imports"] = imports.measure()
            if not only_imports and set(only) != {"imports"}:
                measure(figures, only, Path(name), events=events, idle_s=idle_s, outage_s=outage_min * 60)
    finally:  # what was measured before a failure is worth having
        save(figures)
    out = Console(highlight=False, markup=False, width=110)
    for sheet in report.sheets(figures):
        out.print(sheet.table())
    if set(only) == set(PARTS) and not only_imports:
        plot.draw(figures, report.LIMITS, PICTURE)
        report.insert(figures, PAGE)
        out.print(f"{PAGE.relative_to(ROOT)} and its picture show them.")
    out.print(f"All figures are in {RESULTS.relative_to(ROOT)}.")


def measure(
    figures: Figures, only: tuple[str, ...], folder: Path, *, events: int, idle_s: float, outage_s: float
) -> None:
    """Run the chosen measurements one after another, and add the results to `figures`."""
    with event_loop(), ExitStack() as parts:
        with step("an API server that knows VirtualMachines"):
            controlplane = parts.enter_context(ControlPlane(folder / "controlplane"))
            controlplane.install_crds()
        with step("a libvirtd"):
            libvirtd = parts.enter_context(Libvirtd(folder / "kvm"))
        lab = Lab(folder, controlplane, libvirtd)
        if "latency" in only:
            figures |= latency.measure(lab, events=events, idle_s=idle_s)
        if "stuck" in only:
            figures |= stuck.measure(lab, events=2 * events)
        loads = LOADS | {"outage": lambda vms: load.measure_outage(vms, outage_s)}
        for words, measure_load in loads.items():
            if words in only:
                with load.thousand(lab) as vms:
                    figures |= measure_load(vms)


def save(figures: Figures) -> None:
    """Write all figures to the file."""
    RESULTS.parent.mkdir(exist_ok=True)
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 3))
    text = json.dumps(rounded, indent=2)
    # Put hundreds of samples on one line.
    RESULTS.write_text(re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


def keep_bytecode(folder: Path) -> None:
    """Compile the modules of all started processes into `folder`, independent of the environment.

    An installed agent has its bytecode beside it; without bytecode every start takes twice the time, and some MiB.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    subprocess.run([sys.executable, "-c", "import bench.floor"], check=True)
    modules = "import controller.agent.app, controller.cli, kubernetes.client, kubernetes.config"
    subprocess.run([INSTALLED, "-c", modules], check=True)


def machine() -> Figures:
    """The machine of the measurements."""
    cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()

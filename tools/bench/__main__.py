"""`python -m bench`: measure, print the table, write build/bench.json; `make bench` runs all of it.

Exit code 0: all could be measured, whether or not the goals were met.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import imports, latency, load, plot, stuck
from bench.parts import ROOT, Lab, step
from lab import processes
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.trace import event_loop

RESULTS = ROOT / "build" / "bench.json"
PICTURE = ROOT / "docs" / "performance.svg"
EVENTS = 300
"""Measured for each reporter and driver."""
IDLE_S = 60.0
OUTAGE_MIN = 10.0

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of build/bench.json that has a row in the table."""

    key: str
    words: str
    most: float | None = None
    digits: int = 2


GOALS = (
    Goal("event_to_status_ratio_p50", "event to status, agent : floor, p50", 1.3),
    Goal("event_to_status_ratio_p99", "event to status, agent : floor, p99", 2.0),
    Goal("start_to_first_status_s", "start to first status with 50 VMs, s", 1.5),
    Goal("agent_rss_mib_50_vms", "RSS with 50 VMs, MiB", 64, digits=1),
    Goal("idle_cpu_percent", "CPU while idle with 50 VMs, % of a core", 0.2),
    Goal("idle_patches_per_minute", "PATCHes a minute while idle", 0),
    Goal("start_ratio", "start with 1000 VMs : 1000 bare PATCHes", 2.0),
    Goal("storm_ratio", "10000 events, from the last to all right : 1000 bare PATCHes", 2.0),
    Goal("storm_total_ratio", "10000 events, from the first to all right : 1000 bare PATCHes"),
    Goal("storm_lost", "VMs that the storm left wrong", 0, digits=0),
    Goal("storm_event_lag_s", "event thread behind, at most, s", 1.0),
    Goal("resync_ratio", "relist of 1000 VMs : one getAllDomainStats", 2.0),
    Goal("resync_patches", "PATCHes after relists without a difference", 0, digits=0),
    Goal("resync_gets", "GETs after relists without a difference", 0, digits=0),
    Goal("reconnect_resync_s", "libvirtd back to 1000 VMs seen, s", 1.0),
    Goal("reconnect_right_ratio", "libvirtd back to 1000 statuses right : 1000 bare PATCHes"),
    Goal("stuck_p50_ratio", "event to status while six QEMUs hang : undisturbed, p50"),
    Goal("stuck_p99_ratio", "event to status while six QEMUs hang : undisturbed, p99", 3.0),
    Goal("outage_rss_growth_mib", "RSS grown while the API server was away, MiB", digits=1),
    Goal("outage_requests_per_s", "connections a second while it was away", digits=1),
    Goal("outage_recovery_s", "API server back to all right, s", 15),
)
LOADS = {
    "start": load.measure_start,
    "storm": load.measure_storm,
    "resync": load.measure_resync,
    "reconnect": load.measure_reconnect,
}
PARTS = ("imports", "latency", *LOADS, "stuck", "outage")


def chosen(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Read names between commas."""
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

    All of it also draws docs/performance.svg.
    """
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
    if "imports" in figures:
        out.print(imports_table(figures["imports"]))
    if len(figures) > 2 or "imports" not in figures:
        out.print(table(figures))
    if set(only) == set(PARTS) and not only_imports:
        plot.draw(figures, {goal.key: goal.most for goal in GOALS if goal.most}, latency.REPORTERS, PICTURE)
        out.print(f"The picture is in {PICTURE.relative_to(ROOT)}.")
    out.print(f"All figures are in {RESULTS.relative_to(ROOT)}.")


def measure(
    figures: Figures, only: tuple[str, ...], folder: Path, *, events: int, idle_s: float, outage_s: float
) -> None:
    """Measure what was chosen, one after another, and put it into `figures`."""
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
    """Write all figures down."""
    RESULTS.parent.mkdir(exist_ok=True)
    rounded = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 3))
    text = json.dumps(rounded, indent=2)
    # Hundreds of samples need not have a line each.
    RESULTS.write_text(re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


def keep_bytecode(folder: Path) -> None:
    """Let all that is started here find its modules compiled, whatever the environment says, and leave nothing behind.

    An installed agent has its bytecode beside it; without it every start takes twice the time, and some MiB.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    modules = "import bench.floor, controller.app, controller.cli, kubernetes.client, kubernetes.config"
    subprocess.run([sys.executable, "-c", modules], check=True)


def machine() -> Figures:
    """What the figures were taken on."""
    cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "load_average": os.getloadavg()[0],
    }


def table(figures: Figures) -> Table:
    """What was measured, against the goals."""
    rows = Table("figure", title="The agent")
    for column in ("measured", "goal", ""):
        rows.add_column(column, justify="right")
    for driver, measured in figures.get("drivers", {}).items():
        for name, words in latency.REPORTERS.items():
            cells = " / ".join(f"{measured[name][key]:.2f}" for key in ("p50", "p99"))
            rows.add_row(f"{driver}: event to status, {words}, p50 / p99 ms", cells)
    rows.add_section()
    for goal in GOALS:
        if goal.key in figures:
            value, most = figures[goal.key], goal.most
            verdict = "" if most is None else "met" if value <= most else "missed"
            rows.add_row(goal.words, f"{value:.{goal.digits}f}", "" if most is None else f"<= {most:g}", verdict)
    return rows


def imports_table(measured: list[Figures]) -> Table:
    """What each import costs."""
    rows = Table("library", title="What the agent imports")
    for column in ("alone, MiB", "here, MiB", "of it files", "CPU, ms", "sum, MiB"):
        rows.add_column(column, justify="right")
    for one in measured:
        cells = (one[key] for key in ("alone_mib", "more_mib", "of_files_mib", "cpu_ms", "total_mib"))
        rows.add_row(one["library"], *(f"{cell:.1f}" for cell in cells))
    return rows


if __name__ == "__main__":
    main()

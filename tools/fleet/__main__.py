"""`python -m fleet`: fill a real API server, run simulated agents on it, measure, print the table.

Exit code 0: all phases were measured, and virtsync kept its promises, such as that nobody is marked in an outage of the
API server. The figures are also in fleet.json, the progress is in fleet.log, and the manager's log is beside them.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fleet import limits, report
from fleet.agent import Rhythm
from fleet.agents import Agents
from fleet.client import PATIENT, Client, Tally
from fleet.manager import Manager
from fleet.marks import Marks
from fleet.objects import VIRTUAL_MACHINES
from fleet.phases import PHASES, Figures, Fleet, Options, recovered
from fleet.readings import Gauge, used
from fleet.stage import MANAGER_ACCOUNT, Stage, create_nodes, create_vms, report_vms
from lab import LabError, processes
from lab.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
BUILD, PAGE = ROOT / "build", ROOT / "docs" / "scale.md"
LARGE = 500
"""From this number of nodes, phases last longer unless an option says otherwise."""
LARGEST = 2000
"""From this number of nodes, the agents have the settings of docs/scale.md for it."""
SHOWN_SHARE = 10
"""The progress of a long step is shown this many times."""


def chosen(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Parse names separated by commas."""
    names = tuple(value.split(",")) if value else tuple(PHASES)
    if unknown := set(names) - set(PHASES):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(PHASES)}.")
    return names


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=50, type=click.IntRange(1), help="N: simulated agents.")
@click.option("--vms", default=500, type=click.IntRange(1), help="M: VirtualMachines.")
@click.option(
    "--writes",
    "writes_per_s",
    default=0.0,
    help="w: status writes a second.",
    show_default="20; 1 for 10 nodes from 200 on; at most 100",
)
@click.option("--only", callback=chosen, default="", metavar="NAMES", help=f"Some of {', '.join(PHASES)}.")
@click.option(
    "--seconds", default=0.0, help="Of each phase that measures a rate.", show_default=f"6; 60 from {LARGE} nodes on"
)
@click.option(
    "--outage",
    "outage_s",
    default=0.0,
    help="Seconds without the API server.",
    show_default=f"10; 300 from {LARGE} nodes on",
)
@click.option(
    "--rights",
    "rights_s",
    default=0.0,
    help="Seconds without the rights of the agents.",
    show_default="a quarter of the Lease",
)
@click.option(
    "--lease-duration",
    "lease_duration_s",
    default=0.0,
    help="Of the agents, in seconds.",
    show_default=f"20; 40 from {LARGE} nodes on; 80 from {LARGEST} nodes on",
)
@click.option(
    "--relist-spread",
    "relist_spread_s",
    default=0.0,
    help="Of the agents, in seconds.",
    show_default=f"10; 60 from {LARGE} nodes on",
)
@click.option(
    "--starting",
    "starting_at_once",
    default=0,
    type=click.IntRange(0),
    help="How many agents start at a time, as with this maxUnavailable.",
    show_default="2 for each CPU, at most 20",
)
@click.option("--manager/--no-manager", "with_manager", default=True, help="Run the real manager.")
@click.option(
    "--folder",
    default=BUILD,
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    help="Where the results and logs are written.",
    show_default="build",
)
@click.option("--page", is_flag=True, help="Write the table into docs/scale.md.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="What is printed.")
def main(*, only: tuple[str, ...], with_manager: bool, folder: Path, page: bool, output: str, **sizes: Any) -> None:
    """Measure what a fleet costs one API server, and how it fares when its parts fail."""
    options = _options(**sizes)
    limits.check(options.nodes, options.vms)
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder, {"machine": machine(), "options": asdict(options)})
    with (
        processes.terminating(),
        tempfile.TemporaryDirectory(prefix="virtsync-fleet-") as name,
        ControlPlane(Path(name, "controlplane")) as controlplane,
    ):
        results.say("the API server is ready")
        asyncio.run(measure(results, only, Stage(controlplane), options, with_manager=with_manager))
    if output == "json":
        print(results.file.read_text(), end="")
    else:
        Console(highlight=False, markup=False, width=170).print(report.table(results.figures))
    if page:
        report.insert(results.figures, PAGE)
    results.say(f"all figures are in {results.file}")
    if not all(row.kept for row in report.rows(results.figures)):
        raise LabError("A promise is broken: see the table.")


async def measure(
    results: Results, only: tuple[str, ...], stage: Stage, options: Options, *, with_manager: bool
) -> None:
    """Fill the API server, start the agents, and run the chosen phases. Each result is saved at once."""
    say = results.say
    async with AsyncExitStack() as parts:
        await asyncio.to_thread(stage.prepare)
        tally = Tally()
        administrator = await parts.enter_async_context(Client(stage.administrator(), Tally(), timeout=PATIENT))
        manager: Manager | None = None
        gauge = Gauge(stage.controlplane, administrator, lambda: manager.pid if manager else None)
        filled = await _fill(administrator, gauge, options, results)
        marks = await parts.enter_async_context(Marks(administrator))
        rhythm = Rhythm(options.lease_duration_s, options.relist_spread_s)
        login = await asyncio.to_thread(stage.agents)
        agents = Agents(options.nodes, options.vms, login, tally, rhythm, starting_at_once=options.starting_at_once)
        parts.push_async_callback(agents.close)
        before = await gauge.read()
        took_s = await agents.start(agents.all, results.counter("agents are started", options.nodes))
        started = used(before, await gauge.read())
        results.add("fill", filled | {"agent_ms": 1000 * started.server_cpu_s / options.nodes})
        say(f"{options.nodes} agents run, after {took_s:.0f} s")
        if with_manager:
            kubeconfig = await asyncio.to_thread(stage.kubeconfig, MANAGER_ACCOUNT)
            manager = parts.enter_context(Manager(kubeconfig, results.manager_log))
            await manager.until_it_leads(administrator)
            say("the manager leads")
        fleet = Fleet(options, stage, administrator, agents, marks, gauge, tally, manager)
        for phase in only:
            await recovered(fleet)
            say(f"{phase} ...")
            began_s = time.monotonic()
            results.add(phase, await PHASES[phase](fleet) | {"peaks_mib": gauge.peaks_mib()})
            say(f"{phase}: {time.monotonic() - began_s:.0f} s")


async def _fill(client: Client, gauge: Gauge, options: Options, results: Results) -> Figures:
    """Create all objects; the costs without any agent."""
    nodes, vms = options.nodes, options.vms
    readings = [await gauge.read()]
    await create_vms(client, nodes, vms, results.counter("VMs are created", vms))
    readings.append(await gauge.read())
    await report_vms(client, nodes, vms, results.counter("VMs are reported", vms))
    readings.append(await gauge.read())
    await create_nodes(client, nodes, vms, options.lease_duration_s)
    results.say(f"{nodes} Hypervisors and Leases are created")
    create, write = used(*readings[:2]), used(*readings[1:])
    one = await client.send("other", "GET", VIRTUAL_MACHINES, limit="1")
    return {
        "vm_kb": len(one) / 1000,
        "create_ms": 1000 * create.server_cpu_s / vms,
        "report_ms": 1000 * write.server_cpu_s / vms,
        "vms_per_s": vms / (create.seconds + write.seconds),
    }


class Results:
    """The figures so far, and the files in which they and the logs are."""

    def __init__(self, folder: Path, figures: Figures) -> None:
        self.figures = figures
        self.file, self.manager_log, self._log = (
            folder / name for name in ("fleet.json", "fleet-manager.log", "fleet.log")
        )
        for log in (self._log, self.manager_log):
            log.unlink(missing_ok=True)
        self._began_s = time.monotonic()

    def add(self, phase: str, figures: Figures) -> None:
        """Add the figures of a phase, and save all: what was measured before a failure is worth having."""
        self.figures[phase] = figures
        self.figures["machine"]["load_average_end"] = os.getloadavg()[0]
        rounded = json.loads(json.dumps(self.figures), parse_float=lambda text: round(float(text), 4))
        self.file.write_text(json.dumps(rounded, indent=2) + "\n")

    def say(self, words: str) -> None:
        """Print a line of progress to standard error, and append it to the log."""
        line = f"{time.monotonic() - self._began_s:7.1f} s  {words}"
        with self._log.open("a") as log:
            print(line, file=log)
        print(line, file=sys.stderr, flush=True)

    def counter(self, what: str, whole: int) -> Any:
        """A function that takes the number that is done."""
        step = max(1, whole // SHOWN_SHARE)

        def count(done: int) -> None:
            if done % step == 0:
                self.say(f"{done} of {whole} {what}")

        return count


def machine() -> Figures:
    """The machine of the measurements."""
    cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "load_average": os.getloadavg()[0],
    }


def _options(*, nodes: int, **given: float) -> Options:
    """The options, with defaults that depend on the number of nodes."""
    large = nodes >= LARGE
    lease_duration_s = given["lease_duration_s"] or (80.0 if nodes >= LARGEST else 40.0 if large else 20.0)
    defaults = {
        "writes_per_s": min(100.0, max(20.0, nodes / 10)),
        "seconds": 60.0 if large else 6.0,
        "outage_s": 300.0 if large else 10.0,
        "rights_s": lease_duration_s / 4,  # with the retries that follow, this is shorter than the grace
        "lease_duration_s": lease_duration_s,
        "relist_spread_s": 60.0 if large else 10.0,
        "starting_at_once": min(20, 2 * (os.cpu_count() or 1)),
    }
    return Options(nodes=nodes, **(defaults | {name: value for name, value in given.items() if value}))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(prog_name="make fleet")

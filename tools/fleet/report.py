"""The figures as one table: each with the formula of `docs/scale.md` and what it gives for this size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from controller.fleet.mass import VMS_PER_S
from controller.kube.lease import RENEWALS
from fleet.limits import needed_mib

BASE_CORES = 0.1
RENEWAL_MS = 1.3
WRITE_MS = 3.5
WATCHER_US = 1.6, 6.5
"""What each watch of VirtualMachines adds to a status write: with many writes in a row, and with writes far apart."""
LISTED_US = 0.8
LEASE_US = 15
LEASES_EVERY_S = 2
VM_KB, LEASE_KB = 2.3, 1.1
HEAD = "what", "formula", "expected", "measured"
BEGIN, END = "<!-- what `make fleet` has measured -->", "<!-- end of that -->"
HERDS = "with", "without"
TOLERANCE = 1.1
"""The watch shows marks a little earlier or later than they were made."""
KEPT_S = 300
"""etcd keeps old versions for this time: the API server compacts them every 5 minutes."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    formula: str
    expected: str
    measured: str
    kept: bool = True
    """Whether a promise of virtsync holds; costs and latencies are no promises."""

    def cells(self) -> tuple[str, ...]:
        """The texts of the line."""
        return self.what, self.formula, self.expected, self.measured if self.kept else f"BROKEN: {self.measured}"


def rows(figures: Figures) -> list[Row]:
    """The rows of the phases that were measured."""
    makers = {
        "fill": _fill,
        "idle": _idle,
        "writes": _writes,
        "lists": _lists,
        "herd": _herd,
        "mass_silence": _mass_silence,
        "mark_storm": _mark_storm,
        "outage": _outage,
        "rights": _rights,
    }
    found: list[Row] = []
    for phase, make in makers.items():
        if skipped := figures.get(phase, {}).get("skipped"):
            found.append(Row(phase.replace("_", " "), "", "", f"not measured: {skipped}"))
        elif phase in figures:
            found += make(figures["options"], figures[phase])
    if peaks := [figures[phase]["peaks_mib"] for phase in makers if "peaks_mib" in figures.get(phase, {})]:
        most = {name: max(one.get(name, 0.0) for one in peaks) for name in peaks[-1]}
        words = ", ".join(f"{name} {mib:.0f}" for name, mib in most.items())
        needed = needed_mib(figures["options"]["nodes"], figures["options"]["vms"])
        found.append(Row("memory at the peak", "see limits.py", f"{needed:.0f} MiB", f"{words} MiB"))
    return found


def table(figures: Figures) -> Table:
    """For the terminal."""
    made = Table(*HEAD, title=_title(figures), title_justify="left")
    for row in rows(figures):
        made.add_row(*row.cells())
    return made


def insert(figures: Figures, page: Path) -> None:
    """Replace the figures on the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows(figures))]
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    page.write_text(before + "\n\n".join((BEGIN, f"{_title(figures)}.", markdown, END)) + rest.partition(END)[2])


def _title(figures: Figures) -> str:
    options, machine = figures["options"], figures["machine"]
    return (
        f"N={options['nodes']} nodes, M={options['vms']} VMs, w={options['writes_per_s']:g} writes/s,"
        f" lease duration {options['lease_duration_s']:g} s; {machine['cpus']} CPUs ({machine['cpu']}), load average"
        f" {machine['load_average']:.1f} at the beginning and {machine['load_average_end']:.1f} at the end"
    )


def _fill(_options: Figures, fill: Figures) -> list[Row]:
    return [
        Row("size of a VirtualMachine", "2.3 kB", "2.3 kB", f"{fill['vm_kb']:.1f} kB"),
        Row("status write, no agents", "3.5 ms", "3.5 ms", f"{fill['report_ms']:.1f} ms of CPU"),
        Row("creation of a VM", "", "", f"{fill['create_ms']:.1f} ms of CPU; {fill['vms_per_s']:.0f} VMs/s"),
        Row("start of an agent", "", "", f"{fill['agent_ms']:.0f} ms of CPU"),
    ]


def _idle(options: Figures, idle: Figures) -> list[Row]:
    nodes, vms, every_s = options["nodes"], options["vms"], options["lease_duration_s"] / RENEWALS
    renewals = idle["renew"]["requests"] / idle["seconds"]
    kept_kb = KEPT_S * nodes / every_s * LEASE_KB
    return [
        Row(
            "idle fleet: CPU of the API server",
            f"0.1 core + N/{every_s:g} s x 1.3 ms",
            f"{BASE_CORES + nodes / every_s * RENEWAL_MS / 1000:.2f} cores",
            f"{idle['server_cores']:.2f} cores; {renewals:.1f} renewals/s, p99 {idle['renew']['p99_ms']:.0f} ms",
        ),
        Row("idle fleet: memory of the API server", "", "", f"{idle['server_rss_mib']:.0f} MiB"),
        Row(
            "etcd: size of the database",
            f"M x 2.3 kB + 300 s x N/{every_s:g} s x 1.1 kB",
            f"{(vms * VM_KB + kept_kb) / 1024:.0f} MiB",
            f"{idle['etcd_size_mib']:.0f} MiB; {idle['etcd_cores']:.2f} cores, {idle['etcd_rss_mib']:.0f} MiB RSS",
        ),
        Row(
            "manager",
            "",
            "",
            f"{idle['manager_cores']:.3f} cores, {idle['manager_rss_mib']:.0f} MiB"
            if idle["manager_rss_mib"]
            else "none",
        ),
    ]


def _writes(options: Figures, writes: Figures) -> list[Row]:
    least, most = (WRITE_MS + options["nodes"] * each / 1000 for each in WATCHER_US)
    return [
        Row(
            "status write",
            "3.5 ms + N x 1.6..6.5 us",
            f"{least:.1f} to {most:.1f} ms",
            f"{writes['cost_ms']:.1f} ms of CPU; {_latency(writes['write'])}",
        )
    ]


def _latency(requests: Figures) -> str:
    return f"p50 {requests['p50_ms']:.0f} ms, p99 {requests['p99_ms']:.0f} ms"


def _lists(options: Figures, lists: Figures) -> list[Row]:
    nodes, vms = options["nodes"], options["vms"]
    filtered_ms, leases_ms = lists["filtered"]["cost_ms"], lists["leases"]["cost_ms"]
    return [
        Row("filtered LIST", "M x 0.8 us", f"{vms * LISTED_US / 1000:.1f} ms", f"{filtered_ms:.1f} ms of CPU"),
        Row(
            "relist every 3600 s",
            "N/3600 s x LIST",
            f"{nodes / 3600 * vms * LISTED_US / 1e6:.4f} cores",
            f"{nodes / 3600 * filtered_ms / 1000:.4f} cores (from the LIST)",
        ),
        Row(
            "manager's lists of Leases, 2 replicas",
            "2 x N x 15 us / 2 s",
            f"{2 * nodes * LEASE_US / 1e6 / LEASES_EVERY_S:.3f} cores",
            f"{2 * leases_ms / 1000 / LEASES_EVERY_S:.3f} cores; a list takes {lists['leases']['p50_ms']:.0f} ms",
        ),
        Row(
            "manager's list of all Hypervisors",
            "",
            "",
            f"{lists['hypervisors']['cost_ms']:.0f} ms of CPU; {lists['hypervisors']['p50_ms']:.0f} ms in all",
        ),
        Row(
            "manager's sweep: a Table of all VMs",
            "M x 23 us",
            f"{vms * 23 / 1e6:.2f} s",
            f"{lists['table']['cost_ms'] / 1000:.2f} s of CPU; {lists['table']['p50_ms'] / 1000:.1f} s in all",
        ),
    ]


def _herd(options: Figures, herd: Figures) -> list[Row]:
    expected = 2 * options["nodes"] * options["vms"] * LISTED_US / 1e6
    return [
        Row(
            f"all agents list at once, {how} flow control",
            "2 x N x M x 0.8 us",
            f"{expected:.1f} core s",
            f"{one['core_s']:.1f} core s in {one['seconds']:.1f} s; {one['failed']} of {one['lists']} lists failed;"
            f" renewals: p99 {one['renew']['p99_ms']:.0f} ms, {one['renew']['statuses'].get('429', 0)} with 429",
        )
        for how, one in herd.items()
        if how in HERDS
    ]


def _mass_silence(_options: Figures, mass: Figures) -> list[Row]:
    return [
        Row(
            f"mass silence: {mass['silent']} agents, 100 s",
            "no VM is marked",
            "0 VMs",
            f"{mass['vm_marks']} VMs, {mass['hypervisors_marked']} Hypervisors; all right {mass['back_s']:.0f} s after",
            kept=mass["vm_marks"] == 0,
        )
    ]


def _mark_storm(_options: Figures, storm: Figures) -> list[Row]:
    ratios = ", ".join(f"{kind} {ratio:.1f}" for kind, ratio in storm["p99_ratio"].items())
    return [
        Row(
            f"mark storm: {storm['marks']} VMs of {storm['silent']} agents",
            f"<= {VMS_PER_S:g} marks/s after a burst",
            f"<= {VMS_PER_S:g}/s",
            f"{storm['marks_per_s']:.0f}/s; first after {storm['first_s']:.0f} s, last after {storm['last_s']:.0f} s",
            kept=storm["marks_per_s"] <= VMS_PER_S * TOLERANCE,
        ),
        Row("mark storm: renewals with 429", "none", "0", f"{storm['renewals_429']}", kept=not storm["renewals_429"]),
        Row(
            "mark storm: p99 of the others, compared with before",
            "< 2",
            "< 2",
            ratios or "not measured: run `writes` too",
        ),
        Row("mark storm: all agents return", "", "", f"all right after {storm['back_s']:.0f} s"),
    ]


def _outage(options: Figures, outage: Figures) -> list[Row]:
    return [
        Row(
            f"API server killed for {outage['outage_s']:.0f} s",
            "nobody is marked",
            "0 marks",
            f"{outage['marks_made']} marks, {outage['marked_vms']} VMs marked;"
            f" {outage['requests_per_s']:.0f} requests/s without an answer",
            kept=not outage["marks_made"] and not outage["marked_vms"],
        ),
        Row(
            "API server back",
            "lists within --relist-spread",
            f"{options['relist_spread_s']:g} s",
            f"Leases and watches after {outage['renewed_s']:.1f} s, lists after {outage['right_s']:.1f} s;"
            f" {outage['server_core_s']:.1f} core s",
        ),
    ]


def _rights(_options: Figures, rights: Figures) -> list[Row]:
    return [
        Row(
            f"rights of the agents away for {rights['without_s']:.0f} s",
            "",
            "0 marks",
            f"{rights['marks_made']} marks; {rights['refused_per_s']:.0f} requests/s refused;"
            f" all right {rights['right_s']:.1f} s after",
            kept=not rights["marks_made"],
        )
    ]

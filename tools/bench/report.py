"""The results as tables for people: on the terminal and in docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.latency import REPORTERS

Figures = dict[str, Any]

BEGIN, END = "<!-- what `make bench` has measured -->", "<!-- end of that -->"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of build/bench.json with a row in the table."""

    key: str
    words: str
    most: float | None = None
    digits: int = 2


GOALS = (
    Goal("event_to_status_ratio_p50", "event to status, agent : floor on full objects, p50", 1.3),
    Goal("event_to_status_ratio_p99", "event to status, agent : floor on full objects, p99", 1.6),
    Goal("event_to_status_ratio_to_empty_p50", "event to status, agent : floor on empty objects, p50"),
    Goal("start_to_first_status_s", "start to first status with 50 VMs, s", 1.5),
    Goal("agent_rss_mib_50_vms", "RSS with 50 VMs, MiB", 88, digits=1),
    Goal("agent_private_mib_50_vms", "private memory of it with 50 VMs, MiB", 60, digits=1),
    Goal("idle_cpu_percent", "CPU while idle with 50 VMs, % of a core", 0.2),
    Goal("idle_patches_per_minute", "PATCHes a minute while idle", 0),
    Goal("start_ratio", "start with 1000 VMs : 1000 bare PATCHes", 2.0),
    Goal("start_ratio_to_same", "start with 1000 VMs : 1000 PATCHes of the same statuses"),
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
LIMITS = {goal.key: goal.most for goal in GOALS if goal.most is not None}


THREADS = {
    "imports": "the interpreter and its imports",
    "worker": "1000 reconcile passes, with a PATCH each, in 8 threads",
    "MainThread": "the watches, in one thread",
}
"""The threads of the agent, by the names in `threads.py`, with a row each in the table of the start."""
OTHER_THREADS = "all other threads"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(self.head[0])
        for word in self.head[1:]:
            table.add_column(word, justify="right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the page."""
        lines = [self.head, ("---", *("--:" for _ in self.head[1:])), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sheets(figures: Figures) -> list[Sheet]:
    """The tables for which there are figures."""
    found = (
        _goals(figures),
        _times(figures.get("drivers", {})),
        _start(figures.get("start", {})),
        _imports(figures.get("imports", [])),
    )
    return [sheet for sheet in found if sheet.rows]


def insert(figures: Figures, page: Path) -> None:
    """Replace the figures on the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    machine = figures["machine"]
    words = f"{machine['cpus']} CPUs ({machine['cpu']}), load average {machine['load_average']:.1f} at the beginning."
    parts = (BEGIN, words, *(sheet.markdown() for sheet in sheets(figures)), END)
    page.write_text(before + "\n\n".join(parts) + rest.partition(END)[2])


def _goals(figures: Figures) -> Sheet:
    rows: list[tuple[str, ...]] = []
    for goal in GOALS:
        if goal.key in figures:
            value, most = figures[goal.key], goal.most
            verdict = "" if most is None else "met" if value <= most else "missed"
            limit = "" if most is None else f"<= {most:g}"
            rows.append((goal.words, f"{value:.{goal.digits}f}", limit, verdict))
    return Sheet(("figure", "measured", "goal", ""), rows)


def _times(drivers: dict[str, Figures]) -> Sheet:
    rows: list[tuple[str, ...]] = [
        (f"{driver}: {words}", *(f"{measured[name][key]:.2f}" for key in ("p50", "p99", "from_call_p50")))
        for driver, measured in drivers.items()
        for name, words in REPORTERS.items()
    ]
    return Sheet(("ms from event to status", "p50", "p99", "p50 from before the call"), rows)


def _start(start: Figures) -> Sheet:
    if not start:
        return Sheet((), [])
    times = dict(start["threads_s"])
    named = {words: times.pop(name, 0.0) for name, words in THREADS.items()}
    agent, same = named | {OTHER_THREADS: sum(times.values())}, start["same"]
    sums = (
        ("the agent or the client together", sum(agent.values()), same["client_s"], start["floor_client_s"]),
        ("the API server meanwhile", start["server_s"], same["server_s"], start["floor_server_s"]),
        ("all processes of the machine", start["machine_s"], same["machine_s"], start["floor_machine_s"]),
        ("duration", start["all_s"], same["s"], start["floor_s"]),
    )
    rows: list[tuple[str, ...]] = [
        *((words, f"{time_s:.2f}", "", "") for words, time_s in agent.items()),
        *((words, *(f"{time_s:.2f}" for time_s in times_s)) for words, *times_s in sums),
    ]
    head = ("start with 1000 VMs: processor time, s", "agent", "1000 PATCHes of the same statuses", "1000 bare PATCHes")
    return Sheet(head, rows)


def _imports(libraries: list[Figures]) -> Sheet:
    keys = ("alone_mib", "more_mib", "of_files_mib", "cpu_ms", "total_mib")
    rows: list[tuple[str, ...]] = [(one["library"], *(f"{one[key]:.1f}" for key in keys)) for one in libraries]
    return Sheet(("import", "alone, MiB", "here, MiB", "of it files", "CPU, ms", "sum, MiB"), rows)

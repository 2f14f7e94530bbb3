"""The results of a run, for people."""

import math
import statistics
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from chaos.judge import Verdict
from chaos.stage import Footprint, Guilt

ENOUGH_AN_HOUR = 15
ACCUSATIONS_SHOWN = 20
FOOTPRINT_EVERY_S = 300.0


@dataclass
class Figures:
    """The results of the run. Any thread may call `note`; only the main thread uses the rest."""

    done: Counter[str] = field(default_factory=Counter)
    """The number of deeds and faults, by name."""
    refused: Counter[str] = field(default_factory=Counter)
    """The number of deeds and faults that were not possible, by name."""
    effects: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    unjustified: list[Verdict] = field(default_factory=list)
    wrong_writes: list[str] = field(default_factory=list)
    """The writes of managers that were not justified, one sentence each."""
    double_runs: list[Guilt] = field(default_factory=list)
    runs: int = 0
    ages_s: list[float] = field(default_factory=list)
    """How old the API server's answer was at each action."""
    right_after_s: list[float] = field(default_factory=list)
    footprints: dict[int, list[tuple[float, Footprint]]] = field(default_factory=dict)
    """Measurements by process id, with the time since the run began."""
    minutes: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, name: str, *, done: bool) -> None:
        """Count a deed or a fault that was done, or that was not possible."""
        with self._lock:
            (self.done if done else self.refused)[name] += 1

    @property
    def guilty(self) -> list[Guilt]:
        """The double runs that agents began."""
        return [one for one in self.double_runs if one.act]

    def accusations(self) -> list[str]:
        """The forbidden actions of agents, one line each; only the first ones if there are very many."""
        found = [
            *(f"double run: {_told(one.act)} on {_double(one)}" for one in self.double_runs if one.act),
            *(f"unjustified: {_told(one)}: {one.why_not}" for one in self.unjustified),
            *(f"unjustified write: {one}" for one in self.wrong_writes),
        ]
        more = len(found) - ACCUSATIONS_SHOWN
        return [*found[:ACCUSATIONS_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def summary(figures: Figures, expected: list[str]) -> str:
    """The figures; `expected` are the names of all planned deeds and faults."""
    times, ages_s = figures.right_after_s or [0.0], figures.ages_s or [0.0]
    enough = math.ceil(ENOUGH_AN_HOUR * figures.minutes / 60)
    few = [f"{name.strip()} ({figures.done[name]})" for name in expected if figures.done[name] < enough]
    return "\n".join(
        (
            "",
            f"{'deed or fault':<46}{'done':>6}{'could not be done':>20}",
            *(f"{name:<46}{figures.done[name]:>6}{figures.refused[name]:>20}" for name in expected),
            f"fewer than {enough} ({ENOUGH_AN_HOUR} an hour): {', '.join(few) or 'none'}",
            "",
            f"effects: {', '.join(f'{name} {n}' for name, n in figures.effects.items())}",
            f"acts of the agents: {', '.join(f'{verb} {n}' for verb, n in figures.acts.most_common())}",
            f"the API server's answer before an act: {median_ms(ages_s)} ms old as a rule, {max(ages_s):.2f} s at most",
            f"unjustified: {len(figures.unjustified)}",
            f"unjustified writes of managers: {len(figures.wrong_writes)}",
            f"runs of QEMU: {figures.runs}",
            f"double runs: {len(figures.guilty)} begun by agents, {len(figures.double_runs) - len(figures.guilty)} not",
            f"right after: {statistics.median(times):.1f} s as a rule, {max(times):.1f} s at most, of quiet",
            *_footprints(max(figures.footprints.values(), key=len, default=[])),
        )
    )


def median_ms(times_s: list[float]) -> int:
    """The median in whole milliseconds."""
    return round(1000 * statistics.median(times_s))


def _footprints(longest: list[tuple[float, Footprint]]) -> list[str]:
    """The measurements of the longest-lived process: after its first round, then every 5 minutes, and at the end."""
    if not longest:
        return []
    shown = [longest[0]]
    for one in longest[1:-1]:
        if one[0] >= shown[-1][0] + FOOTPRINT_EVERY_S:
            shown.append(one)
    shown.append(longest[-1])
    head = f"footprint of the process that lived longest, {len(longest)} rounds:"
    return [head, *(f"  {at_s / 60:5.1f} min: {one}" for at_s, one in shown)]


def _told(verdict: Verdict) -> str:
    return f"{verdict.verb} of {verdict.call.name} at {datetime.fromtimestamp(verdict.call.at_s, UTC)}"


def _double(guilt: Guilt) -> str:
    first, second = guilt.double.first, guilt.double.second
    since = datetime.fromtimestamp(first.begin_s, UTC)
    return f"{second.node} (QEMU {second.pid}), while it ran on {first.node} (QEMU {first.pid}) since {since}"

"""Every run of a QEMU, as the machines themselves would count it, and which two of them must never have been.

Nothing here comes from an agent: not its reports, not its log. What exempts two runs from the rule is what the docs say
that no agent can know, one predicate each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from uuid import UUID


class By(Enum):
    """Whose call made a QEMU."""

    AGENT = "create() of the agent"
    VIRSH = "virsh start"
    RESTORE = "virsh restore"
    MIGRATION = "incoming migration"
    AUTOSTART = "autostart"


@dataclass(eq=False, slots=True)
class Run:
    """One QEMU; times are seconds of the simulation."""

    uuid: UUID
    machine: str
    by: By
    called_s: float
    """When the call was made that led to it: a slow start makes its QEMU long after."""
    began_s: float
    ended_s: float | None = None
    lost_s: float | None = None
    """Since when libvirt shows the domain off although this QEMU lives."""
    unknown_s: float | None = None
    """When an agent of its machine first started the domain beside it, of which it cannot know: it came after the end
    of the pid file."""
    tellable_s: float | None = None
    """Since when an agent whose VM this is, and which reaches libvirt and the API server, has had time to report it."""

    def __str__(self) -> str:
        ended = "lives" if self.ended_s is None else f"{self.ended_s:.1f}"
        lost = "" if self.lost_s is None else f", libvirt shows it off since {self.lost_s:.1f}"
        return (
            f"domain {self.uuid.int} on {self.machine}: {self.began_s:.1f} to {ended} by {self.by.value}"
            f" called at {self.called_s:.1f}{lost}"
        )


class Ledger:
    """The runs of all machines. One thread at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moments = 0
        self.runs: list[Run] = []
        self._remade_s: dict[UUID, list[float]] = {}
        """When the object of a domain was deleted and made anew."""
        self.told: Callable[[str], None] = lambda _line: None

    def moment(self) -> float:
        """The time, and a little more at each call: of two things in one instant it tells which was the first."""
        self._moments += 1
        return self._clock() + self._moments * 1e-6

    def begin(self, uuid: UUID, machine: str, by: By, called_s: float) -> Run:
        """A QEMU begins."""
        run = Run(uuid, machine, by, called_s, self.moment())
        self.runs.append(run)
        self.told(f"{machine}: a QEMU of domain {uuid.int} begins, by {by.value}")
        return run

    def end(self, run: Run) -> None:
        """A QEMU is gone."""
        if run.ended_s is None:
            run.ended_s = self.moment()
            self.told(f"{run.machine}: a QEMU of domain {run.uuid.int} ends")

    def lose(self, run: Run) -> None:
        """A QEMU lives on, and libvirt no longer knows of it."""
        run.lost_s = self.moment()
        self.told(f"{run.machine}: libvirt shows domain {run.uuid.int} off, but its QEMU lives")

    def forget_history(self, uuid: UUID) -> None:
        """The object of this domain was deleted and made anew: what was told of its QEMUs must be told again."""
        self._remade_s.setdefault(uuid, []).append(self.moment())
        for run in self.runs:
            if run.uuid == uuid and run.ended_s is None:
                run.tellable_s = None

    def remade_between(self, uuid: UUID, first_s: float, last_s: float) -> bool:
        """Whether its object was deleted and made anew between these times."""
        return any(first_s <= at_s <= last_s for at_s in self._remade_s.get(uuid, ()))

    def wrongs(self) -> list[str]:
        """Each pair of runs that the agents must not have brought about."""
        pairs = (_ordered(*pair) for pair in combinations(self.runs, 2) if _overlap(*pair))
        return [
            f"{later} began while {earlier}"
            for earlier, later in pairs
            if later.by is By.AGENT and not any(exempts(self, earlier, later) for exempts in EXEMPTIONS)
        ]

    def lines(self) -> list[str]:
        """The ledger, a run a line."""
        return [str(run) for run in self.runs]


def _ordered(one: Run, other: Run) -> tuple[Run, Run]:
    """The earlier first; of two that began together the agent's is the later."""
    first, second = sorted((one, other), key=lambda run: (run.began_s, run.by is By.AGENT))
    return first, second


def _overlap(one: Run, other: Run) -> bool:
    first, second = _ordered(one, other)
    return one.uuid == other.uuid and (first.ended_s is None or first.ended_s > second.began_s)


# --- what no agent can know, as the docs say -------------------------------------------------------------------------


def _began_during_the_call(_ledger: Ledger, earlier: Run, later: Run) -> bool:
    """Somebody else made the other QEMU when the agent's call was out already: a call cannot be taken back."""
    return earlier.by is not By.AGENT and earlier.began_s > later.called_s


def _nobody_looked(_ledger: Ledger, earlier: Run, later: Run) -> bool:
    """Somebody else made the other QEMU (a migration, a stranger, autostart) while no agent could tell of it."""
    return earlier.by is not By.AGENT and not _could_be_told(earlier, later)


def _lost_by_another_libvirt(_ledger: Ledger, earlier: Run, later: Run) -> bool:
    """libvirt of another machine said that it was off there, and was wrong: its QEMU can be asked for only there."""
    return earlier.machine != later.machine and earlier.lost_s is not None and earlier.lost_s <= later.called_s


def _seen_by_no_agent_of_now(_ledger: Ledger, earlier: Run, later: Run) -> bool:
    """libvirt was wrong that it was off, and the agent of now came after that: no pid file is left to read."""
    return earlier.machine == later.machine and earlier.unknown_s is not None and earlier.unknown_s <= later.called_s


def _has_no_history(ledger: Ledger, earlier: Run, later: Run) -> bool:
    """The object was deleted and made anew for another machine, and nobody could tell of the other QEMU since."""
    first, second = sorted((earlier, later), key=lambda run: run.called_s)  # a slow start may begin after the other
    remade = ledger.remade_between(first.uuid, first.called_s, second.called_s)
    return first.machine != second.machine and remade and not _could_be_told(first, second)


def _ran_here_too(ledger: Ledger, earlier: Run, later: Run) -> bool:
    """It ran here before beside the other, which was somebody else's doing, and the agent here had adopted it.

    Where that was an agent's doing, those two are wrong already.
    """
    return any(
        run.machine == later.machine and run.began_s < later.began_s and _overlap(run, earlier)
        for run in ledger.runs
        if run not in {earlier, later} and run.machine != earlier.machine
    )


def _could_be_told(earlier: Run, later: Run) -> bool:
    return earlier.tellable_s is not None and earlier.tellable_s <= later.called_s


EXEMPTIONS = (
    _began_during_the_call,
    _nobody_looked,
    _lost_by_another_libvirt,
    _seen_by_no_agent_of_now,
    _has_no_history,
    _ran_here_too,
)
"""A start under a vouching is no exemption: the users of these worlds vouch for nothing that is not so, and what they
vouched for once excuses nothing later."""

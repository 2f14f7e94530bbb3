"""Seeded random faults: rounds of chaos, each followed by a quiet phase in which everything must become correct again.

Exit code 0: everything was correct after each round, each action and each mark was justified, no VM ran twice, nothing
leaked. Runs with the same seed do the same in the same order, but the timing against the machine's other work differs.
"""

import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
import libvirt
import urllib3
from kubernetes.client import ApiException

from chaos.checks import NotRightError, heal, leaks, until_counted, until_right
from chaos.deeds import DEEDS, Deed
from chaos.report import Figures, summary
from chaos.stage import Stage, Vm
from chaos.stories import NotReachedError
from chaos.troubles import CARELESS, TROUBLES, UNSEEN, Trouble
from lab import LabError, processes

ROUND_S = 25.0
DEEDS_PER_S = 4.0
TROUBLES_PER_ROUND = (12, 16)
MOST_AT_ONE_THING = 3
"""How many faults of a round may hit the same target: they come one after another."""
REFUSED = (libvirt.libvirtError, ApiException, urllib3.exceptions.HTTPError, NotReachedError)
FOR_EVER_S = 86400.0
OLD_VOUCHING = "  of these under a vouching that had stayed"
LISTED = "  of these listed by a manager"
CERTIFICATE_ENDED = "client certificate ended, after it was renewed"


@dataclass
class Deck:
    """The faults as a deck of cards, reshuffled when it is empty: so all faults are equally frequent."""

    dice: random.Random
    kinds: tuple[Trouble, ...]
    _cards: list[Trouble] = field(default_factory=list)

    def deal(self) -> list[Trouble]:
        """The faults of a round; faults that cannot be combined with these stay on top of the deck."""
        count = min(self.dice.randint(*TROUBLES_PER_ROUND), len(self.kinds))
        while self.kinds and len(self._cards) < 2 * count:
            fresh = [kind for kind in self.kinds for _ in range(kind.share)]
            self.dice.shuffle(fresh)
            self._cards += fresh
        dealt: list[Trouble] = []
        for card in list(self._cards):
            if len(dealt) < count and _goes_with(card, dealt):
                self._cards.remove(card)
                dealt.append(card)
        return dealt

    def put_back(self, trouble: Trouble) -> None:
        """Put back a fault that was not possible, so that it comes again soon."""
        self._cards.insert(0, trouble)


def _goes_with(card: Trouble, dealt: list[Trouble]) -> bool:
    if card.rewrites and any(one.moves or one.rewrites for one in dealt):
        return False
    if card.moves and any(one.rewrites for one in dealt):
        return False
    hits = Counter(hit for one in dealt for hit in one.hits)
    return all(hits[hit] < MOST_AT_ONE_THING for hit in card.hits)


class Play:
    """Rounds on a stage."""

    def __init__(self, stage: Stage, dice: random.Random, deck: Deck, figures: Figures) -> None:
        self.stage, self.figures = stage, figures
        self._dice, self._deck = dice, deck
        self._begin_s = time.monotonic()
        self._turns = {hit: threading.Lock() for trouble in TROUBLES for hit in trouble.hits}
        """One lock for each target: only the holder of the lock may hit the target."""

    def settle(self) -> None:
        """Wait until everything is correct, and judge the actions. Raises NotRightError."""
        try:
            self.figures.right_after_s.append(until_right(self.stage))
        finally:
            self._judge()

    def round(self, number: int) -> None:
        """Run chaos, then quiet, then the checks. Raises NotRightError."""
        dealt = self._deck.deal()
        self._chaos(dealt)
        heal(self.stage)
        self.settle()
        for name, program in self.stage.programs.items():
            seen = time.monotonic() - self._begin_s, self.stage.footprint(name)
            self.figures.footprints.setdefault(program.pid, []).append(seen)
        click.echo(
            f"round {number} ({', '.join(sorted(one.name for one in dealt))}): "
            f"right after {self.figures.right_after_s[-1]:.1f} s; {self.figures.acts.total()} acts so far, "
            f"{len(self.figures.unjustified)} unjustified, {len(self.figures.guilty)} double runs",
            err=True,
        )

    def _chaos(self, dealt: list[Trouble]) -> None:
        """Return when each fault is over and each deed was done or refused."""
        for node in self.stage.agents:
            self.stage.set_clock(node, 0)
        plan: list[tuple[float, Deed, Vm, random.Random]] = []
        for _ in range(int(ROUND_S * DEEDS_PER_S)):
            real = self._dice.random() < 0.5
            vm = self._dice.choice([vm for vm in self.stage.vms if bool(vm.guests) is real])
            deeds = [deed for deed in DEEDS if deed.suits(vm)]
            deed = self._dice.choices(deeds, [deed.weight for deed in deeds])[0]
            plan.append((self._dice.uniform(0, ROUND_S), deed, vm, random.Random(self._dice.random())))
        begin_s = time.monotonic()
        with ThreadPoolExecutor(8) as hands, ThreadPoolExecutor(len(dealt) + 1) as faults:
            ends = [
                faults.submit(
                    self._suffer,
                    one,
                    begin_s + self._dice.uniform(0, max(0, ROUND_S - one.shortest_s)),
                    random.Random(self._dice.random()),
                )
                for one in dealt
            ]
            for at_s, deed, vm, dice in sorted(plan, key=lambda one: one[0]):
                time.sleep(max(0.0, begin_s + at_s - time.monotonic()))
                hands.submit(self._attempt, deed, vm, dice)
            for end in ends:
                end.result()

    def _suffer(self, trouble: Trouble, at_s: float, dice: random.Random) -> None:
        """Begin and end a fault, when no other fault hits the same target."""
        time.sleep(max(0.0, at_s - time.monotonic()))
        with ExitStack() as held, ExitStack() as fault:
            for hit in sorted(trouble.hits):
                held.enter_context(self._turns[hit])
            try:
                fault.enter_context(trouble.begin(self.stage, dice))
            except REFUSED:
                self.figures.note(trouble.name, done=False)
                self._deck.put_back(trouble)
                return
            self.figures.note(trouble.name, done=True)
            time.sleep(dice.uniform(trouble.shortest_s, trouble.longest_s))

    def _attempt(self, deed: Deed, vm: Vm, dice: random.Random) -> None:
        """Do the deed, if it is possible."""
        try:
            deed.do(self.stage, vm, dice)
        except (*REFUSED, LabError):
            self.figures.note(deed.name, done=False)
        else:
            self.figures.note(deed.name, done=True)

    def _judge(self) -> None:
        """Judge the actions of the round."""
        figures, stage = self.figures, self.stage
        verdicts, guilt = stage.verdicts()
        for verdict in verdicts:
            figures.acts[verdict.verb] += 1
            figures.ages_s.append(verdict.age_s)
            if verdict.why_not:
                figures.unjustified.append(verdict)
        figures.double_runs += guilt
        figures.runs = stage.runs.count
        figures.minutes = (time.monotonic() - self._begin_s) / 60
        figures.done[CERTIFICATE_ENDED] = stage.certificates.ended
        figures.done[OLD_VOUCHING] = stage.old_vouchings
        figures.done[LISTED] = stage.unseen_migrations
        figures.wrong_writes = stage.marks.wrong
        figures.effects = effects(stage)


def effects(stage: Stage) -> Counter[str]:
    """Record how many of the faults have reached the agents."""
    found: Counter[str] = Counter()
    for relay in stage.relays.values():
        found["answers to reports lost"] += len(relay.lost)
        for words, count in relay.refused.items():
            found[f"requests refused with {words}"] += count
    found["answers of libvirt lost"] = sum(wire.lost for wire in stage.wires.values())
    found += stage.marks.written
    for orders in stage.orders.values():
        found += orders.maintenances()
    found["starts that waited"] = sum(starts.waited() for starts in stage.starts.values())
    return found


@click.command()
@click.option("--seed", default=1, show_default=True, help="What happens, and in which order.")
@click.option("--minutes", default=5.0, show_default=True, help="For how long; the round under way is ended.")
@click.option("--qemu-vms", default=14, show_default=True, help="VMs on QEMU that stay on the first node.")
@click.option("--moving-vms", default=8, show_default=True, help="VMs on QEMU that move between two nodes.")
@click.option("--test-vms", default=150, show_default=True, help="VMs on libvirt's test driver, on the third node.")
@click.option("--agent", "module", default="controller", show_default=True, help="The Python module of the agents.")
@click.option("--without", multiple=True, metavar="FAULT", help="A fault that is not to come; may be repeated.")
@click.option("--only", multiple=True, metavar="FAULT", help="No other faults than this; may be repeated.")
@click.option("--until-found", is_flag=True, help="End when an act was unjustified or a VM has run twice.")
def main(
    *,
    seed: int,
    minutes: float,
    qemu_vms: int,
    moving_vms: int,
    test_vms: int,
    module: str,
    without: tuple[str, ...],
    only: tuple[str, ...],
    until_found: bool,
) -> None:
    """Run random faults on real parts, and check that everything becomes correct afterwards.

    Starts etcd and kube-apiserver, two managers, three nodes with a libvirtd and an agent each, and their VMs: QEMUs on
    two nodes, domains of libvirt's test driver on the third. Needs root. Then runs rounds of chaos, each followed by a
    quiet phase, in which everything must become correct within a minute. The report counts each deed and each fault.

    Exit code 0: everything was correct after each round, each action of an agent and each write of a manager was
    justified, no agent started a VM that ran elsewhere, and no process's resource usage grew.

    To show that the judge detects wrong actions: --agent chaos.reckless acts without asking the API server, --agent
    chaos.forgetful forgets which starts it has begun, and --agent chaos.deaf obeys no maintenance.
    """
    names = [one.name for one in TROUBLES] + [CERTIFICATE_ENDED]
    if unknown := {*without, *only} - set(names):
        raise click.BadParameter(f"{', '.join(unknown)}; faults are: {'; '.join(names)}")
    faults = [name for name in names if name in (only or names) and name not in without]
    folder = Path(tempfile.mkdtemp(prefix="virtsync-chaos-"))
    figures, dice = Figures(), random.Random(seed)
    found: list[str] = []
    libvirt.registerErrorHandler(lambda *_: None, None)  # what is refused is counted
    try:
        with processes.terminating():
            stage = Stage(folder, module, qemu_vms, moving_vms, test_vms)
            if CERTIFICATE_ENDED not in faults:
                stage.certificate_life_s = FOR_EVER_S
            deck = Deck(dice, tuple(one for one in TROUBLES if one.name in faults))
            run(Play(stage, dice, deck, figures), minutes, until_found=until_found)
    except NotRightError as error:
        found.append(str(error))
    found += figures.accusations()
    found += leaks(figures.footprints)
    if UNSEEN in faults:
        faults.insert(faults.index(UNSEEN) + 1, LISTED)
    if CARELESS in faults:
        faults.insert(faults.index(CARELESS) + 1, OLD_VOUCHING)
    click.echo(summary(figures, [*faults, *(deed.name for deed in DEEDS)]))
    if found:
        again = f"again: make chaos SEED={seed} MINUTES={minutes:g}; all logs are in {folder}"
        click.echo("\n".join((*found, again)))
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def run(play: Play, minutes: float, *, until_found: bool) -> None:
    """Run rounds until the time is over, or until a guilty action is found if that is enough. Raises NotRightError."""
    click.echo("starting a control plane, three nodes and their VMs", err=True)
    with play.stage:
        end_s = time.monotonic() + minutes * 60
        play.settle()
        number = 0
        while time.monotonic() < end_s and not (until_found and play.figures.accusations()):
            number += 1
            play.round(number)
        until_counted(play.stage)


if __name__ == "__main__":
    main()

"""Random faults, seeded: rounds of chaos, each followed by quiet in which all must become right again.

Exit code 0: all was right after each round, each act was justified, nothing leaked. A run with the same seed does the
same in the same order; how it falls together with what the machine does is another matter.
"""

import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click
import libvirt
import urllib3
from kubernetes.client import ApiException

from chaos.checks import NotRightError, heal, leaks, until_right
from chaos.deeds import DEEDS, GUEST_DEEDS, TROUBLES, Deed, Trouble
from chaos.judge import Verdict
from chaos.stage import Footprint, Stage, Vm
from lab import LabError, processes

ROUND_S = 20.0
DEEDS_PER_S = 6.0
TROUBLES_PER_ROUND = 3
REFUSED = (libvirt.libvirtError, ApiException, urllib3.exceptions.HTTPError, LabError)


@dataclass
class Figures:
    """What the run has shown."""

    deeds: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    unjustified: list[Verdict] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    """How long before each act the API server had been asked."""
    right_after_s: list[float] = field(default_factory=list)
    footprints: dict[int, list[Footprint]] = field(default_factory=dict)
    """By process id of the agent."""


def play(stage: Stage, dice: random.Random, figures: Figures) -> None:
    """One round of chaos; returns when each fault is over and each deed has been done or refused."""
    vms = {True: [vm for vm in stage.vms if vm.guest], False: [vm for vm in stage.vms if not vm.guest]}
    plan: list[tuple[float, Deed, Vm, random.Random]] = []
    for _ in range(int(ROUND_S * DEEDS_PER_S)):
        real = dice.random() < 0.4
        deeds = DEEDS | GUEST_DEEDS if real else DEEDS
        deed = dice.choices(list(deeds), list(deeds.values()))[0]
        plan.append((dice.uniform(0, ROUND_S), deed, dice.choice(vms[real]), random.Random(dice.random())))
    troubles = planned(dice)
    begin_s = time.monotonic()
    with ThreadPoolExecutor(8) as hands, ThreadPoolExecutor(len(TROUBLES)) as faults:
        ends = [
            faults.submit(suffer, stage, trouble, begin_s + at_s, lasts_s, random.Random(dice.random()))
            for at_s, lasts_s, trouble in troubles
        ]
        figures.troubles.update(trouble.name for _, _, trouble in troubles)
        for at_s, deed, vm, own_dice in sorted(plan, key=lambda one: one[0]):
            time.sleep(max(0.0, begin_s + at_s - time.monotonic()))
            hands.submit(attempt, stage, deed, vm, own_dice, figures)
        for end in ends:
            end.result()


def planned(dice: random.Random) -> list[tuple[float, float, Trouble]]:
    """When which faults come and how long they last; none hits what another hits at that time."""
    chosen: dict[str, tuple[float, float, Trouble]] = {}
    for _ in range(dice.randint(0, TROUBLES_PER_ROUND)):
        trouble = dice.choices(TROUBLES, [one.weight for one in TROUBLES])[0]
        chosen.setdefault(trouble.hits, (dice.uniform(0, ROUND_S), dice.uniform(0.1, trouble.longest_s), trouble))
    return list(chosen.values())


def suffer(stage: Stage, trouble: Trouble, at_s: float, lasts_s: float, dice: random.Random) -> None:
    """Let a fault begin and end."""
    time.sleep(max(0.0, at_s - time.monotonic()))
    with trouble.begin(stage, dice):
        time.sleep(lasts_s)


def attempt(stage: Stage, deed: Deed, vm: Vm, dice: random.Random, figures: Figures) -> None:
    """Do it, if it can be done."""
    try:
        deed(stage, vm, dice)
    except REFUSED:
        figures.deeds["refused"] += 1
    else:
        figures.deeds["done"] += 1


def judge(stage: Stage, figures: Figures) -> None:
    """Judge the acts of the round."""
    for verdict in stage.verdicts():
        figures.acts[verdict.verb] += 1
        figures.ages_s.append(verdict.age_s)
        if verdict.why_not:
            figures.unjustified.append(verdict)


def summary(figures: Figures) -> str:
    """The figures, for people."""
    times, ages_s = figures.right_after_s or [0.0], figures.ages_s or [0.0]
    longest = max(figures.footprints.values(), key=len, default=[])
    lived = f"{longest[0]} -> {longest[-1]}" if longest else "-"
    return "\n".join(
        (
            f"deeds: {figures.deeds['done']} done, {figures.deeds['refused']} refused",
            f"faults: {', '.join(f'{name} {n}' for name, n in figures.troubles.most_common())}",
            f"acts of the agents: {', '.join(f'{verb} {n}' for verb, n in figures.acts.most_common())}",
            f"the API server's answer before an act: {median_ms(ages_s)} ms old as a rule, {max(ages_s):.2f} s at most",
            f"unjustified: {len(figures.unjustified)}",
            f"right after: {statistics.median(times):.1f} s as a rule, {max(times):.1f} s at most, of quiet",
            f"footprint of the agent that lived longest, {len(longest)} rounds: {lived}",
        )
    )


def median_ms(times_s: list[float]) -> int:
    """Their median in whole milliseconds."""
    return round(1000 * statistics.median(times_s))


@click.command()
@click.option("--seed", default=1, show_default=True, help="What happens, and in which order.")
@click.option("--minutes", default=5.0, show_default=True, help="For how long; the round under way is ended.")
@click.option("--qemu-vms", default=20, show_default=True, help="VMs on QEMU.")
@click.option("--test-vms", default=200, show_default=True, help="VMs on libvirt's test driver.")
@click.option("--agent", "module", default="controller", show_default=True, help="The Python module of the agent.")
def main(seed: int, minutes: float, qemu_vms: int, test_vms: int, module: str) -> None:
    """Random faults on a real libvirtd, QEMU and kube-apiserver, and whether all is right afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="virtsync-chaos-"))
    figures, dice = Figures(), random.Random(seed)
    found: list[str] = []
    libvirt.registerErrorHandler(lambda *_: None, None)  # what is refused is counted
    try:
        with processes.terminating():
            run(Stage(folder, module, qemu_vms, test_vms), dice, minutes, figures)
    except NotRightError as error:
        found.append(str(error))
    found += [
        f"unjustified: {one.verb} of {one.call.name} at {datetime.fromtimestamp(one.call.at_s, UTC)}: {one.why_not}"
        for one in figures.unjustified
    ]
    found += leaks(figures.footprints)
    click.echo(summary(figures))
    if found:
        again = f"again: make chaos SEED={seed} MINUTES={minutes:g}; all logs are in {folder}"
        click.echo("\n".join((*found, again)))
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def run(stage: Stage, dice: random.Random, minutes: float, figures: Figures) -> None:
    """Rounds, until the time is over. Raises NotRightError."""
    click.echo("starting a control plane, a libvirtd, two agents and the VMs", err=True)
    with stage:
        end_s = time.monotonic() + minutes * 60
        figures.right_after_s.append(until_right(stage))
        judge(stage, figures)
        number = 0
        while time.monotonic() < end_s:
            number += 1
            one_round(stage, dice, figures, number)


def one_round(stage: Stage, dice: random.Random, figures: Figures, number: int) -> None:
    """Chaos, quiet, and what is seen then."""
    troubles = Counter(figures.troubles)
    play(stage, dice, figures)
    heal(stage)
    figures.right_after_s.append(until_right(stage))
    judge(stage, figures)
    for node, agent in stage.agents.items():
        figures.footprints.setdefault(agent.pid, []).append(stage.footprint(node))
    told = ", ".join((figures.troubles - troubles).elements()) or "no fault"
    click.echo(
        f"round {number} ({told}): right after {figures.right_after_s[-1]:.1f} s; "
        f"{figures.acts.total()} acts so far, {len(figures.unjustified)} unjustified",
        err=True,
    )


if __name__ == "__main__":
    main()

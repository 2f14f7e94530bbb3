"""Every sentence that the agent says about a VM, in the words and with the figures that a user reads.

sentences.txt is the expectation. After a change that is meant, write it anew and read the difference:

    .venv/bin/python tests/core/test_sentences.py
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from controller.model import (
    Absent,
    Conflict,
    Evidence,
    Facts,
    Node,
    Now,
    Outcome,
    Phase,
    Replaced,
    RestartPolicy,
    Result,
    Shutdown,
    ShutdownMode,
    Sighting,
    Step,
    Unreadable,
    Verb,
    VmKey,
)
from tests.core.views import PAUSED, RUNNING, STOPPED, T0, Vm, domain, done, handed_over

EXPECTED = Path(__file__).with_name("sentences.txt")


def told(step: Step) -> str:
    """One look in one line, and its Events below."""
    status = step.status
    act = step.act.verb.name if step.act else "-"
    recheck = "-" if step.recheck_s is None else f"{step.recheck_s:.1f}s"
    deadline = status.operation and status.operation.deadline
    until = f" until {deadline:%H:%M:%S}" if deadline else ""
    operation = f"{status.operation.type}{until}" if status.operation else "-"
    backoff = f"{status.backoff.failures} until {status.backoff.next_attempt_time:%H:%M:%S}" if status.backoff else "-"
    stop = f"{status.last_stop.cause} {status.last_stop.time:%H:%M:%S}" if status.last_stop else "-"
    conditions = " ".join(f"{c.type}={c.status}@{c.last_transition_time:%H:%M:%S}" for c in status.conditions)
    completed = f"{status.completion_time:%H:%M:%S}" if status.completion_time else "-"
    lines = [
        f"  {status.power_state}, {step.reason}: {step.message}",
        f"    {act}; again in {recheck}; operation {operation}; backoff {backoff}",
        f"    last stop {stop}; completed {completed}; restarts {status.restart_count}; wish {status.desired}",
        f"    {conditions}",
    ]
    lines += [f"    Event {n.reason} ({'Warning' if n.warning else 'Normal'}): {n.note}" for n in step.notices]
    return "\n".join(lines)


def stories() -> Iterator[tuple[str, list[Step]]]:
    """Looks that between them say everything there is to say."""
    for desired, phase in itertools.product([RUNNING, STOPPED, PAUSED, None], Phase):
        vm = Vm(desired)
        first = vm.look(phase)
        outcome = done(first.act.verb) if first.act else None
        steps = [first, vm.look(phase, outcome=outcome, call=first.act.verb if first.act else None)]
        steps += [vm.look(phase, after_s=after_s) for after_s in (11.3, 200.0)]
        yield f"{desired}, but {phase.name}", steps
    for phase in (phase for phase in Phase if phase is not Phase.RUNNING):
        vm = Vm().in_sync()
        yield f"Running, then {phase.name}", [vm.look(phase, after_s=a) for a in (33.3, 5, 6, 900)]
    for phase in Phase:
        vm = Vm(STOPPED).in_sync()
        yield f"Stopped, then {phase.name}", [vm.look(phase, after_s=a) for a in (33.3, 5, 6, 900)]
    for mode, policy in itertools.product(ShutdownMode, RestartPolicy):
        vm = Vm(shutdown=Shutdown(mode, 60), restart_policy=policy).in_sync()
        vm.change(restart_request=T0)
        steps = [vm.look(Phase.RUNNING, after_s=2.5)]
        steps += [vm.look(Phase.RUNNING, outcome=done(Verb.SHUTDOWN))]
        steps += [vm.look(Phase.RUNNING, after_s=a) for a in (10.2, 40, 20)]
        steps += [vm.look(Phase.STOPPED), vm.look(domain(Phase.RUNNING, 2), outcome=done(Verb.START))]
        yield f"restart, {mode}, {policy}", steps
    for policy, evidence in itertools.product(RestartPolicy, Evidence):
        vm = Vm(restart_policy=policy).in_sync()
        off = Phase.CRASHED_OFF if evidence in {Evidence.STOPPED_CRASHED, Evidence.STOPPED_FAILED} else Phase.STOPPED
        seen = domain(off, reason="UNKNOWN" if off is Phase.STOPPED else "")
        steps = [vm.look(seen, after_s=a, events={evidence}) for a in (20.4, 9, 1.5, 40)]
        steps += [vm.look(domain(Phase.RUNNING, 2), after_s=a) for a in (1, 599, 2)]
        yield f"{policy}, {evidence.value}", steps
    for verb, phase, desired in [(Verb.START, Phase.STOPPED, RUNNING), (Verb.SUSPEND, Phase.RUNNING, PAUSED)]:
        vm = Vm(desired)
        refused = Outcome(verb, Result.REFUSED, "no such disk")
        steps = [vm.look(phase), vm.look(phase, outcome=refused), vm.look(phase, after_s=5), vm.look(phase, after_s=6)]
        steps += [vm.look(phase, outcome=refused), vm.look(phase, after_s=15), vm.look(phase, after_s=6)]
        yield f"{verb.name} is refused", steps
    yield "no domain, another, a claimed one, none to be seen", _without_a_domain()
    yield "held, watched, blocked, busy, crowded, in turn, braked", _forbidden()
    yield "handed over", _handed_over()
    yield "a call that does not return", _unanswered()
    yield "a guest that would reboot", _reboots()
    yield "a leftover pause", _left_over()


def _without_a_domain() -> list[Step]:
    vm = Vm().in_sync()
    sights: list[Sighting] = [
        Absent(),
        Replaced(UUID(int=9), "web"),
        Conflict(VmKey("default", "older"), UUID(int=7)),
        Unreadable("gone"),
    ]
    return [vm.look(seen, after_s=3) for sight in sights for seen in (sight, sight)]


def _forbidden() -> list[Step]:
    steps = []
    vm = Vm().in_sync()
    for change in ({"holds": (("ann", "backup"), ("bob", ""))}, {"holds": ()}):
        vm.annotate(**change)
        steps += [vm.look(Phase.STOPPED, after_s=3), vm.look(Phase.STOPPED, after_s=3)]
    for node in (
        Node("node-a", "boot-1", observe_only=True),
        Node("node-a", "boot-1", blocked="Another process acts on this libvirt."),
        Node("node-a", "boot-1", braked_until=Now(T0 + timedelta(seconds=200), 200.0)),
        Node("node-a", "boot-1"),
    ):
        vm.node = node
        steps += [vm.look(Phase.STOPPED, after_s=12), vm.look(Phase.STOPPED, after_s=12)]
    busy = Vm()
    steps += [busy.look(Phase.STOPPED, facts=Facts(job="backup"))]
    return steps


def _handed_over() -> list[Step]:
    steps = []
    for last, here in itertools.product(
        (Phase.RUNNING, Phase.STOPPED, Phase.CRASHED_OFF), (Phase.STOPPED, Phase.RUNNING)
    ):
        vm = handed_over(last)
        steps += [vm.look(here), vm.look(here, after_s=2)]
    return steps


def _unanswered() -> list[Step]:
    vm = Vm(STOPPED)
    first = vm.look(Phase.PAUSED)
    assert first.act
    return [first, vm.look(Phase.PAUSED, call=first.act.verb)]


def _reboots() -> list[Step]:
    steps = []
    for mode in ShutdownMode:
        vm = Vm(STOPPED, shutdown=Shutdown(mode, 60))
        facts = Facts(reboots_on_poweroff=True)
        steps += [vm.look(Phase.RUNNING, after_s=a, facts=facts) for a in (1, 30, 31)]
    return steps


def _left_over() -> list[Step]:
    vm = Vm().in_sync()
    seen = replace(domain(Phase.PAUSED_BUSY), reason="MIGRATION")
    return [vm.look(seen, after_s=a, events={Evidence.STARTED_RESTORED}) for a in (1, 890, 20, 890, 20)]


def written() -> str:
    """All stories as text."""
    return "\n".join(f"{title}\n" + "\n".join(map(told, steps)) + "\n" for title, steps in stories())


def test_what_the_agent_says_is_what_it_is_expected_to_say() -> None:
    assert written().splitlines() == EXPECTED.read_text().splitlines()


if __name__ == "__main__":
    EXPECTED.write_text(written())

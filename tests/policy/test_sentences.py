"""Every sentence that the agent says about a VM, in the words and with the figures that a user reads.

sentences.txt is the expectation. After a change that is meant, write it anew and read the difference:

    .venv/bin/python tests/policy/test_sentences.py
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from controller.api.clock import Now
from controller.api.hypervisor import MaintenanceMode, RunsElsewhere
from controller.api.virtualmachine import Hold, RestartPolicy, Shutdown, ShutdownMode, VmKey
from controller.policy.handover import vouching
from controller.policy.view import (
    Absent,
    Action,
    Conflict,
    Domain,
    Evidence,
    Facts,
    Misnamed,
    Node,
    Observation,
    Outcome,
    Phase,
    Qemu,
    Replaced,
    Result,
    Step,
    Unreadable,
)
from tests.policy.views import PAUSED, RUNNING, STOPPED, T0, Vm, domain, done, handed_over

FORGOTTEN = domain(Phase.STOPPED, reason="UNKNOWN")
EXPECTED = Path(__file__).with_name("sentences.txt")


def told(step: Step) -> str:
    """One look in one line, and its Events below."""
    status = step.status
    act = step.action.kind.name if step.action else "-"
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
        outcome = done(first.action.kind) if first.action else None
        steps = [first, vm.look(phase, outcome=outcome, call=first.action.kind if first.action else None)]
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
        steps += [vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))]
        steps += [vm.look(Phase.RUNNING, after_s=a) for a in (10.2, 40, 20)]
        steps += [vm.look(Phase.STOPPED), vm.look(domain(Phase.RUNNING, 2), outcome=done(Action.START))]
        yield f"restart, {mode}, {policy}", steps
    for policy, evidence in itertools.product(RestartPolicy, Evidence):
        vm = Vm(restart_policy=policy).in_sync()
        off = Phase.CRASHED_OFF if evidence in {Evidence.STOPPED_CRASHED, Evidence.STOPPED_FAILED} else Phase.STOPPED
        seen = domain(off, reason="UNKNOWN" if off is Phase.STOPPED else "")
        steps = [vm.look(seen, after_s=a, events={evidence}) for a in (20.4, 9, 1.5, 40)]
        outcome = done(Action.START) if steps[-1].action else None
        steps += [vm.look(domain(Phase.RUNNING, 2), after_s=1, outcome=outcome)]
        steps += [vm.look(domain(Phase.RUNNING, 2), after_s=a) for a in (599, 2)]
        yield f"{policy}, {evidence.value}", steps
    for action, phase, desired in [(Action.START, Phase.STOPPED, RUNNING), (Action.SUSPEND, Phase.RUNNING, PAUSED)]:
        vm = Vm(desired)
        refused = Outcome(action, Result.REFUSED, "no such disk")
        steps = [vm.look(phase), vm.look(phase, outcome=refused), vm.look(phase, after_s=5), vm.look(phase, after_s=6)]
        steps += [vm.look(phase, outcome=refused), vm.look(phase, after_s=15), vm.look(phase, after_s=6)]
        yield f"{action.name} is refused", steps
    yield "a restart that is held; a reported crash with another cause", [*_held_restart(), *_not_a_crash()]
    yield "no domain, another, a claimed one, none to be seen", _without_a_domain()
    yield "held, watched, blocked, busy, crowded, in turn, braked", [*_forbidden(), *_in_maintenance()]
    yield "runs elsewhere; handed over", [*_elsewhere(), *_handed_over()]
    yield "handed over with a doubt", _doubtful()
    yield "another machine under the same name", _other_machine()
    yield "memory here, and a run there since", _old_memory()
    yield "a call that does not return, returns no result or is refused", _unanswered() + _without_result() + _refused()
    yield "a start on record", _starting()
    yield "a QEMU that does not end", _lingering()
    yield "a job beside a stop", _beside_a_job()
    yield "started paused by a tool", _never_ran()
    yield "an unknown word in the spec", _misunderstood()
    yield "in sync, and what will change that", _scheduled()
    yield "a guest that would reboot", _reboots()
    yield "a leftover pause", _left_over()
    yield "waits for others", _waiting()
    yield "a guest that is asleep", [Vm(restart_policy=RestartPolicy.ON_FAILURE).look(Phase.SUSPENDED)]
    yield "a stop that is not wanted any more", _recalled()


def _refused() -> list[Step]:
    steps = []
    refused = Outcome(Action.SHUTDOWN, Result.REFUSED, "access denied")
    for mode in (ShutdownMode.GRACEFUL, ShutdownMode.GRACEFUL_THEN_FORCE):
        vm = Vm(STOPPED, shutdown=Shutdown(mode, 60))
        steps += [vm.look(Phase.RUNNING), vm.look(Phase.RUNNING, outcome=refused)]
        steps += [vm.look(Phase.RUNNING, after_s=a) for a in (5, 6)]
        steps += [vm.look(Phase.RUNNING, outcome=refused), vm.look(Phase.RUNNING, after_s=49)]
        vm = Vm(STOPPED, shutdown=Shutdown(mode, 60))
        refusal = Outcome(Action.WAKE, Result.REFUSED, "no suspend support")
        steps += [vm.look(Phase.SUSPENDED), vm.look(Phase.SUSPENDED, outcome=refusal)]
        steps += [vm.look(Phase.SUSPENDED, after_s=60)]
    for act, desired, phase in ((Action.SHUTDOWN, STOPPED, Phase.RUNNING), (Action.START, RUNNING, Phase.STOPPED)):
        vm = Vm(desired)
        steps += [vm.look(phase), vm.look(phase, outcome=Outcome(act, Result.UNSENT, "not connected"))]
    return steps


def _without_result() -> list[Step]:
    vm = Vm().in_sync()
    steps = [vm.look(Phase.PAUSED), vm.look(Phase.PAUSED, after_s=1000)]
    steps.append(vm.look(Phase.PAUSED, outcome=Outcome(Action.RESUME, Result.UNKNOWN, "no lock daemon")))
    vm = Vm().in_sync()
    steps += [vm.look(Phase.STOPPED), vm.look(Phase.STOPPED, after_s=60)]
    steps += [vm.look(Phase.STOPPED, after_s=1, outcome=Outcome(Action.START, Result.UNKNOWN)) for _ in range(2)]
    return steps


def _without_a_domain() -> list[Step]:
    vm = Vm().in_sync()
    sights: list[Observation] = [
        Absent(),
        Replaced(UUID(int=9), "web"),
        Misnamed(UUID(int=7), "front"),
        Conflict(VmKey("default", "older"), UUID(int=7)),
        Unreadable("gone"),
    ]
    return [vm.look(seen, after_s=3) for sight in sights for seen in (sight, sight)]


def _forbidden() -> list[Step]:
    steps = []
    vm = Vm().in_sync()
    for change in ({"holds": (Hold("ann", "backup"), Hold("bob", ""))}, {"holds": ()}):
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


def _in_maintenance() -> list[Step]:
    steps = []
    for mode in MaintenanceMode:
        vm = Vm(shutdown=Shutdown(grace_s=60), restart_policy=RestartPolicy.NEVER).in_sync()
        vm.maintain(mode)
        steps += [vm.look(Phase.RUNNING, after_s=33.3), vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))]
        vm.change(restart_request=T0 + timedelta(seconds=40))
        steps += [vm.look(Phase.RUNNING, after_s=10), vm.look(Phase.STOPPED, events={Evidence.SHUTDOWN_GUEST})]
        vm.maintain(None)
        steps += [vm.look(Phase.STOPPED, after_s=a) for a in (60, 10)]
        for desired, phase in ((RUNNING, Phase.PAUSED), (PAUSED, Phase.RUNNING), (STOPPED, Phase.STOPPED)):
            vm = Vm(desired)
            vm.maintain(mode)
            steps += [vm.look(phase), vm.look(phase, after_s=900)]
    vm = Vm().in_sync()
    vm.maintain(MaintenanceMode.SHUTDOWN)
    vm.look(Phase.RUNNING, after_s=60)
    vm.maintain(None)
    return [*steps, vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN)), vm.look(Phase.STOPPED)]


def _elsewhere() -> list[Step]:
    steps = []
    sights: list[Observation] = [domain(Phase.STOPPED), domain(Phase.RUNNING), Absent()]
    for desired, seen in itertools.product([RUNNING, STOPPED, None], sights):
        vm = Vm(desired)
        vm.elsewhere = (RunsElsewhere(UUID(int=7), "node-b", T0),)
        steps += [vm.look(seen), vm.look(seen)]
    return steps


def _handed_over() -> list[Step]:
    steps = []
    for last, here in itertools.product(
        (Phase.RUNNING, Phase.STOPPED, Phase.CRASHED_OFF), (Phase.STOPPED, Phase.RUNNING)
    ):
        vm = handed_over(last)
        steps += [vm.look(here), vm.look(here, after_s=2)]
    return steps


def _doubtful() -> list[Step]:
    """Each way in which a report of "off" from node-a is not enough, and what vouching for it says."""
    steps = []
    for doubt in ("marked", "starting", "alive", "saved", "migrated", "elsewhere", "bare", "other"):
        vm = Vm(STOPPED) if doubt in {"marked", "starting"} else Vm()
        vm.look(Phase.STOPPED if vm.vm.desired is STOPPED or doubt == "alive" else Phase.RUNNING)
        if doubt == "starting":
            vm.change(desired=RUNNING)
            vm.look(Phase.STOPPED)
        if doubt == "alive":
            vm.look(Phase.STOPPED, facts=Facts(qemu=Qemu.ALIVE))
        if doubt in {"saved", "migrated"}:
            vm.look(Phase.SAVED if doubt == "saved" else domain(Phase.STOPPED, reason="MIGRATED"))
        if doubt == "elsewhere":
            vm.elsewhere = (RunsElsewhere(UUID(int=7), "node-c", T0),)
            vm.look(Phase.STOPPED)
            vm.elsewhere = ()
        if doubt == "marked":
            vm.is_marked()
        if doubt == "other":
            vm.change(domain_name="mistyped")
            vm.look(Absent())
        bare = "node-a" if doubt == "bare" else ""
        vm.moves_to("node-b", desired=RUNNING, domain_name=None, confirmed_off=bare)
        steps += [vm.look(FORGOTTEN, after_s=2), vm.look(Unreadable("gone")), vm.look(FORGOTTEN, after_s=2)]
        vm.annotate(confirmed_off=vouching(vm.vm.status))
        steps += [vm.look(FORGOTTEN, after_s=2)]
    return steps


def _other_machine() -> list[Step]:
    vm = Vm()
    vm.node = Node("node-a", "boot-1", host_uuid=UUID(int=1))
    vm.look(Phase.RUNNING)
    vm.node = Node("node-a", "boot-2", host_uuid=UUID(int=2))
    return [vm.look(FORGOTTEN, after_s=2)]


def _held_restart() -> list[Step]:
    vm = Vm().in_sync()
    vm.change(restart_request=T0 + timedelta(seconds=1))
    vm.annotate(holds=(Hold("ann", ""),))
    steps = [vm.look(Phase.RUNNING, after_s=3)]
    vm.annotate(holds=())
    return [*steps, vm.look(Phase.RUNNING, after_s=3)]


def _not_a_crash() -> list[Step]:
    steps = []
    for events in (None, {Evidence.SHUTDOWN_GUEST}):
        vm = Vm().in_sync()
        steps += [vm.look(Phase.CRASHED_OFF, after_s=a, events=events) for a in (3, 11)]
    return steps


def _old_memory() -> list[Step]:
    vm = handed_over(Phase.RUNNING)
    return [vm.look(Phase.SAVED), vm.look(Phase.SAVED, after_s=2)]


def _starting() -> list[Step]:
    steps = []
    for spec in ({"desired": RUNNING}, {"desired": STOPPED}, {"desired": None}, {"holds": (Hold("ann", ""),)}):
        vm = Vm(STOPPED).in_sync()
        vm.change(desired=RUNNING)
        vm.look(Phase.STOPPED)
        began_s = vm.at_s
        vm.change(**spec)
        steps += [vm.look(Phase.STOPPED, after_s=a, call=Action.START, call_began_s=began_s) for a in (2, 20)]
        vm.agent_restarts()
        steps += [vm.look(Phase.STOPPED, after_s=a) for a in (1, 10)]
    return steps


def _lingering() -> list[Step]:
    steps = []
    lingering = Domain(UUID(int=7), "web", Phase.SHUTTING_DOWN, None, "SHUTOFF", "DESTROYED")
    for desired in (RUNNING, STOPPED):
        vm = Vm(shutdown=Shutdown(ShutdownMode.FORCE, 60)).in_sync()
        vm.change(desired=STOPPED)
        vm.look(Phase.RUNNING)
        vm.change(desired=desired)
        steps += [vm.look(lingering, after_s=a) for a in (1, 60)]
    vm = Vm(shutdown=Shutdown(grace_s=60))
    for qemu in (Qemu.ALIVE, Qemu.UNSURE):
        steps += [vm.look(Phase.STOPPED, after_s=a, facts=Facts(qemu=qemu)) for a in (1, 60)]
        vm = Vm()
    return steps


def _beside_a_job() -> list[Step]:
    steps = []
    for mode, job in itertools.product(ShutdownMode, ("backup", "save")):
        vm = Vm(shutdown=Shutdown(mode, 60)).in_sync()
        vm.change(desired=STOPPED)
        steps += [vm.look(Phase.RUNNING, after_s=a, facts=Facts(job=job)) for a in (1, 30, 31)]
    return steps


def _never_ran() -> list[Step]:
    steps = []
    for pause_s in (900.0, None):
        vm = Vm(STOPPED).in_sync()
        vm.waits = replace(vm.waits, settle_pause_s=pause_s)
        steps += [vm.look(Phase.PAUSED, after_s=a, facts=Facts(never_ran=True)) for a in (1, 901)]
    return steps


def _misunderstood() -> list[Step]:
    vm = Vm().in_sync()
    vm.change(misunderstood="powerState 'Hibernated'")
    return [vm.look(Phase.RUNNING), vm.look(Phase.STOPPED, after_s=60)]


def _scheduled() -> list[Step]:
    vm = Vm(restart_request=T0 + timedelta(hours=22), holds=(Hold("ann", "backup"),))
    return [vm.look(Phase.RUNNING)]


def _unanswered() -> list[Step]:
    vm = Vm(STOPPED)
    first = vm.look(Phase.PAUSED)
    assert first.action
    return [first, vm.look(Phase.PAUSED, call=first.action.kind)]


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


def _waiting() -> list[Step]:
    """What else holds an action back: turns, other calls, a QEMU that hangs, the backoff, the settings."""
    steps = [Vm().look(Phase.STOPPED, turn_in_s=0.5)]
    steps += [Vm(STOPPED, shutdown=Shutdown(ShutdownMode.FORCE, 60)).look(Phase.RUNNING, turn_in_s=0.5)]
    steps += [Vm().look(Phase.STOPPED, crowded=True), Vm().look(Phase.PAUSED, facts=Facts(hangs=True))]
    vm = Vm(PAUSED)
    steps += [vm.look(Phase.RUNNING, after_s=a, call=Action.SUSPEND, call_began_s=0.1) for a in (1, 10)]
    vm = Vm().in_sync()
    vm.waits = replace(vm.waits, settle_pause_s=None)
    steps += [vm.look(Phase.PAUSED)]
    vm = Vm().in_sync()
    for run in (2, 3):
        vm.look(Phase.CRASHED_OFF, events={Evidence.STOPPED_FAILED})
        vm.look(domain(Phase.RUNNING, run), outcome=done(Action.START))
    return [*steps, vm.look(Phase.CRASHED_OFF, events={Evidence.STOPPED_FAILED})]


def _recalled() -> list[Step]:
    vm = Vm(STOPPED)
    vm.look(Phase.RUNNING)
    vm.change(desired=RUNNING)
    return [vm.look(Phase.RUNNING, outcome=done(Action.SHUTDOWN))]


def written() -> str:
    """All stories as text."""
    return "\n".join(f"{title}\n" + "\n".join(map(told, steps)) + "\n" for title, steps in stories())


def test_what_the_agent_says_is_what_it_is_expected_to_say() -> None:
    assert written().splitlines() == EXPECTED.read_text().splitlines()


if __name__ == "__main__":
    EXPECTED.write_text(written())

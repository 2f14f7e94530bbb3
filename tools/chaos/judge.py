"""Was each action justified? The judge uses only the logs of kube-apiserver and libvirtd, not the agent's own log.

Just before an action on a domain, the agent must have received the domain's object from the API server, and the object
must be bound to the agent's node, not held, not marked, not being deleted, and its spec must want the effect of the
action. What the agent must know of its node besides is in `orders.py`.

Independent of that, an agent must never start a QEMU of a domain while another QEMU of it runs, on this node or on
another node. The judge finds the running QEMUs in the kernel's process table.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from chaos.audit import Answer, Json, Span, condition, overlap_s, unix_time, whole_lines
from chaos.marks import UNREACHABLE, Marks
from chaos.orders import SHUTS_DOWN, STARTS, Orders
from chaos.runs import DoubleRun

FRESH_S = 5.0
"""How old the API server's answer may be at the action; usually milliseconds, except on an overloaded machine."""
RECORDED_S = 0.2
"""kube-apiserver writes its log after the answer, so the action that follows might have begun before."""
STARTED_S = 0.1
"""A process can seem older than the call that started it by this much: the kernel counts hundredths of a second."""
DOUBT_S = 90.0
"""How long a requested start can be the origin of a process; no start hangs longer here."""
HOLD = "hold.virtsync.dev/"

CALL = re.compile(
    r"^(?P<time>\S+ \S+): \d+: debug : (?P<call>virDomain\w+):\d+ : dom=\w+, "
    r"\(VM: name=(?P<name>[^,]+), uuid=(?P<uuid>[-0-9a-f]+)\)(?:.*flags=(?P<flags>\w+))?"
)
# The agent's libvirt call for each action, by driver: others use a different call for the same effect, or are in `own`.
BY_AGENT = {
    "qemu": {
        ("virDomainCreate", None): "START",
        ("virDomainCreateWithFlags", "0x1"): "START_PAUSED",
        ("virDomainResume", None): "RESUME",
        ("virDomainPMWakeup", "0x0"): "WAKE",
        ("virDomainSuspend", None): "SUSPEND",
        ("virDomainShutdownFlags", "0x1"): "SHUTDOWN",
        ("virDomainDestroyFlags", "0x0"): "DESTROY",
    },
    "test": {
        ("virDomainCreate", None): "START",
        ("virDomainResume", None): "RESUME",
        ("virDomainSuspend", None): "SUSPEND",
        ("virDomainShutdown", None): "SHUTDOWN",
        ("virDomainDestroyFlags", "0x0"): "DESTROY",
    },
}
# After these calls the domain's CPUs have run, or might have: no other call in libvirt's log runs them.
LETS_RUN = {"virDomainCreate", "virDomainResume", "virDomainReset"}
# The power states that the spec must want, for each action.
SERVES = {
    "START": {"Running"},
    "START_PAUSED": {"Paused"},
    "RESUME": {"Running", "Stopped"},
    "WAKE": {"Running", "Stopped", "Paused"},
    "SUSPEND": {"Paused"},
    "SHUTDOWN": {"Stopped"},
    "DESTROY": {"Stopped"},
}


@dataclass(frozen=True, slots=True)
class Call:
    """A libvirt call about a domain, with the time at which libvirtd began it (Unix time)."""

    at_s: float
    name: str
    uuid: str
    signature: tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action, and the reason if it was not justified."""

    call: Call
    verb: str
    age_s: float
    """How old the answer about the object was at the action; frozen and stalled time does not count."""
    why_not: str | None


class Unrun:
    """The domains of a node that were started paused and have not run since: ending them loses nothing."""

    def __init__(self) -> None:
        self._uuids: set[str] = set()

    def note(self, call: Call) -> None:
        """Take in the next call of the log."""
        if call.signature == ("virDomainCreateWithFlags", "0x1"):
            self._uuids.add(call.uuid)
        elif call.signature[0] in LETS_RUN or call.signature[0] == "virDomainCreateWithFlags":
            self._uuids.discard(call.uuid)

    def __contains__(self, uuid: str) -> bool:
        return uuid in self._uuids


def calls(log: Path, offset: int = 0) -> tuple[list[Call], int]:
    """The calls in libvirtd's log from this offset on, and the offset after the last one."""
    lines, end = whole_lines(log, offset)
    matches = filter(None, map(CALL.match, lines))
    return [
        Call(unix_time(match["time"].replace(" ", "T")), match["name"], match["uuid"], (match["call"], match["flags"]))
        for match in matches
    ], end


def asked(log: Path, uuid: UUID) -> list[str]:
    """The actions on a QEMU domain that libvirtd was asked for, by an agent or by the same call from another client."""
    made, _ = calls(log)
    verbs = [BY_AGENT["qemu"].get(call.signature) for call in made if call.uuid == str(uuid)]
    return [verb for verb in verbs if verb]


def by_whom(double: DoubleRun, made: Iterable[Call], verdicts: Iterable[Verdict]) -> Verdict | None:
    """The agent's action that started the second QEMU of a double run; None: there is none, or the origin is unclear.

    `made` are all calls on that node, and `verdicts` those on the actions of its agent. The last start that was
    requested before the process began has started it; if another client also requested a start recently, the agent gets
    the benefit of the doubt.
    """
    run = double.second
    by_agent = {one.call: one for one in verdicts if one.verb in STARTS}
    asked_for = [
        call
        for call in made
        if call.uuid == run.uuid
        and call.signature[0].startswith("virDomainCreate")
        and run.begin_s - DOUBT_S <= call.at_s <= run.begin_s + STARTED_S
    ]
    if not asked_for or any(call not in by_agent for call in asked_for):
        return None
    return by_agent[max(asked_for, key=lambda call: call.at_s)]


class Judge:
    """Judges actions on the domains of one node, whose objects have the same names; calls come in the order of time."""

    def __init__(self, node: str, driver: str, orders: Orders | None = None, marks: Marks | None = None) -> None:
        """`orders`: what the agent has read and written beside its VMs; None: it needs neither Hypervisor nor Lease."""
        self._node, self._acts, self._orders, self._marks = node, BY_AGENT[driver], orders, marks or Marks()
        self._unrun = Unrun()

    def verdicts(
        self,
        made: list[Call],
        own: dict[tuple[str, str], list[Span]],
        told: list[Answer],
        *,
        frozen: list[Span],
        jumped: list[Span],
        stalled: list[Span],
    ) -> Iterator[Verdict]:
        """A verdict for each action of the agent among the calls.

        `own` are the calls that others made, by call and UUID; each is matched with one logged call within its span.
        While `frozen`, the agent or libvirtd was stopped: that time does not count. While `jumped`, the agent's wall
        clock was wrong. While `stalled`, answers of the API server were on their way to the agent and did not arrive:
        that time does not make an answer old, but the Lease of the agent ends in it.
        """
        own = {key: list(spans) for key, spans in own.items()}
        by_name: dict[str, list[Answer]] = {}
        for answer in sorted((one for one in told if one.kind == "VirtualMachine"), key=lambda one: one.asked_s):
            by_name.setdefault(answer.name, []).append(answer)
        for call in made:
            unrun = call.uuid in self._unrun
            self._unrun.note(call)
            verb = self._acts.get(call.signature)
            if verb is None or _taken(call, own.get((call.signature[0], call.uuid), [])):
                continue
            known = by_name.get(call.name, [])
            recorded = known[: bisect_right(known, call.at_s, key=lambda one: one.asked_s)]
            known = [answer for answer in recorded if not answer.lost]
            age_s = call.at_s - known[-1].answered_s if known else float("inf")
            age_s -= overlap_s(Span(call.at_s - age_s, call.at_s), [*frozen, *stalled]) if known else 0
            why_not = self._why_not(verb, known[-1].shown if known else None, age_s, call.at_s)
            if self._orders and not why_not:
                why_not = self._orders.why_not(verb, call.uuid, known[-1].shown, call.at_s, frozen)
            if verb in STARTS and not why_not and self._marks.begun_by_mark(call.name, known[-1].shown, call.at_s):
                why_not = "its restartPolicy left it off, and only a mark came since"
            if verb == "DESTROY" and not why_not and not unrun:
                why_not = _too_early(call, known[-1].shown, recorded, jumped)
            yield Verdict(call, verb, age_s, why_not)

    def _why_not(self, verb: str, vm: Json | None, age_s: float, at_s: float) -> str | None:
        if vm is None:
            return "its object was never asked for"
        if age_s < -RECORDED_S:
            return "the answer about its object had not come"
        if age_s > FRESH_S:
            return f"its object was last asked for {age_s:.1f} s before"
        stopped_for_host = self._orders is not None and self._orders.shuts_down(at_s)
        return _not_ours(self._node, vm) or _not_wanted(verb, vm, SHUTS_DOWN if stopped_for_host else SERVES)


def _not_ours(node: str, vm: Json) -> str | None:
    if vm["spec"].get("nodeName") != node:
        return f"its object was bound to {vm['spec'].get('nodeName')}"
    if any(name.startswith(HOLD) for name in vm["metadata"].get("annotations", {})):
        return "its object was held"
    if condition(vm).get("reason") == UNREACHABLE:
        return "its object was marked, so the last report was not the agent's"
    return "its object was being deleted" if "deletionTimestamp" in vm["metadata"] else None


def _not_wanted(verb: str, vm: Json, serves: Mapping[str, set[str]]) -> str | None:
    wanted = vm["spec"].get("powerState")
    if wanted in serves.get(verb, SERVES[verb]) or _operation(vm).get("type") == "Restart":
        return None
    return f"{wanted} was wanted, and no restart"


def _too_early(call: Call, vm: Json, recorded: list[Answer], jumped: list[Span]) -> str | None:
    """Why it was too early for force, if it was: the grace period begins at the operation's first report.

    The report counts also if its answer was lost; the agent counts from the time at which it sent the report.
    """
    shutdown = vm["spec"].get("shutdown", {})
    if shutdown.get("mode") == "Force":
        return None
    if shutdown.get("mode") == "Graceful":
        return "its object forbids force"
    operation = _operation(vm)
    if "deadline" not in operation:
        return "no stop was on record"
    begin_s = next(one.asked_s for one in recorded if _operation(one.shown).get("startTime") == operation["startTime"])
    # On a busy machine, the report needs a moment to arrive; the time in it is in whole seconds, rounded down.
    begin_s = min(begin_s, unix_time(operation["startTime"]) + 1)
    if overlap_s(Span(begin_s, call.at_s), jumped):
        return None  # a new agent believes the wall clock
    # A changed grace period counts immediately, also where the log still has the old one.
    recorded_s = unix_time(operation["deadline"]) - unix_time(operation["startTime"])
    grace_s = min(recorded_s, shutdown.get("gracePeriodSeconds", recorded_s))
    waited_s = call.at_s - begin_s
    return f"its grace of {grace_s:g} s was not over, but {waited_s:.1f} s of it" if waited_s < grace_s - 1 else None


def _operation(vm: Json) -> Json:
    operation: Json = vm.get("status", {}).get("operation", {})
    return operation


def _taken(call: Call, spans: list[Span]) -> bool:
    """Whether another client made the call; each of those calls matches once."""
    for span in spans:
        if span.begin_s - 0.01 <= call.at_s <= span.end_s + 0.01:
            spans.remove(span)
            return True
    return False

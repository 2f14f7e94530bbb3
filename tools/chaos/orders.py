"""Was an agent allowed to act at all? What it had read in the Hypervisor of its node, and whether it held its Lease."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from chaos.audit import Answer, Json, Span, condition, overlap_s

LEASE_S = 20.0
"""The validity of an agent's Lease, which is also how long its silence lasts before its objects are marked."""
BEGUN_S = 2.0
"""How long after an agent has read its Hypervisor an action can come that it had begun before, on a busy machine."""
CONFIRMED_OFF = "virtsync.dev/confirmed-off"
STARTS = {"START", "START_PAUSED"}
# The power states that the spec must want for an action during a maintenance that shuts down the VMs of the host.
SHUTS_DOWN = {verb: {"Running", "Stopped"} for verb in ("RESUME", "WAKE", "SHUTDOWN", "DESTROY")}


@dataclass(slots=True)
class Orders:
    """What the agent of a node has read and written beside its VMs, since the run began."""

    hypervisors: list[Answer] = field(default_factory=list)
    """The answers about the Hypervisor of the node, in the order of the requests."""
    renewals: list[float] = field(default_factory=list)
    """When it has renewed its Lease, each time for `LEASE_S`; a release is no renewal."""
    launches: list[float] = field(default_factory=list)
    """When its processes were started."""

    def note(self, told: Iterable[Answer]) -> None:
        """Take in what the agent has been answered."""
        for answer in told:
            if answer.kind == "Hypervisor":
                self.hypervisors.append(answer)
            elif answer.kind == "Lease" and answer.shown["spec"].get("holderIdentity"):
                self.renewals.append(answer.asked_s)
        self.hypervisors.sort(key=lambda one: one.asked_s)
        self.renewals.sort()

    def shuts_down(self, at_s: float) -> bool:
        """Whether the agent obeyed a maintenance at this time that shuts down VMs, or did a moment before."""
        return any(_mode(one.shown) == "Shutdown" for one in self._obeyed(at_s))

    def maintenances(self) -> Counter[str]:
        """How often the agent has acknowledged a maintenance, and how often its node was quiesced in one, by mode."""
        found = {
            (f"maintenances {step}: {mode}", _spec(one.shown))
            for one in self.hypervisors
            if (mode := _mode(one.shown)) and _acknowledges(one.shown)
            for step, true in (("acknowledged", True), ("quiesced", _is_quiesced(one.shown)))
            if true
        }
        return Counter(what for what, _ in found)

    def why_not(self, verb: str, uuid: str, vm: Json, at_s: float, frozen: list[Span]) -> str | None:
        """Why the agent was not allowed to do this at this time; None: it was."""

        def for_s(since_s: float) -> float:
            return at_s - since_s - overlap_s(Span(since_s, at_s), frozen)

        renewed = self.renewals[: bisect_right(self.renewals, at_s)]
        if not renewed or for_s(renewed[-1]) > LEASE_S:
            return f"its Lease was renewed {for_s(renewed[-1]):.1f} s before" if renewed else "it had no Lease"
        launched_s = max((one for one in self.launches if one <= at_s), default=0.0)
        known = [one for one in self.hypervisors if one.asked_s <= at_s]
        read = [one for one in known if not one.lost]
        stopped_s = overlap_s(Span(launched_s, at_s), frozen)
        if not read or (read[-1].asked_s < launched_s and not stopped_s):
            return "the Hypervisor of its node had not been read"
        # The answers that show the same spec as the last one that it read, until now.
        spec = _spec(read[-1].shown)
        same = list(_last_while(known, lambda one: _spec(one.shown) == spec))
        if (mode := _mode(read[-1].shown)) and not _is_allowed(verb, mode, vm):
            acknowledged = [one for one in same if _acknowledges(one.shown)]
            if any(_is_quiesced(one.shown) for one in acknowledged):
                return f"its node was quiesced, in a maintenance with mode {mode}"
            if acknowledged and for_s(acknowledged[0].asked_s) > BEGUN_S:
                return f"its node was in a maintenance with mode {mode}"
        if verb in STARTS:
            return self._runs_elsewhere(uuid, vm, known, for_s)
        return None

    @staticmethod
    def _runs_elsewhere(uuid: str, vm: Json, known: list[Answer], for_s: Callable[[float], float]) -> str | None:
        read = [one for one in known if not one.lost]
        entry = _entry(read[-1].shown, uuid)
        confirmed = vm["metadata"].get("annotations", {}).get(CONFIRMED_OFF)
        if entry is None or confirmed == f"{entry['nodeName']} {entry['since']}":
            return None
        since = next(_last_while(read, lambda one: _entry(one.shown, uuid) == entry))
        return (
            f"its node's Hypervisor said that it ran on {entry['nodeName']}"
            if for_s(since.answered_s) > BEGUN_S
            else None
        )

    def _obeyed(self, at_s: float) -> Iterator[Answer]:
        """The answers that the agent might have obeyed when it decided on an action of this time."""
        read = [one for one in self.hypervisors if not one.lost and one.asked_s <= at_s]
        for number, answer in enumerate(read):
            if number == len(read) - 1 or read[number + 1].answered_s > at_s - BEGUN_S:
                yield answer


def _is_allowed(verb: str, mode: str, vm: Json) -> bool:
    return mode == "Shutdown" and vm["spec"].get("powerState") in SHUTS_DOWN.get(verb, ())


def _spec(hypervisor: Json) -> tuple[object, ...]:
    return hypervisor["metadata"]["uid"], hypervisor["metadata"]["generation"], str(hypervisor.get("spec"))


def _mode(hypervisor: Json) -> str | None:
    mode: str | None = hypervisor.get("spec", {}).get("maintenance", {}).get("mode")
    return mode


def _acknowledges(hypervisor: Json) -> bool:
    return bool(hypervisor.get("status", {}).get("observedGeneration") == hypervisor["metadata"]["generation"])


def _is_quiesced(hypervisor: Json) -> bool:
    return condition(hypervisor, "Quiesced").get("status") == "True"


def _entry(hypervisor: Json, uuid: str) -> Json | None:
    entries: list[Json] = hypervisor.get("status", {}).get("runsElsewhere", [])
    return next((one for one in entries if one["uuid"] == uuid), None)


def _last_while(answers: list[Answer], true: Callable[[Answer], bool]) -> Iterator[Answer]:
    """The last answers for which this is true, in their order."""
    begin = len(answers)
    while begin and true(answers[begin - 1]):
        begin -= 1
    yield from answers[begin:]

"""Was each write of a manager justified? A manager marks only the objects of agents that did not renew their Lease."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.audit import Answer, Json, Span, overlap_s
from chaos.orders import LEASE_S

UNREACHABLE = "AgentUnreachable"
MANAGER_LEASE = "virtsync-manager"
RELEASED_S = 40.0
"""How long a Lease without a holder lasts before the objects of its node are marked."""
SEEN_S = 30.0
"""How long before a mark the manager can have found that the node was silent: a list of Leases counts for 15 s, and a
request waits up to 13 s for its answer."""
ROUNDED_S = 0.1
LEFT_OFF = {"Completed", "Failed"}
WRITTEN = {"VirtualMachine": {"conditions"}, "Hypervisor": {"conditions", "runsElsewhere"}}
"""What managers may write of the status of each kind."""


@dataclass(slots=True)
class Marks:
    """Judges the writes of all managers; also counts them."""

    written: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    vms: dict[str, list[Answer]] = field(default_factory=dict)
    """The marks of each VM, by name, in the order of time."""
    _leases: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    """By node: when the agent has written its Lease, and whether the Lease had a holder then."""
    _leader: str = ""

    def note_leases(self, told: Iterable[Answer], nodes: Mapping[str, str]) -> None:
        """Take in what agents have been answered about their Leases. `nodes` has the node of each agent's user."""
        for answer in told:
            if answer.kind == "Lease" and answer.name == nodes.get(answer.user):
                held = bool(answer.shown["spec"].get("holderIdentity"))
                self._leases.setdefault(answer.name, []).append((answer.asked_s, held))
        for writes in self._leases.values():
            writes.sort()

    def begun_by_mark(self, name: str, vm: Json, at_s: float) -> bool:
        """Whether a start of this VM at this time has no other reason than a mark.

        When it was marked, its restartPolicy left it off. Since then it has neither run nor got another spec.
        """
        marked = next((one.shown for one in reversed(self.vms.get(name, [])) if one.asked_s <= at_s), None)
        if marked is None or "restartRequestTime" in vm["spec"]:
            return False
        before, now = marked["status"], vm.get("status", {})
        same = [marked["metadata"][field] == vm["metadata"][field] for field in ("uid", "generation")]
        same.append(before.get("lastStop") == now.get("lastStop"))
        served = before.get("observedGeneration") == marked["metadata"]["generation"]
        return all(same) and served and before.get("decidedReason") in LEFT_OFF

    def judge(self, told: Iterable[Answer], stopped: list[Span]) -> None:
        """Judge what managers have written. While `stopped`, managers were stopped: that time does not count."""
        for answer in sorted(told, key=lambda one: one.asked_s):
            if answer.sent is None:
                continue
            if answer.kind == "Lease":
                self._note_leader(answer)
            else:
                self._judge(answer, stopped)

    def _note_leader(self, answer: Answer) -> None:
        holder = answer.shown["spec"].get("holderIdentity") or ""
        if answer.name != MANAGER_LEASE:
            self.wrong.append(f"{answer.user} wrote the Lease {answer.name}")
        elif holder and holder != self._leader:
            self.written["changes of the leader"] += bool(self._leader)
            self._leader = holder

    def _judge(self, answer: Answer, stopped: list[Span]) -> None:
        sent = answer.sent or {}
        status: Json = sent.get("status", {})
        what = f"{answer.kind} {answer.name} at {answer.asked_s:.1f}"
        if not set(sent) <= {"metadata", "status"} or set(sent.get("metadata", {})) - {"resourceVersion"}:
            self.wrong.append(f"{answer.user} wrote more than the status of {what}: {sent}")
        elif extra := set(status) - WRITTEN[answer.kind]:
            self.wrong.append(f"{answer.user} wrote {', '.join(sorted(extra))} of {what}")
        if status.get("runsElsewhere"):
            self.written["lists of VMs that run elsewhere"] += 1
        if any(one.get("reason") == UNREACHABLE for one in status.get("conditions", [])):
            self.written[f"marks of {answer.kind}s"] += 1
            node = answer.name
            if answer.kind == "VirtualMachine":
                node = answer.shown["spec"].get("nodeName", "")
                self.vms.setdefault(answer.name, []).append(answer)
            if why := self._why_not(node, answer.asked_s, stopped):
                self.wrong.append(f"{answer.user} marked {what}, but {why}")

    def _why_not(self, node: str, at_s: float, stopped: list[Span]) -> str | None:
        """Why the node was not silent for its grace, at any moment when the manager can have found out."""
        writes = [one for one in self._leases.get(node, []) if one[0] <= at_s]
        if not writes:  # there is no agent of this name
            return None
        seen_s = at_s - SEEN_S - overlap_s(Span(at_s - 2 * SEEN_S, at_s), stopped)
        silences = [
            (end_s - begin_s, LEASE_S if held else RELEASED_S)
            for (begin_s, held), (end_s, _) in pairwise([*writes, (at_s, True)])
            if end_s >= seen_s
        ]
        if any(silent_s >= grace_s - ROUNDED_S for silent_s, grace_s in silences):
            return None
        return f"the agent of {node} was silent for {max(silences)[0]:.1f} s only"

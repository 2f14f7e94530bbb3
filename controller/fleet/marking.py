"""Decides which objects of a silent node are marked, and renders the marks. Pure.

A mark is the condition Ready=Unknown with the reason AgentUnreachable, and of a Hypervisor in maintenance also
Quiesced=Unknown. It changes nothing else in the status: the agent that returns reads there what it knew. `ROWS` is the
decision table of a node; docs/fleet.md shows the same table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from controller.api.codec import condition_mapper
from controller.api.hypervisor import Hypervisor, HypervisorReason, HypervisorStatus
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.json_mapping import Json, as_map
from controller.api.names import ConditionType, HypervisorConditionType
from controller.api.values import replace
from controller.api.virtualmachine import Condition, Reason, Status, VirtualMachine
from controller.fleet.silence import Kind, Silence

CONDITIONS = condition_mapper([ConditionType.READY, HypervisorConditionType.QUIESCED])


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of one node when its objects could be marked."""

    namespace: str
    """The namespace of the Leases that this manager lists."""
    may_write: bool
    """Whether this manager leads, and has a good list of the last 15 s."""
    silence: Silence | None
    hypervisor: Hypervisor | None


class Outcome(Enum):
    """What a row of the decision table says."""

    WAIT = "decide again after the next list"
    LEAVE = "mark nothing: the agent belongs to another installation, or has no Lease"
    MARK = "mark the Hypervisor, and then the VMs"


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One row of the decision table."""

    name: str
    applies: Callable[[NodeFacts], bool]
    outcome: Outcome


def row_of(facts: NodeFacts) -> NodeRow:
    """Return the first row of the table that applies."""
    return next(row for row in ROWS if row.applies(facts))


def _belongs_elsewhere(s: NodeFacts) -> bool:
    """Whether the Hypervisor says that its agent has its Lease in another namespace, or that it has none.

    A Lease in this namespace is then left over. Before the first report, only a missing Lease says that there is none.
    """
    if s.hypervisor is None:
        return False
    status = s.hypervisor.status
    return status.has_no_lease_in(s.namespace) or (not status.lease_namespace and _is(s, Kind.MISSING))


def _is(s: NodeFacts, kind: Kind) -> bool:
    return s.silence is not None and s.silence.kind is kind


ROWS = (
    NodeRow("no-sight", lambda s: not s.may_write, Outcome.WAIT),
    NodeRow("heard", lambda s: s.silence is None, Outcome.WAIT),
    NodeRow("elsewhere", _belongs_elsewhere, Outcome.LEAVE),
    NodeRow("lost", lambda s: _is(s, Kind.LOST), Outcome.MARK),
    NodeRow("left", lambda s: _is(s, Kind.LEFT), Outcome.MARK),
    NodeRow("missing", lambda s: _is(s, Kind.MISSING), Outcome.MARK),
)


@dataclass(frozen=True, slots=True)
class Exemption:
    """A reason why a VM of a silent node is not marked."""

    name: str
    applies: Callable[[VirtualMachine], bool]


EXEMPTIONS = (
    Exemption("deleting", lambda vm: vm.deleting),
    Exemption("never-reported", lambda vm: not vm.status.node_name),
    Exemption("off-elsewhere", lambda vm: vm.status.node_name != vm.node_name and vm.status.was_off),
    Exemption("no-decided-reason", lambda vm: not vm.status.decided_reason),
    Exemption("marked", lambda vm: vm.status.reason == Reason.AGENT_UNREACHABLE),
)
"""The VMs that are not marked. A VM on which no agent has ever reported stays Pending. The agent of an older version
remembers its last decision only in Ready, so a mark would make it forget that decision. The same applies to a VM about
which no agent has decided yet, because none could observe it or none was allowed to act. A mark puts a report in doubt,
but the silence of one node is no reason to doubt that another node has reported the VM off."""


def exemption_of(vm: VirtualMachine) -> str:
    """Return the name of the first exemption that applies to this VM; empty: it is marked if its node is silent."""
    return next((one.name for one in EXEMPTIONS if one.applies(vm)), "")


def vm_mark(vm: VirtualMachine, silence: Silence, now: datetime) -> Json:
    """Return the fields of the status that mark this VM. All of its other conditions are removed.

    Reconciling and Stalled would say that somebody works on the VM, or that an action failed: nobody knows that now.
    """
    return {"conditions": [_silent(_ready(vm.status, now), silence, now)]}


def hypervisor_mark(raw: Json, silence: Silence, now: datetime, *, with_quiesced: bool = True) -> Json | None:
    """Return the fields of the status that mark this Hypervisor; None: it is marked already.

    Quiesced is marked if the agent has reported it, because whoever waits for it powers the host off next. Without
    `with_quiesced` it stays as it is, like conditions of other types. A Hypervisor that is being deleted is marked too:
    a finalizer can keep it for long, and without a mark it would look as if its agent lived.
    """
    status = parse_hypervisor(raw).status
    ready, quiesced = _ready(status, now), status.condition(HypervisorConditionType.QUIESCED)
    reported = {one.type: one for one in (ready, quiesced if with_quiesced else None) if one}
    if all(one.reason == HypervisorReason.AGENT_UNREACHABLE for one in reported.values()):
        return None
    marks = [_silent(one, silence, now) for one in reported.values()]
    conditions: list[Json] = as_map(raw.get("status")).get("conditions") or []
    return {"conditions": [*marks, *(one for one in conditions if one["type"] not in reported)]}


def message(silence: Silence) -> str:
    """Return what happened to the agent of this node, as one sentence for users."""
    node, when = silence.node, f"{silence.heard:%Y-%m-%d %H:%M:%SZ}"
    match silence.kind:
        case Kind.LOST:
            told = f"The agent of {node} has not been heard since {when}"
        case Kind.LEFT:
            told = f"The agent of {node} was stopped at {when}, and no other has started there"
        case Kind.MISSING:
            told = f"No agent of {node} has been heard since {when}, and the node has no Lease"
    return f"{told}: the status shows what was reported last."


def unknown(before: Condition, reason: Reason, message: str, now: datetime) -> Json:
    """Return the condition that replaces `before` and is Unknown, as JSON."""
    since = before.last_transition_time if before.status == "Unknown" else now.replace(microsecond=0)
    after = replace(before, status="Unknown", reason=reason, message=message, last_transition_time=since)
    return CONDITIONS.write(after)


def _silent(before: Condition, silence: Silence, now: datetime) -> Json:
    return unknown(before, Reason.AGENT_UNREACHABLE, message(silence), now)


def _ready(status: Status | HypervisorStatus, now: datetime) -> Condition:
    """Return the condition Ready, or an empty one if it is missing."""
    found = status.condition(ConditionType.READY)
    return found or Condition(ConditionType.READY, "", "", "", now, max(status.observed_generation, 0))

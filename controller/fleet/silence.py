"""Finds the nodes whose agent is silent, from lists of the agents' Leases over observed time. Pure.

An agent shows that it is alive by renewing the Lease of its node. The manager lists all Leases every 2 s, and counts
how long each has been unchanged on its own clock, from the first list that showed it so. It never compares the clocks
of two machines. Times that are shown to people are wall times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from controller.api.clock import Now
from controller.api.json_mapping import as_time
from controller.api.values import replace

GRACE_S = 40.0
"""The grace of a node without a Lease, and of a Lease without a holder or a duration: how long this can last before the
node is silent. During a rollout, no agent holds the Lease of a node for about 3 s (measured)."""
GRACE_LEAST_S, GRACE_MOST_S = 20.0, 300.0
"""The limits of the grace: an agent that writes a wrong or forged duration must not stay unnoticed for a day."""
BLIND_AFTER_S = 15.0
"""After this time without a good list, the manager does not know which agents live. Shorter gaps need no exception,
because an agent renews its Lease four times within the grace."""
AFTER_BLINDNESS_S = 25.0
"""After it was blind, the manager declares no node silent for this time, because the agents might have lost the API
server too: they renew their Leases within 12 s after it answers again (measured)."""
AFTER_BLINDNESS_MOST_S = 160.0
"""The most that this time can become. When an agent returns, others might be on their way, and `AFTER_BLINDNESS_S`
begins again: on two cores, the last of 1000 agents returned after 58 s (measured)."""


@dataclass(frozen=True, slots=True)
class AgentLease:
    """The fields of an agent's Lease that change when the agent renews it. Changes of other fields are no renewal."""

    holder: str
    """Empty: the agent has released the Lease, because it was stopped in order."""
    renewed: str
    """The renew time as text, by the clock of the agent."""
    duration_s: float | None

    @property
    def grace_s(self) -> float:
        """How long the Lease can be unchanged before its node is silent."""
        if not self.holder or self.duration_s is None:
            return GRACE_S
        return min(max(self.duration_s, GRACE_LEAST_S), GRACE_MOST_S)


class Kind(Enum):
    """How an agent became silent."""

    LOST = "its Lease has a holder that no longer renews it"
    LEFT = "the agent has released its Lease, and no other agent has taken it"
    MISSING = "there is no Lease"


@dataclass(frozen=True, slots=True)
class Silence:
    """One silence of one node. A renewal ends it; the next silence of the same node has another `since_s`."""

    node: str
    kind: Kind
    since_s: float
    """When a list first showed the Lease as it is, by the manager's clock."""
    heard: datetime
    """When the agent was last heard, for people. If the Lease is missing: when a list first lacked it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The Lease of a node, and the moment at which a list first showed it like this."""

    lease: AgentLease | None
    since: Now

    def silence(self, node: str) -> Silence:
        """Return this as a silence of the node, whether or not the grace is over."""
        lease = self.lease
        kind = Kind.MISSING if lease is None else Kind.LEFT if not lease.holder else Kind.LOST
        renewed = as_time(lease.renewed) if lease else None
        heard = min(renewed, self.since.wall) if renewed else self.since.wall
        return Silence(node, kind, self.since.monotonic_s, heard)

    @property
    def grace_s(self) -> float:
        """How long the Lease can be unchanged, or missing, before the node is silent."""
        return self.lease.grace_s if self.lease else GRACE_S


@dataclass(frozen=True, slots=True)
class Sight:
    """What the lists so far have shown. Immutable: `listed` and `expecting` return the next one."""

    nodes: Mapping[str, Observed] = field(default_factory=dict)
    requested_s: float = float("-inf")
    """When the last good list was requested. The list shows the Leases as they were at this time or later."""
    received_s: float = float("-inf")
    """When the last good list was received."""
    patient_until_s: float = float("-inf")
    """No node is silent before this time, because the manager was blind."""
    patient_most_s: float = float("-inf")
    """The latest time to which agents that return can move `patient_until_s`."""

    def listed(self, leases: Mapping[str, AgentLease], *, requested_s: float, received: Now) -> Sight:
        """Return what is known after a good list of the agents' Leases. A Lease that it lacks counts as missing."""
        nodes = {
            node: before if before and before.lease == lease else Observed(lease, received)
            for node in {**self.nodes, **leases}
            for before, lease in [(self.nodes.get(node), leases.get(node))]
        }
        now_s, until_s, most_s = received.monotonic_s, self.patient_until_s, self.patient_most_s
        if self.blind(now_s):
            until_s, most_s = now_s + AFTER_BLINDNESS_S, now_s + AFTER_BLINDNESS_MOST_S
        elif self.patient and self._returned(leases):
            until_s = min(now_s + AFTER_BLINDNESS_S, most_s)
        return Sight(nodes, requested_s, now_s, until_s, most_s)

    def _returned(self, leases: Mapping[str, AgentLease]) -> bool:
        """Whether an agent that was not heard for its grace has renewed its Lease."""
        return any(
            seen.lease != leases.get(node) and self.age_s(node) >= seen.grace_s
            for node, seen in self.nodes.items()
            if node in leases
        )

    def expecting(self, names: Iterable[str], now: Now) -> Sight:
        """Return what is known if these nodes should have a Lease.

        A node that has a Lease stays. One of these nodes that has none is missing, from now on unless it was missing
        before. Other nodes are forgotten.
        """
        expected = set(names)
        kept = {node: seen for node, seen in self.nodes.items() if seen.lease or node in expected}
        return replace(self, nodes={node: Observed(None, now) for node in expected} | kept)

    def blind(self, now_s: float) -> bool:
        """Whether the manager has no good list of the last `BLIND_AFTER_S`."""
        return now_s - self.received_s > BLIND_AFTER_S

    def age_s(self, node: str) -> float:
        """Return for how long the Lease of this node has certainly been unchanged; 0: the node is not known."""
        seen = self.nodes.get(node)
        return max(0.0, self.requested_s - seen.since.monotonic_s) if seen else 0.0

    @property
    def patient(self) -> bool:
        """Whether the manager was blind a moment ago, so that no node counts as silent yet."""
        return self.requested_s < self.patient_until_s

    def silence(self, node: str) -> Silence | None:
        """Return the silence of this node; None: it is heard, or its grace is not over."""
        seen = self.nodes.get(node)
        if seen is None or self.age_s(node) < seen.grace_s or self.patient:
            return None
        return seen.silence(node)

    def lasts(self, silence: Silence) -> bool:
        """Whether the Lease is as it was in this silence, so that the silence is not over."""
        seen = self.nodes.get(silence.node)
        return seen is not None and seen.silence(silence.node) == silence

    def silences(self) -> list[Silence]:
        """Return the silences of all nodes, the longest first."""
        return sorted(filter(None, map(self.silence, self.nodes)), key=lambda silence: (silence.since_s, silence.node))

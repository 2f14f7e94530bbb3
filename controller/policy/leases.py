"""Leader election: what one agent may do about the Lease of its node. Pure.

| the Lease | this agent |
|---|---|
| does not exist | creates it |
| has no holder | takes it |
| is its own | renews it |
| was taken under the host lock that this agent holds now | takes it: the former holder has released the lock, or died |
| has not changed for its whole duration | takes it |
| otherwise | waits |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MARGIN = 1 / 8
"""The last part of a Lease's duration, in which running actions finish and none begins."""


class Claim(Enum):
    """What an agent is allowed to do about a Lease."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Lease:
    """What the holder has written into the Lease."""

    holder: str
    duration_s: float
    renewed: str
    """Verbatim: compared only with the value before, because the holder's clock is not ours."""
    lock: str
    """The host lock that the holder held when it wrote this; empty: not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease, and since when it has been observed unchanged, on our own clock."""

    lease: Lease
    since_s: float


def look(before: Seen | None, lease: Lease | None, now_s: float) -> Seen | None:
    """The observation of now, merged with the one before."""
    if lease is None:
        return None
    return before if before and before.lease == lease else Seen(lease, now_s)


def claim(seen: Seen | None, identity: str, lock: str, now_s: float) -> Claim:
    """What the agent with this identity and this host lock may do; an empty lock proves nothing."""
    if seen is None:
        return Claim.CREATE
    lease = seen.lease
    if not lease.holder:
        return Claim.TAKE
    if lease.holder == identity:
        return Claim.RENEW
    if lock and lease.lock == lock:
        return Claim.TAKE
    return Claim.TAKE if now_s - seen.since_s >= lease.duration_s else Claim.WAIT


def held_until_s(sent_s: float, duration_s: float) -> float:
    """Until when a holder may act, counted from sending the granted request: others cannot have observed it earlier."""
    return sent_s + duration_s * (1 - MARGIN)

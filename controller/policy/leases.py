"""Whose the Lease of a node is, in the eyes of one agent. Pure.

| the Lease | this agent |
|---|---|
| is not there | creates it |
| has no holder | takes it |
| is its own | renews it |
| was taken under the very lock that this agent has now | takes it: whoever had it has let go of that lock, or died |
| has not changed for as long as it says | takes it |
| else | waits |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MARGIN = 1 / 8
"""The part of a Lease's time that is for acts under way: none begins in it."""


class Claim(Enum):
    """What an agent may do about a Lease."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Lease:
    """What its holder has written of it."""

    holder: str
    duration_s: float
    renewed: str
    """As it stands there: only to be compared with what stood there before. The holder's clock is not ours."""
    lock: str
    """The lock that the holder had when it wrote this; empty: none that is known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease, and since when it has been seen like this, on our own clock."""

    lease: Lease
    since_s: float


def look(before: Seen | None, lease: Lease | None, now_s: float) -> Seen | None:
    """What is seen now, in the light of what was seen before."""
    if lease is None:
        return None
    return before if before and before.lease == lease else Seen(lease, now_s)


def claim(seen: Seen | None, identity: str, lock: str, now_s: float) -> Claim:
    """What the agent of this identity may do, which has this lock; empty: one that proves nothing."""
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
    """Until when a holder may act, from when it has sent what was granted: nobody can have seen that before."""
    return sent_s + duration_s * (1 - MARGIN)

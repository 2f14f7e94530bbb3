"""Leader election: decide what a process is allowed to do with a Lease, that of its node or of the manager. Pure.

| the Lease | this process |
|---|---|
| does not exist | creates it |
| has no holder | takes it |
| is held by this process | renews it |
| names the host lock that this process holds now | takes it: the former holder has released that lock, or died |
| has not changed for its whole duration | takes it |
| otherwise | waits |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MARGIN = 1 / 8
"""The fraction of a Lease's duration, at its end, in which the holder begins no action, and actions in progress can
finish."""


class Claim(Enum):
    """What a process is allowed to do with a Lease."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Lease:
    """The fields of a Lease that its holder has written."""

    holder: str
    duration_s: float
    renewed: str
    """The renew time as text. It is compared only with the former value, because it is of the holder's clock."""
    lock: str
    """The host lock that the holder had when it took the Lease; empty: not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease, and since when this process has observed it unchanged, on its monotonic clock."""

    lease: Lease
    since_s: float


def observe(before: Seen | None, lease: Lease | None, now_s: float) -> Seen | None:
    """Return the new observation of a Lease; None: there is no Lease.

    An unchanged Lease keeps the time of its first observation.
    """
    if lease is None:
        return None
    return before if before and before.lease == lease else Seen(lease, now_s)


def claim(seen: Seen | None, identity: str, lock: str, now_s: float) -> Claim:
    """Return what the process with this identity and this host lock is allowed to do.

    An empty `lock` does not show that the former holder has stopped.
    """
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
    """Return until when the holder of a Lease is allowed to act.

    The time counts from when the granted request was sent, because no other agent can have observed the Lease earlier.
    """
    return sent_s + duration_s * (1 - MARGIN)

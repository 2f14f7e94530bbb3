"""When the agent of a host that is not a node renews its token. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

EARLIEST_SHARE, LATEST_SHARE = 0.5, 0.6
"""A token is renewed when this share of its lifetime has passed. The share is random, so that hosts that were enrolled
together do not renew together. The rest of the lifetime, 12 days of 30, is for outages and for a host that is off."""
RETRY_SHARE = 0.1
"""After a failure, the next attempt comes when this share of the remaining time has passed, within these limits:"""
RETRY_LEAST_S, RETRY_MOST_S = 10.0, 600.0
LEAST_LIFETIME_S, MOST_LIFETIME_S = 600, 30 * 24 * 3600
"""The lifetime that an agent may request. Sources: the API server refuses less than 10 minutes
(ValidateTokenRequest of Kubernetes), and the policy virtsync-agent-token refuses more than 30 days."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """From when until when a token is valid."""

    issued: datetime
    expires: datetime

    @property
    def seconds(self) -> float:
        """How long the token is valid in all; at least 0."""
        return max((self.expires - self.issued).total_seconds(), 0.0)

    def remaining_s(self, now: datetime) -> float:
        """Return for how many seconds the token is still valid; at most 0 if it has expired."""
        return (self.expires - now).total_seconds()


def renews_at(lifetime: Lifetime, chance: float) -> datetime:
    """Return when to renew the token. `chance` is a random number from 0 to 1, drawn once for each token."""
    share = EARLIEST_SHARE + (LATEST_SHARE - EARLIEST_SHARE) * chance
    return lifetime.issued + timedelta(seconds=lifetime.seconds * share)


def retry_s(remaining_s: float) -> float:
    """Return the seconds until the next attempt after one that failed while the token was valid for `remaining_s`."""
    return min(max(remaining_s * RETRY_SHARE, RETRY_LEAST_S), RETRY_MOST_S)


def next_lifetime_s(lifetime: Lifetime) -> int:
    """Return the lifetime to request for the next token: that of the present one, within what an agent may request."""
    return int(min(max(lifetime.seconds, LEAST_LIFETIME_S), MOST_LIFETIME_S))

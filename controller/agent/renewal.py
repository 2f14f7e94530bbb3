"""Renews the token of a host that is not a node before it expires. A Pod gets its tokens from the kubelet."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog

from controller.api.clock import api_time, duration
from controller.kube.client import Api
from controller.kube.hosts.enrollment import request_token
from controller.kube.hosts.kubeconfig import replace_token
from controller.kube.hosts.token import BEARER, HostToken, host_token
from controller.kube.kubeconfig import default_file
from controller.policy.renewal import Lifetime, next_lifetime_s, renews_at, retry_s
from controller.runtime.errors import Rejected, Transient, Vanished
from controller.runtime.periodic import PeriodicTask

LOOK_EVERY_S = 60.0
"""How often the agent looks at its token, because somebody can replace the kubeconfig at any time."""

log = structlog.get_logger()


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


class Gauge(Protocol):
    """Where the token is shown."""

    def token_seen(self, host: str, lifetime: Lifetime) -> None:
        """Show until when the token of this host is valid, and for how long in all."""


class Renewal:
    """Looks at the token of the kubeconfig, and renews it when it is due. Does nothing if the token is of no host.

    The task runs on its own thread; other threads may call `unready`.
    """

    def __init__(
        self,
        api: Api,
        kubeconfig: Path | None,
        node_name: str,
        gauge: Gauge,
        *,
        renew_after_s: float | None = None,
        clock: Callable[[], datetime] = utc_now,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`renew_after_s`: renew the token at this age; None: when `policy/renewal.py` says so.

        Raises Rejected if the token is of another host than this.
        """
        self._api, self._kubeconfig, self._gauge = api, kubeconfig or default_file(), gauge
        self._renew_after_s, self._clock, self._chance = renew_after_s, clock, chance
        self._seen: HostToken | None = None
        self._attempt = clock()
        """When the present token is renewed, or the next attempt comes after one that has failed."""
        self._tried_at: datetime | None = None
        """When the present token was last tried to be renewed; None: it was not."""
        found = host_token(api.credentials.current())
        if found and found.host != node_name:
            raise Rejected(
                f"The token in the kubeconfig is of host {found.host}, and --node-name is {node_name}: set it to the"
                f" name with which the host was enrolled, or enroll this host (virtsync enroll {node_name})."
            )
        self.tasks = [PeriodicTask("token", LOOK_EVERY_S, self.look)] if found or kubeconfig else []
        """The periodic task; none in a Pod, where the kubelet renews the token."""

    def unready(self) -> str | None:
        """Return that the token has expired, as one sentence; None: it has not."""
        found = host_token(self._api.credentials.latest)
        return self._expired(found) if found and found.lifetime.remaining_s(self._clock()) <= 0 else None

    def look(self) -> float | None:
        """Renew the token if it is due. Return the seconds until the next look; None: about `LOOK_EVERY_S`."""
        access = self._api.credentials.current()
        found = host_token(access)
        if found is None:
            return None
        now = self._clock()
        if found != self._seen:
            self._see(found, now)
        # Also if the token has expired by the clock of this host, because that of the API server decides.
        # If the clock was set back since the last attempt, the time of the next one means nothing.
        if now >= self._attempt or (self._tried_at and now < self._tried_at):
            self._tried_at = now
            self._renew(found, (access.authorization or "").removeprefix(BEARER))
        return min(max((self._attempt - self._clock()).total_seconds(), 0.0), LOOK_EVERY_S)

    def _see(self, found: HostToken, now: datetime) -> None:
        """Note a new token, and log until when it is valid."""
        self._seen, self._tried_at = found, None
        self._attempt = self._due(found.lifetime)
        self._gauge.token_seen(found.host, found.lifetime)
        log.info(
            "the token of this host is valid",
            expires=api_time(found.lifetime.expires),
            remaining=duration(found.lifetime.remaining_s(now)),
            renewed_from=api_time(self._attempt.replace(microsecond=0)),
        )

    def _expired(self, found: HostToken) -> str:
        return (
            f"the token of this host expired at {api_time(found.lifetime.expires)}: run `virtsync enroll {found.host}"
            f" --namespace {found.namespace} --server {self._api.credentials.latest.server}` again, and replace"
            f" {self._kubeconfig} with the file that it writes"
        )

    def _due(self, lifetime: Lifetime) -> datetime:
        if self._renew_after_s is not None:
            return lifetime.issued + timedelta(seconds=self._renew_after_s)
        return renews_at(lifetime, self._chance())

    def _renew(self, found: HostToken, present: str) -> None:
        try:
            token = request_token(self._api, found.namespace, found.host, next_lifetime_s(found.lifetime))
            replace_token(self._kubeconfig, present, token)
        except (Rejected, Transient, Vanished) as error:
            self._failed(found, str(error))
            return
        # If somebody has replaced the file meanwhile by one that cannot be used, the present token stays in use.
        self._attempt = self._clock() + timedelta(seconds=LOOK_EVERY_S)
        renewed = host_token(self._api.credentials.reload())
        if renewed and renewed != found:
            self._see(renewed, self._clock())
        log.info("renewed the token of this host")

    def _failed(self, found: HostToken, why: str) -> None:
        """Log the failure, and note when the next attempt may come."""
        remaining_s = found.lifetime.remaining_s(self._clock())
        self._attempt = self._clock() + timedelta(seconds=retry_s(remaining_s))
        if remaining_s > 0:
            log.warning("could not renew the token of this host", error=why, remaining=duration(remaining_s))
        else:
            log.error("the token of this host has expired", message=self._expired(found), error=why)

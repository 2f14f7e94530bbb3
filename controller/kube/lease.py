"""The Lease of this node: who acts under its name, and that its agent lives.

One agent has it at a time, as with client-go's leader election: it renews it, and whoever else sees no renewal for as
long as the Lease says may take it. Clocks of two machines are never compared.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import structlog

from controller.api.clock import exponential_s
from controller.api.names import AGENT, GROUP
from controller.kube.client import Api
from controller.policy.leases import Claim, Lease, Seen, claim, held_until_s, look
from controller.runtime import retry
from controller.runtime.errors import Conflicted, Rejected, Transient, Vanished

RENEWALS = 4
"""So many fit into the time of a Lease."""
ATTEMPTS, RETRY_MAX_S = 20, 2.0
"""So many attempts do while it cannot be had, and they are never further apart than this. Once it is lost, and cannot
be asked for, they double up to the time between two renewals: all agents of a cluster lose it together."""
LOCK = f"{GROUP}/lock"
"""The annotation that says under which lock its holder took it. It begins with the holder: who takes the Lease in
another way, as with kubectl, leaves it as it is, and it then says nothing."""
MOST_TRANSITIONS = 2**31 - 1
LABELS = {
    "app.kubernetes.io/name": "virtsync",
    "app.kubernetes.io/component": "agent",
    "app.kubernetes.io/part-of": "virtsync",
}

Json = dict[str, Any]

log = structlog.get_logger()


def now_s() -> float:
    """Seconds on a clock that goes on while the machine sleeps: the Lease does not wait for it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class NodeLease:
    """The Lease of this node. One thread keeps it; any may read `held` and `blocked`, without a request."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        node_name: str,
        identity: str,
        duration_s: float,
        lock: Callable[[], str | None],
        dead: Callable[[], list[str]],
        clock: Callable[[], float] = now_s,
    ) -> None:
        """`lock` is the lock on this node's libvirt that this agent has, empty where there is none to have; None: it
        has not got it, and then wants no Lease. `dead` names the parts of the agent that it cannot go on without.
        """
        self._api, self._namespace, self._name = api, namespace, node_name
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases"
        self._path = f"{self._collection}/{quote(node_name)}"
        self._identity, self._duration_s = identity, duration_s
        self._lock, self._dead, self._clock = lock, dead, clock
        self._raw: Json = {}
        """As it was last answered; empty: it is not there, or has not been asked for."""
        self._seen: Seen | None = None
        self._until_s = float("-inf")
        self._why = "it has not been asked for yet"
        self._over = False
        self._failures = 0
        """How often in a row the API server was asked in vain."""

    @property
    def held(self) -> bool:
        """Nobody else can have it now."""
        return self._clock() < self._until_s

    @property
    def blocked(self) -> str:
        """Why this agent may not act, as one sentence; empty while it holds the Lease."""
        if self.held:
            return ""
        why = self._why or "it has not been renewed in time"
        return f"The Lease {self._namespace}/{self._name} of this node is not held: {why.rstrip('.')}."

    def keep(self) -> float:
        """Do what is due, and say after how many seconds to be called again."""
        asked_s = 0.0
        try:
            self._why = self._hindrance() or self._attempt()
            self._failures = 0
        except (Transient, Rejected, Vanished) as error:
            self._why = str(error)
            self._failures += 1
            asked_s = error.retry_after_s if isinstance(error, Transient) else 0.0
            log.debug("could not renew the Lease", lease=f"{self._namespace}/{self._name}", error=str(error))
        renewal_s = self._duration_s / RENEWALS
        if not self._why:
            return renewal_s * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load
        left_s = self._until_s - self._clock()
        again_s = min(self._duration_s / ATTEMPTS, RETRY_MAX_S)
        if left_s > 0:
            return min(left_s, max(again_s, min(asked_s, renewal_s)))
        again_s = exponential_s(again_s, renewal_s, self._failures + 1) if self._failures else again_s
        return max(again_s, min(asked_s, renewal_s)) * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load

    def release(self) -> None:
        """Let another have it at once; without an answer it runs out by itself. Any thread, once, at the end."""
        self._over = True
        self._until_s = float("-inf")
        try:
            try:
                self._give_up()
            except Conflicted:
                self._read()
                self._give_up()
        except (Transient, Rejected, Vanished) as error:
            log.warning("could not release the Lease", lease=f"{self._namespace}/{self._name}", error=str(error))

    def _hindrance(self) -> str:
        if dead := self._dead():
            return f"this agent cannot go on without its {' and '.join(dead)}, which no longer work"
        if self._lock() is None:
            return "another process has the lock on the libvirt of this node"
        return ""

    def _attempt(self) -> str:
        """Claim it; empty, or why that may not be. Raises Transient, Rejected, Vanished."""
        if not self._is_ours():
            self._read()
        try:
            return self._claim()
        except Conflicted:  # also when it is gone
            self._read()
            return self._claim()

    def _claim(self) -> str:
        seen, lock, sent_s = self._seen, self._lock() or "", self._clock()
        what = claim(seen, self._identity, lock, sent_s)
        if self._over:
            return "this agent is stopping"
        if seen and what is Claim.WAIT:
            self._until_s = float("-inf")
            lease = seen.lease
            return f"{lease.holder} holds it; it is taken over once that has not renewed it for {lease.duration_s:g} s"
        self._write(self._claimed(what, lock))
        self._until_s = held_until_s(sent_s, self._duration_s)
        return ""

    def _give_up(self) -> None:
        if self._is_ours():
            at = _micro()
            # As client-go's ReleaseOnCancel leaves it.
            free = {"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": at, "renewTime": at}
            self._write(self._raw | {"spec": self._raw["spec"] | free})

    def _is_ours(self) -> bool:
        return self._seen is not None and self._seen.lease.holder == self._identity

    def _claimed(self, what: Claim, lock: str) -> Json:
        """The Lease as this agent has it."""
        at = _micro()
        metadata, spec = self._raw.get("metadata", {}), self._raw.get("spec", {})
        annotations = (metadata.get("annotations") or {}) | {LOCK: f"{self._identity} {lock}" if lock else None}
        mine = {"holderIdentity": self._identity, "leaseDurationSeconds": int(self._duration_s), "renewTime": at}
        if what is not Claim.RENEW:
            transitions = spec.get("leaseTransitions", 0) + 1 if what is Claim.TAKE else 0
            mine |= {"acquireTime": at, "leaseTransitions": min(transitions, MOST_TRANSITIONS)}
        return self._raw | {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata
            | {"name": self._name, "namespace": self._namespace}
            | {"labels": (metadata.get("labels") or {}) | LABELS}
            | {"annotations": {name: value for name, value in annotations.items() if value is not None}},
            "spec": spec | mine,
        }

    # --- requests

    def _read(self) -> None:
        try:
            self._take(retry.call(self._api.request, "GET", self._path))
        except Vanished:
            self._take({})

    def _write(self, body: Json) -> None:
        """Onto the very version that was decided on: else it is Conflicted."""
        method, path = ("PUT", self._path) if self._raw else ("POST", self._collection)
        self._take(retry.call(self._api.request, method, path, body, fieldManager=AGENT))

    def _take(self, raw: Json) -> None:
        self._raw = raw
        self._seen = look(self._seen, self._parsed(raw) if raw else None, self._clock())

    def _parsed(self, raw: Json) -> Lease:
        spec = raw.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        whose, _, lock = (raw["metadata"].get("annotations") or {}).get(LOCK, "").partition(" ")
        return Lease(
            holder=holder,
            duration_s=float(spec.get("leaseDurationSeconds") or self._duration_s),
            renewed=spec.get("renewTime") or "",
            lock=lock if whose == holder else "",
        )


def _micro() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

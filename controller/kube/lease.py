"""Acquires and renews a Lease: the Lease of a node, which its agent holds, or the Lease of the leading manager.

As in client-go's leader election, one process holds the Lease at a time and renews it. Another process may take over
the Lease after it has observed no renewal for the Lease's duration. The clocks of two machines are never compared.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import structlog

from controller.api.clock import exponential_s, micro_time
from controller.api.json_mapping import Json, as_map
from controller.kube import paths
from controller.kube.client import Api
from controller.kube.lease_fields import LOCK, lease_fields
from controller.policy.leases import Claim, Lease, Seen, claim, held_until_s, observe
from controller.runtime import retry
from controller.runtime.errors import Conflicted, Rejected, Transient, Vanished

RENEWALS = 4
"""The holder renews the Lease this number of times within the Lease's duration."""
ATTEMPTS, RETRY_MAX_S = 20, 2.0
"""While the Lease cannot be acquired or renewed, the process retries `ATTEMPTS` times within the Lease's duration, and
at least every `RETRY_MAX_S`. While it does not hold the Lease and requests fail, the wait doubles up to the time
between two renewals, because all agents of a cluster might have lost their Leases together."""
MAX_TRANSITIONS = 2**31 - 1
LABELS = {"app.kubernetes.io/name": "virtsync", "app.kubernetes.io/part-of": "virtsync"}
COMPONENT_LABEL = "app.kubernetes.io/component"


log = structlog.get_logger()


def now_s() -> float:
    """Return the seconds of a clock that also runs while the machine sleeps, because a Lease expires then too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class KeptLease:
    """A Lease that this process acquires and renews. Only one thread may call `keep`.

    Any thread may read `held` and `blocked`.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        component: str,
        identity: str,
        duration_s: float,
        proof: Callable[[], str] = lambda: "",
        must_not_claim: Callable[[], str],
        clock: Callable[[], float] = now_s,
    ) -> None:
        """`component` is "agent" or "manager": it is in the label, the field manager and the messages.

        `proof` returns the name of the host lock that this process holds; an empty string: it holds none. A Lease whose
        holder recorded the same lock is taken at once, because that holder has released the lock or died.
        `must_not_claim` returns why this process must not acquire or renew the Lease now, without a subject; an empty
        string: nothing prevents it.
        """
        self._api, self._namespace, self._name, self._component = api, namespace, name, component
        self._collection = paths.leases(namespace)
        self._path = f"{self._collection}/{quote(name)}"
        self._identity, self._duration_s = identity, duration_s
        self._proof, self._must_not_claim, self._clock = proof, must_not_claim, clock
        self._raw: Json = {}
        """The Lease as the API server last returned it. Empty if it does not exist or has not been read yet."""
        self._seen: Seen | None = None
        self._until_s = float("-inf")
        self._why = "it has not tried to acquire it yet"
        self._released = False
        self._failures = 0
        """The number of consecutive failed requests."""
        self.gains = 0
        """How often this process has begun to hold the Lease. A renewal that is answered after the Lease had expired
        counts: until that answer, `blocked` had a reason, which others might have read."""

    @property
    def held(self) -> bool:
        """Whether this process holds the Lease. While it holds the Lease, no other process can hold it."""
        # The answer to a renewal can come after the release.
        return not self._released and self._clock() < self._until_s

    @property
    def blocked(self) -> str:
        """Why this process must not act, as one sentence. Empty while it holds the Lease."""
        if self.held:
            return ""
        why = self._why or "it was not renewed in time"
        return f"This {self._component} does not hold Lease {self._namespace}/{self._name}: {why.rstrip('.')}."

    def keep(self) -> float:
        """Try to acquire or renew the Lease. Return after how many seconds this must be called again.

        Does not raise if a request fails. While the Lease is not held, `blocked` contains the reason.
        """
        retry_after_s = 0.0
        try:
            self._why = self._must_not_claim() or self._attempt()
            self._failures = 0
        except (Transient, Rejected, Vanished) as error:
            self._why = str(error)
            self._failures += 1
            retry_after_s = error.retry_after_s if isinstance(error, Transient) else 0.0
            log.debug("could not renew the Lease", lease=f"{self._namespace}/{self._name}", error=str(error))
        renewal_s = self._duration_s / RENEWALS
        if not self._why:
            return renewal_s * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load
        left_s = self._until_s - self._clock()
        wait_s = min(self._duration_s / ATTEMPTS, RETRY_MAX_S)
        if left_s > 0:
            return min(left_s, max(wait_s, min(retry_after_s, renewal_s)))
        wait_s = exponential_s(wait_s, renewal_s, self._failures + 1) if self._failures else wait_s
        return max(wait_s, min(retry_after_s, renewal_s)) * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load

    def release(self) -> None:
        """Release the Lease, so that another process can take it at once. If the request fails, it expires later.

        Must be called only once, when the process ends. Any thread may call it. Logs a failed request and does not
        raise.
        """
        self._released = True
        self._until_s = float("-inf")
        try:
            try:
                self._write_released()
            except Conflicted:
                self._read()
                self._write_released()
        except (Transient, Rejected, Vanished) as error:
            log.warning("could not release the Lease", lease=f"{self._namespace}/{self._name}", error=str(error))

    def _attempt(self) -> str:
        """Claim the Lease. Return why this is not allowed, or an empty string. Raises Transient, Rejected, Vanished."""
        if not self._is_ours():
            self._read()
        try:
            return self._claim()
        except Conflicted:  # the Lease has changed or was deleted
            self._read()
            return self._claim()

    def _claim(self) -> str:
        seen, lock, sent_s = self._seen, self._proof(), self._clock()
        what = claim(seen, self._identity, lock, sent_s)
        if self._released:
            return f"this {self._component} is stopping"
        if seen and what is Claim.WAIT:
            self._until_s = float("-inf")
            lease = seen.lease
            return (
                f"{lease.holder} holds it; this {self._component} takes it over"
                f" if it is not renewed for {lease.duration_s:g} s"
            )
        self._write(self._claimed(what, lock))
        before_s, self._until_s = self._until_s, held_until_s(sent_s, self._duration_s)
        # Read after the assignment: whoever has found the Lease expired did so earlier.
        self.gains += self._clock() >= before_s
        return ""

    def _write_released(self) -> None:
        if self._is_ours():
            at = micro_time(datetime.now(UTC))
            # client-go's ReleaseOnCancel writes the same fields.
            free = {"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": at, "renewTime": at}
            self._write(self._raw | {"spec": self._raw["spec"] | free})

    def _is_ours(self) -> bool:
        return self._seen is not None and self._seen.lease.holder == self._identity

    def _claimed(self, what: Claim, lock: str) -> Json:
        """Return the Lease that this process writes to claim it."""
        at = micro_time(datetime.now(UTC))
        metadata, spec = self._raw.get("metadata", {}), self._raw.get("spec", {})
        annotations = (metadata.get("annotations") or {}) | {LOCK: f"{self._identity} {lock}" if lock else None}
        mine = {"holderIdentity": self._identity, "leaseDurationSeconds": int(self._duration_s), "renewTime": at}
        if what is not Claim.RENEW:
            transitions = spec.get("leaseTransitions", 0) + 1 if what is Claim.TAKE else 0
            mine |= {"acquireTime": at, "leaseTransitions": min(transitions, MAX_TRANSITIONS)}
        return self._raw | {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata
            | {"name": self._name, "namespace": self._namespace}
            | {"labels": (metadata.get("labels") or {}) | LABELS | {COMPONENT_LABEL: self._component}}
            | {"annotations": {name: value for name, value in annotations.items() if value is not None}},
            "spec": spec | mine,
        }

    # --- requests

    def _read(self) -> None:
        try:
            self._store(retry.call(self._api.request, "GET", self._path))
        except Vanished:
            self._store({})

    def _write(self, body: Json) -> None:
        """Write the Lease with optimistic concurrency: raises Conflicted if it has changed since it was last read.

        Also raises Rejected, Vanished and Transient, the latter also if the answer is not the Lease as it was written,
        such as the page of a proxy: then it is not known whether it was written.
        """
        method, path = ("PUT", self._path) if self._raw else ("POST", self._collection)
        answer = retry.call(self._api.request, method, path, body, fieldManager=f"virtsync-{self._component}")
        name = as_map(answer.get("metadata")).get("name")
        if (name, lease_fields(answer).holder) != (self._name, body["spec"]["holderIdentity"]):
            raise Transient("the API server did not return the Lease that was written")
        self._store(answer)

    def _store(self, raw: Json) -> None:
        self._raw = raw
        self._seen = observe(self._seen, self._parsed(raw) if raw else None, self._clock())

    def _parsed(self, raw: Json) -> Lease:
        fields = lease_fields(raw)
        duration_s = float(fields.duration_s or self._duration_s)
        return Lease(holder=fields.holder, duration_s=duration_s, renewed=fields.renewed, lock=fields.lock)

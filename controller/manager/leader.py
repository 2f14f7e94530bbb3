"""Leader election: several managers can run, and only the one that leads writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import uuid4

import structlog

from controller.api.names import MANAGER
from controller.kube.client import Api
from controller.kube.lease import KeptLease
from controller.runtime.periodic import PeriodicTask

DURATION_S = 15
"""How long the Lease of the leader stays valid without renewal. If the leader dies, another manager leads after it."""
FIRST_RETRY_S = 1.0
RELEASE_S = 1.0
"""How long a stopping manager waits for the API server to release the Lease."""

log = structlog.get_logger()


class Leader:
    """Whether this manager leads. Thread-safe.

    A leader that was stopped or cut off from the API server does not lead any more when 7/8 of its Lease have passed
    since it sent its last successful renewal. Ask `leads` before every write.
    """

    def __init__(self, api: Api, *, namespace: str, identity: str | None, dead: Callable[[], list[str]]) -> None:
        """`dead` returns the names of the manager's threads that have died. If there is one, it does not lead."""
        self._dead = dead
        self._lease = KeptLease(
            api,
            namespace=namespace,
            name=MANAGER,
            component="manager",
            identity=identity or str(uuid4()),
            duration_s=DURATION_S,
            must_not_claim=self._must_not_claim,
        )
        self._led = False
        self.task = PeriodicTask("leader", FIRST_RETRY_S, self._keep)
        """The periodic task that acquires and renews the Lease."""

    def leads(self) -> bool:
        """Whether this manager leads now. Only the leader may write. Sends no request."""
        return self._lease.held

    def release(self) -> None:
        """Stop leading, and release the Lease, so that another manager leads at once. Waits at most `RELEASE_S`."""
        release = threading.Thread(target=self._lease.release, name="leader-release", daemon=True)
        release.start()
        release.join(RELEASE_S)

    def _keep(self) -> float | None:
        again_s = self._lease.keep()
        if self._led and not self.leads():
            log.warning("this manager no longer leads", message=self._lease.blocked)
        elif self.leads() and not self._led:
            log.info("this manager leads")
        self._led = self.leads()
        return again_s

    def _must_not_claim(self) -> str:
        parts = self._dead()
        return f"essential parts of the manager no longer work: {', '.join(parts)}" if parts else ""

"""Determines whether this agent may act on its libvirt: it must hold the host lock and, if configured, the Lease.

The host lock excludes a second agent on the same host. The Lease excludes a second host with the same node name (ADR
014).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import structlog

from controller.agent.settings import Settings
from controller.hypervisor.host_lock import HostLock
from controller.kube.client import Api
from controller.kube.lease import KeptLease
from controller.runtime.periodic import PeriodicTask

RETRY_S = 1.0
"""How often the agent tries to acquire a host lock that another process holds."""
RELEASE_S = 1.0
"""How long a stopping agent waits for the API server to release the Lease of the node."""

log = structlog.get_logger()


class Ownership:
    """The host lock and the Lease of one agent. Thread-safe.

    Only `release_lease` sends a request on the caller's thread. With --observe-only the agent acquires no host lock and
    `blocked` returns an empty text, because such an agent never acts.
    """

    def __init__(
        self,
        settings: Settings,
        api: Api,
        *,
        dead: Callable[[], list[str]],
        changed: Callable[[], None],
        directory_removed: Callable[[], None],
    ) -> None:
        """`dead` returns the names of the agent's threads that have died. If there is one, the Lease is not renewed.

        `changed` is called when the permission to act might have changed. `directory_removed` is called repeatedly
        after the libvirt socket directory that this process uses was removed.
        """
        self._settings, self._changed, self._directory_removed = settings, changed, directory_removed
        self._lock = HostLock.of(settings.libvirt_uri)
        self._lease = self._lease_of_node(api, dead)
        self._lease_blocked: str | None = None
        """The last logged reason why the agent does not hold the Lease; empty: the log says that it holds the Lease;
        None: nothing was logged yet."""
        self._lock_task = PeriodicTask("host-lock", RETRY_S, self._keep_lock)
        self._lease_task = PeriodicTask("lease", RETRY_S, self._keep_lease)
        self.tried = threading.Event()
        """Set when the first attempt to acquire the lock has ended, and then, if the agent has the lock, the
        first attempt to acquire the Lease."""
        self.tasks = [self._lock_task, self._lease_task] if self._lease else [self._lock_task]
        """The periodic tasks that acquire and keep the lock and the Lease. The creator of this object starts them, and
        closes them before it calls `release_lease` and `release_lock`."""

    def blocked(self) -> str:
        """Return why this agent must not act, as one sentence; empty if it may act, and with --observe-only."""
        if self._settings.observe_only:
            return ""
        return self.lock_missing() or self.lease_missing() or ""

    def owns_node(self) -> bool:
        """Whether this agent may report on the node as a whole: no other agent has its lock or its Lease."""
        return not (self.lock_missing() or self.lease_missing())

    def lock_missing(self) -> str | None:
        """Return why this agent lacks the host lock, as one sentence; None if it holds the lock or needs none."""
        if self._settings.observe_only or self._lock.held:
            return None
        return f"{self._lock.why_not_held}."

    def lease_missing(self) -> str | None:
        """Return why this agent lacks the Lease, as one sentence; None if it holds the Lease or needs none."""
        return (self._lease.blocked or None) if self._lease else None

    def lease_held(self) -> bool:
        """Whether this agent holds the Lease of its node."""
        return self._lease is not None and self._lease.held

    def ask_again(self) -> None:
        """Make the Lease task try to acquire or renew the Lease now, because the API server might answer again."""
        self._lease_task.wake_up()

    def release_lease(self) -> None:
        """Release the Lease, so that another agent can take it. Waits at most `RELEASE_S` for the API server."""
        if self._lease:
            release = threading.Thread(target=self._lease.release, name="lease-release", daemon=True)
            release.start()
            release.join(RELEASE_S)

    def release_lock(self) -> None:
        """Release the host lock, so that another process can act on this libvirt."""
        self._lock.release()

    def _keep_lock(self) -> float | None:
        if self._lock.removed():
            self._directory_removed()
        if not self._settings.observe_only and not self._lock.held and self._lock.acquire():
            log.info("acquired the host lock", libvirt_uri=self._settings.libvirt_uri)
            self._lease_task.wake_up()
            self._changed()
        if not self._lease or not self._lock.held:
            self.tried.set()
        return None

    def _lease_of_node(self, api: Api, dead: Callable[[], list[str]]) -> KeptLease | None:
        settings = self._settings
        if settings.lease_namespace is None:
            return None
        return KeptLease(
            api,
            namespace=settings.lease_namespace,
            name=settings.node_name,
            component="agent",
            identity=settings.identity or str(uuid4()),
            duration_s=settings.lease_duration_s,
            proof=self._lock_name,
            must_not_claim=partial(self._must_not_claim_lease, dead),
        )

    def _must_not_claim_lease(self, dead: Callable[[], list[str]]) -> str:
        if parts := dead():
            return f"essential parts of the agent no longer work: {', '.join(parts)}"
        if not self._settings.observe_only and not self._lock.held:
            return "it does not hold the host lock of this node's libvirt"
        return ""

    def _lock_name(self) -> str:
        """Return a globally unique name of the host lock; empty: it holds none, or its lock has no name."""
        usable = self._lock.held and self._lock.name and not self._settings.observe_only
        return f"{self._settings.boot_id} {self._lock.name}" if usable else ""

    def _keep_lease(self) -> float | None:
        assert self._lease  # noqa: S101 - the task exists only with a Lease
        locked, gains = self._lock.held, self._lease.gains
        again_s = self._lease.keep()
        if locked:  # otherwise, the attempt that follows the lock's acquisition counts
            self.tried.set()
        blocked = self._lease.blocked
        # The Lease can have expired during the attempt that has renewed it. What was blocked meanwhile must go on.
        if blocked != self._lease_blocked or self._lease.gains != gains:
            self._lease_blocked = blocked
            if blocked:
                log.warning("cannot act without the Lease", message=blocked)
            else:
                log.info("acquired the Lease of this node", node=self._settings.node_name)
            self._changed()
        return again_s

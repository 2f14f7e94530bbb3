"""Whether this agent may act on its libvirt, and if not, why: it must hold the host lock and the Lease of its node.

The host lock separates two agents on one host, and the Lease separates two hosts with one node name (ADR 014).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import uuid4

import structlog

from controller.agent.settings import Settings
from controller.hypervisor.host_lock import HostLock
from controller.kube.client import Api
from controller.kube.lease import NodeLease
from controller.runtime.periodic import PeriodicTask

RETRY_S = 1.0
"""How often an agent tries to acquire a host lock that another process holds."""
RELEASE_S = 1.0
"""How long a stopping agent waits for the API server to release the Lease of the node."""

log = structlog.get_logger()


class Ownership:
    """The host lock and the Lease of one agent. Thread-safe; only `release_lease` makes a call.

    With --observe-only it acquires no host lock and `blocked` is empty, because such an agent never acts.
    """

    def __init__(
        self,
        settings: Settings,
        api: Api,
        *,
        dead: Callable[[], list[str]],
        changed: Callable[[], None],
        folder_removed: Callable[[], None],
    ) -> None:
        """`dead` names the threads of the agent that have died. If there are any, the Lease is not renewed.

        `changed` is called when the permission to act might have changed; `folder_removed` when the libvirt socket
        directory that this process has opened was removed.
        """
        self._settings, self._changed, self._folder_removed = settings, changed, folder_removed
        self._lock = HostLock.of(settings.libvirt_uri)
        self._lease = self._lease_of_node(api, dead)
        self._lease_blocked: str | None = None
        """The last logged reason why the Lease is not held; empty: it was held; None: nothing was logged yet."""
        self._lock_task = PeriodicTask("host-lock", RETRY_S, self._keep_lock)
        self._lease_task = PeriodicTask("lease", RETRY_S, self._keep_lease)
        self.tasks = [self._lock_task, self._lease_task] if self._lease else [self._lock_task]
        """The periodic tasks that keep both. The owner starts them, and closes them before the two releases."""

    def blocked(self) -> str:
        """Why this agent must not act, as one sentence; empty if it may, and with --observe-only, which never acts."""
        if self._settings.observe_only:
            return ""
        return self.lock_missing() or self.lease_missing() or ""

    def lock_missing(self) -> str | None:
        """Why the host lock is not held, as one sentence; None if it is held or not needed."""
        if self._settings.observe_only or self._lock.held:
            return None
        return f"{self._lock.why_not_held}."

    def lease_missing(self) -> str | None:
        """Why the Lease is not held, as one sentence; None if it is held or there is no Lease."""
        return (self._lease.blocked or None) if self._lease else None

    def lease_held(self) -> bool:
        """Whether this agent holds the Lease of its node."""
        return self._lease is not None and self._lease.held

    def ask_again(self) -> None:
        """Try to acquire or renew the Lease at once, because the obstacle might be gone."""
        self._lease_task.nudge()

    def release_lease(self) -> None:
        """Release the Lease for another agent. Waits at most `RELEASE_S` for the API server."""
        if self._lease:
            release = threading.Thread(target=self._lease.release, name="lease-release", daemon=True)
            release.start()
            release.join(RELEASE_S)

    def release_lock(self) -> None:
        """Release the host lock, so that another process may act on this libvirt."""
        self._lock.release()

    def _keep_lock(self) -> float | None:
        if self._lock.removed():
            self._folder_removed()
        if not self._settings.observe_only and not self._lock.held and self._lock.acquire():
            log.info("acquired the host lock", libvirt_uri=self._settings.libvirt_uri)
            self._lease_task.nudge()
            self._changed()
        return None

    def _lease_of_node(self, api: Api, dead: Callable[[], list[str]]) -> NodeLease | None:
        settings = self._settings
        if settings.lease_namespace is None:
            return None
        return NodeLease(
            api,
            namespace=settings.lease_namespace,
            node_name=settings.node_name,
            identity=settings.identity or str(uuid4()),
            duration_s=settings.lease_duration_s,
            lock=self._lock_name,
            dead=dead,
        )

    def _lock_name(self) -> str | None:
        """A globally unique name of the host lock; None: another process holds the lock; empty: there is none."""
        if self._settings.observe_only:  # such an agent acquires no host lock
            return ""
        if not self._lock.held:
            return None
        return f"{self._settings.boot_id} {self._lock.name}" if self._lock.name else ""

    def _keep_lease(self) -> float | None:
        assert self._lease  # noqa: S101 - the task exists only with a Lease
        again_s = self._lease.keep()
        blocked = self._lease.blocked
        if blocked != self._lease_blocked:
            self._lease_blocked = blocked
            if blocked:
                log.warning("cannot act without the Lease", message=blocked)
            else:
                log.info("acquired the Lease of this node", node=self._settings.node_name)
            self._changed()
        return again_s

"""Whether this agent may act on its libvirt, and if not, why: it holds the host lock and the Lease of its node.

The host lock keeps two agents of one host apart, and the Lease two hosts that go by one node name (ADR 014).
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
"""How often an agent asks for a host lock that another has."""
RELEASE_S = 1.0
"""How long it waits for the API server's answer that the Lease of the node is free."""

log = structlog.get_logger()


class Ownership:
    """The host lock and the Lease of one agent. `blocked` and its parts may be asked from any thread, and never wait.

    With --observe-only it asks for no lock, and never forbids anything, for then nothing is done anyway.
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
        """`dead` names the parts of the agent that no longer work; without them it keeps no Lease.

        `changed` is called when it may have become right to act, or wrong; `folder_removed` when the directory of the
        libvirt socket that this process knows is gone.
        """
        self._settings, self._changed, self._folder_removed = settings, changed, folder_removed
        self._lock = HostLock.of(settings.libvirt_uri)
        self._lease = self._lease_of_node(api, dead)
        self._lease_blocked: str | None = None
        """Why the Lease was not held when that was last logged; None: nothing was logged yet."""
        self._lock_task = PeriodicTask("host-lock", RETRY_S, self._keep_lock)
        self._lease_task = PeriodicTask("lease", RETRY_S, self._keep_lease)
        self.tasks = [self._lock_task, self._lease_task] if self._lease else [self._lock_task]
        """What keeps both; to be started, and closed before `release`."""

    def blocked(self) -> str:
        """Why this agent must not act, as one sentence; empty if it may, and with --observe-only, which never acts."""
        if self._settings.observe_only:
            return ""
        return self.lock_missing() or self.lease_missing() or ""

    def lock_missing(self) -> str | None:
        """Why the host lock is not held, as one sentence; None where it is, or need not be."""
        if self._settings.observe_only or self._lock.held:
            return None
        return f"{self._lock.hindrance}."

    def lease_missing(self) -> str | None:
        """Why the Lease is not held, as one sentence; None where it is, or there is none to hold."""
        return (self._lease.blocked or None) if self._lease else None

    def lease_held(self) -> bool:
        """This agent holds the Lease of its node."""
        return self._lease is not None and self._lease.held

    def ask_again(self) -> None:
        """Ask for the Lease at once: what hindered it may be over."""
        self._lease_task.nudge()

    def release_lease(self) -> None:
        """Let another agent have the Lease; waits at most `RELEASE_S` for the API server."""
        if self._lease:
            release = threading.Thread(target=self._lease.release, name="lease-release", daemon=True)
            release.start()
            release.join(RELEASE_S)

    def release_lock(self) -> None:
        """Let another process act on this libvirt."""
        self._lock.release()

    def _keep_lock(self) -> float | None:
        if self._lock.removed():
            self._folder_removed()
        if not self._settings.observe_only and not self._lock.held and self._lock.acquire():
            log.info("acquired the host lock; this agent may now act", libvirt_uri=self._settings.libvirt_uri)
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
        """The host lock, by a name that no other has on any machine; None: another process has it."""
        if self._settings.observe_only:  # it does not even ask for it
            return ""
        if not self._lock.held:
            return None
        return f"{self._settings.boot_id} {self._lock.name}" if self._lock.name else ""

    def _keep_lease(self) -> float | None:
        assert self._lease  # noqa: S101 - else nobody calls this
        again_s = self._lease.keep()
        blocked = self._lease.blocked
        if blocked != self._lease_blocked:
            self._lease_blocked = blocked
            if blocked:
                log.warning("Lease not held", message=blocked)
            else:
                log.info("acquired the Lease of this node", node=self._settings.node_name)
            self._changed()
        return again_s

"""libvirt's UUID of this machine."""

from __future__ import annotations

import re
import threading
from uuid import UUID

import libvirt
import structlog

from controller.hypervisor.pool import ConnectionSet

HOST_UUID = re.compile(r"<host>\s*<uuid>([0-9a-fA-F-]{36})</uuid>")

log = structlog.get_logger()


class HostUuid:
    """libvirt's UUID of this machine, if it is permanent. Thread-safe.

    If the firmware has no UUID, libvirt generates one at each start (measured). That UUID is not permanent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: UUID | None = None
        self._permanent = True
        self.read = False
        """Whether the UUID has been requested from libvirt. No domain may be observed before that."""

    @property
    def value(self) -> UUID | None:
        """The UUID. None if it is unknown or not permanent."""
        return self._known if self._permanent else None

    def note(self, uuid: UUID | None) -> None:
        """Record the UUID that was read from a connection. `uuid` is None if libvirt has no UUID."""
        with self._lock:
            self.read = True
            changed = None not in {self._known, uuid} and self._known != uuid
            self._known = uuid or self._known
        if changed:
            self.forget()

    def forget(self) -> None:
        """Stop using the UUID, because it has changed within one boot of the machine. Logs one warning per process."""
        with self._lock:
            logged, self._permanent = not self._permanent, False
        if not logged:
            log.warning(
                "libvirt's UUID of this host has changed since boot, so it does not identify the host:"
                " set host_uuid in libvirtd.conf (virtqemud.conf) to a unique UUID, then restart libvirtd and the agent"
            )


def read_host_uuid(connections: ConnectionSet, host_uuid: HostUuid) -> None:
    """Read libvirt's UUID of this machine, and record it in `host_uuid`.

    This takes milliseconds. When libvirt runs with another QEMU for the first time, it takes a second, because libvirt
    probes each QEMU. Raises libvirtError if the connection is lost, and Transient if no connection is free.
    """
    with connections.actions.take() as connection:
        try:
            found = HOST_UUID.search(connection.getCapabilities())
        except libvirt.libvirtError:
            if not connection.isAlive():
                raise
            found = None
    host_uuid.note(UUID(found[1]) if found else None)

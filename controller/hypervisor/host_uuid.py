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
    """libvirt's UUID of this machine, as long as it lasts. Any thread may use it.

    Where the firmware has none, libvirt invents one at each of its starts (seen): such a UUID tells nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: UUID | None = None
        self._lasting = True
        self.asked = False
        """A connection has told what it knows: before that nothing may be looked at."""

    @property
    def value(self) -> UUID | None:
        """The UUID; None: not known, or not one that lasts."""
        return self._known if self._lasting else None

    def note(self, uuid: UUID | None) -> None:
        """Take in what one connection said."""
        with self._lock:
            self.asked = True
            changed = None not in {self._known, uuid} and self._known != uuid
            self._known = uuid or self._known
        if changed:
            self.forget()

    def forget(self) -> None:
        """It has been another one within this boot of the machine: use it no longer, and say so once."""
        with self._lock:
            told, self._lasting = not self._lasting, False
        if not told:
            log.warning(
                "libvirt's UUID of this host changes when libvirtd starts, so it does not identify the host:"
                " set host_uuid in libvirtd.conf (virtqemud.conf) to a unique UUID, then restart libvirtd and the agent"
            )


def ask_host_uuid(link: ConnectionSet, known: HostUuid) -> None:
    """What libvirt calls this machine, if the driver has a word for it.

    It answers within milliseconds, or a second after its first start with another QEMU, for it tries each out then.
    """
    with link.actions.take() as connection:
        try:
            found = HOST_UUID.search(connection.getCapabilities())
        except libvirt.libvirtError:
            if not connection.isAlive():
                raise
            found = None
    known.note(UUID(found[1]) if found else None)

"""libvirt's handles of domains, kept for each connection so that an observation of a known domain is one call.

Without a handle, it is two: one that finds the domain, and one that reads its state. Each call of a worker also wakes
up the event loop several times, because the event loop waits for the same socket.
"""

from __future__ import annotations

from uuid import UUID

import libvirt

from controller.hypervisor.remembered import forget_oldest

Read = tuple[libvirt.virDomain, tuple[int, int]]
"""A new handle, which has the present name and id of the domain, and the numbers of its state and its reason."""
ATTRIBUTE = "handles"


def read(connection: libvirt.virConnect, uuid: UUID) -> Read | None:
    """Read the domain with one call, if this connection has a handle of it and the domain exists. Raises libvirtError.

    A handle stays valid when its domain is restarted or renamed, because libvirtd finds the domain by its UUID.
    """
    handles = _of(connection)
    if (handle := handles.get(uuid)) is None:
        return None
    found = connection.domainListGetStats([handle], libvirt.VIR_DOMAIN_STATS_STATE, 0)
    if not found:
        del handles[uuid]
        return None
    handle, stats = found[0]
    return handle, (stats["state.state"], stats["state.reason"])


def keep(connection: libvirt.virConnect, uuid: UUID, handle: libvirt.virDomain) -> None:
    """Keep the handle until `forget`, or until `REMEMBERED` newer ones are kept."""
    handles = _of(connection)
    handles[uuid] = handle
    forget_oldest(handles)


def forget(connection: libvirt.virConnect) -> None:
    """Drop all handles of the connection. Before this, libvirt does not close the connection."""
    _of(connection).clear()


def _of(connection: libvirt.virConnect) -> dict[UUID, libvirt.virDomain]:
    # The handles are an attribute of the connection, because both are used by one thread at a time.
    handles: dict[UUID, libvirt.virDomain] = vars(connection).setdefault(ATTRIBUTE, {})
    return handles

"""libvirt's events: each names a domain, and may leave a piece of evidence about its stop.

The callbacks run on libvirt's event-loop thread. They read, note and enqueue; they never call libvirt, never log and
never wait. Nothing may leave them: an exception would be printed and lost, and SystemExit would end the loop.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import libvirt

from controller.model import Evidence

Changed = Callable[[UUID, str, float], None]
"""(uuid, name, monotonic seconds of the callback); called on the event-loop thread."""

REMEMBERED = 20_000
"""Domains of which evidence is kept; more than a host can have."""

OTHER_EVENTS = (
    "REBOOT",
    "WATCHDOG",
    "IO_ERROR_REASON",
    "PMWAKEUP",
    "PMSUSPEND",
    "PMSUSPEND_DISK",
)

EVIDENCE = {
    ("STOPPED", "MIGRATED"): Evidence.STOPPED_MIGRATED,
    ("STOPPED", "CRASHED"): Evidence.STOPPED_CRASHED,
    ("STOPPED", "FAILED"): Evidence.STOPPED_FAILED,
    ("SHUTDOWN", "HOST"): Evidence.SHUTDOWN_HOST,
    ("SHUTDOWN", "GUEST"): Evidence.SHUTDOWN_GUEST,
    ("STARTED", "RESTORED"): Evidence.STARTED_RESTORED,
}


def _numbers() -> dict[tuple[int, int], Evidence]:
    return {
        (
            getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}"),
            getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}_{detail}"),
        ): evidence
        for (event, detail), evidence in EVIDENCE.items()
    }


EVIDENCE_NUMBERS = _numbers()


class Evidences:
    """What events said of each domain since it was last started. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[UUID, dict[Evidence, float]] = OrderedDict()
        """With the monotonic seconds at which the event came."""

    def note(self, uuid: UUID, event: int, detail: int, at_s: float) -> None:
        """Take in one lifecycle event."""
        evidence = EVIDENCE_NUMBERS.get((event, detail))
        with self._lock:
            if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
                self._known.pop(uuid, None)
            if evidence:
                self._known.setdefault(uuid, {})[evidence] = at_s
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)

    def runs(self, uuid: UUID, asked_s: float) -> None:
        """Forget the stops before this moment of a domain that was seen to run after it: they were of earlier runs.

        The STARTED in between was missed, for there was no connection.
        """
        if uuid not in self._known:
            return
        with self._lock:
            noted = self._known.pop(uuid, {})
            kept = {e: at_s for e, at_s in noted.items() if at_s >= asked_s or e is Evidence.STARTED_RESTORED}
            if kept:
                self._known[uuid] = kept

    def forget(self, uuid: UUID) -> None:
        """The domain is gone."""
        with self._lock:
            self._known.pop(uuid, None)

    def of(self, uuid: UUID) -> frozenset[Evidence]:
        """What is known of this domain."""
        with self._lock:
            return frozenset(self._known.get(uuid, ()))


class Listener:
    """The callbacks of one connection. `count` and `failed` must be as quick as `changed`."""

    def __init__(
        self,
        evidences: Evidences,
        *,
        changed: Changed,
        redefined: Callable[[UUID], None],
        count: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._evidences, self._changed, self._redefined = evidences, changed, redefined
        self._count, self._failed = count, failed

    def register(self, connection: libvirt.virConnect) -> list[int]:
        """Listen on this connection; the ids of what was registered. Raises libvirtError when it is gone."""
        any_domain = None
        ids = [
            connection.domainEventRegisterAny(any_domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        ]
        for name in OTHER_EVENTS:
            try:
                number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")
                ids.append(connection.domainEventRegisterAny(any_domain, number, self._other, name))
            except libvirt.libvirtError as error:
                # Drivers other than QEMU's lack some; the lifecycle is what counts.
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
        return ids

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        now_s = time.monotonic()
        try:
            uuid = UUID(bytes=domain.UUID())
            self._evidences.note(uuid, event, detail, now_s)
            if event in {libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED}:
                self._redefined(uuid)
            removed = (libvirt.VIR_DOMAIN_EVENT_UNDEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED_REMOVED)
            if (event, detail) == removed and domain.ID() < 0:  # the event tells the id; one that runs is still there
                self._evidences.forget(uuid)
            self._changed(uuid, domain.name(), now_s)
            self._count("lifecycle")
        except BaseException as error:  # noqa: BLE001 - see above
            self._failed(error)

    def _other(self, _connection: Any, domain: Any, *rest: Any) -> None:
        now_s = time.monotonic()
        try:
            self._changed(UUID(bytes=domain.UUID()), domain.name(), now_s)
            self._count(str(rest[-1]).lower())
        except BaseException as error:  # noqa: BLE001 - see above
            self._failed(error)

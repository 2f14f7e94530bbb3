"""libvirt's events: each names a domain, and some are evidence of why it stopped.

The callbacks run on libvirt's event-loop thread. They record and enqueue; they never call libvirt, log or wait. No
exception may leave them: libvirt would print it and lose it, and SystemExit would end the loop.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import libvirt

from controller.policy.view import Evidence

Changed = Callable[[UUID, str, float], None]
"""(uuid, name, monotonic seconds of the callback); called on the event-loop thread."""

REMEMBERED = 20_000
"""The maximum number of domains with evidence: more than a host can have."""

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
    ("STARTED", "MIGRATED"): Evidence.STARTED_MIGRATED,
}
OF_THE_START = {Evidence.STARTED_RESTORED, Evidence.STARTED_MIGRATED}


def _numbers() -> dict[tuple[int, int], Evidence]:
    return {
        (
            getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}"),
            getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}_{detail}"),
        ): evidence
        for (event, detail), evidence in EVIDENCE.items()
    }


EVIDENCE_NUMBERS = _numbers()
DEFINED_ADDED = (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED)
UNDEFINED_REMOVED = (libvirt.VIR_DOMAIN_EVENT_UNDEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED_REMOVED)


@dataclass(slots=True)
class History:
    """The evidence of one domain."""

    evidence: dict[Evidence, float] = field(default_factory=dict)
    """With the monotonic seconds at which the event arrived."""
    absent_since_s: float | None = None
    """Since when libvirt does not know the domain; None: it knows it, as far as this process has observed."""


class Evidences:
    """The evidence of each domain since its last start. Thread-safe.

    It is kept when the domain disappears: a migration might undefine the domain, and a transient domain disappears when
    it stops. It is discarded when a domain with this UUID is defined or started again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histories: OrderedDict[UUID, History] = OrderedDict()
        self._started_paused: OrderedDict[UUID, int] = OrderedDict()
        """The id of each domain whose CPUs have not run, as far as the events of this connection show."""
        self._resumed: OrderedDict[UUID, int] = OrderedDict()
        """The id of each domain at its last RESUMED: in an ordinary start, it comes before STARTED (measured)."""

    def connected(self) -> None:
        """A new connection listens: RESUMED events might have been missed before."""
        with self._lock:
            self._started_paused.clear()
            self._resumed.clear()

    def note(self, uuid: UUID, event: int, detail: int, at_s: float, *, run: int = -1) -> None:
        """Record one lifecycle event; `run` is the id that the domain had then, -1 if it was off."""
        evidence = EVIDENCE_NUMBERS.get((event, detail))
        with self._lock:
            self._note_run(uuid, event, detail, run)
            newly_defined = (event, detail) == DEFINED_ADDED and run < 0
            if event == libvirt.VIR_DOMAIN_EVENT_STARTED or newly_defined:
                self._histories.pop(uuid, None)
            if evidence:
                history = self._histories.setdefault(uuid, History())
                history.evidence[evidence], history.absent_since_s = at_s, None
                _bound(self._histories)
            elif (event, detail) == UNDEFINED_REMOVED and run < 0:  # a running domain stays, as a transient one
                self._mark_absent(uuid, at_s)

    def _note_run(self, uuid: UUID, event: int, detail: int, run: int) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self._resumed[uuid] = run
            self._started_paused.pop(uuid, None)
        elif event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._started_paused.pop(uuid, None)
            if self._resumed.pop(uuid, None) != run and detail == libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED:
                self._started_paused[uuid] = run
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._started_paused.pop(uuid, None)
            self._resumed.pop(uuid, None)
        _bound(self._started_paused)
        _bound(self._resumed)

    def started_paused(self, uuid: UUID, run: int | None) -> bool:
        """The domain was started paused with this id and not resumed since; no event of that can have been missed."""
        with self._lock:
            return run is not None and self._started_paused.get(uuid) == run

    def observed_running(self, uuid: UUID, asked_s: float) -> None:
        """An observation that began at `asked_s` shows the domain running: discard the evidence of earlier stops.

        That was of earlier runs: the STARTED in between was missed, because there was no connection.
        """
        if uuid not in self._histories:
            return
        with self._lock:
            history = self._histories.pop(uuid, History())
            kept = {e: at_s for e, at_s in history.evidence.items() if at_s >= asked_s or e in OF_THE_START}
            if kept:
                self._histories[uuid] = History(kept)

    def observed_absent(self, uuid: UUID, asked_s: float) -> None:
        """An observation that began at `asked_s` has not found the domain; a later one of its UUID inherits nothing."""
        if uuid in self._histories:
            with self._lock:
                self._mark_absent(uuid, asked_s)

    def observed_off(self, uuid: UUID, asked_s: float) -> None:
        """An observation that began at `asked_s` shows the domain off: if it was absent before, this is another one."""
        history = self._histories.get(uuid)
        if history is None or history.absent_since_s is None:
            return
        with self._lock:
            if history.absent_since_s < asked_s and self._histories.get(uuid) is history:
                del self._histories[uuid]

    def _mark_absent(self, uuid: UUID, at_s: float) -> None:
        history = self._histories.get(uuid)
        if history and history.absent_since_s is None:
            history.absent_since_s = at_s

    def of(self, uuid: UUID) -> frozenset[Evidence]:
        """The evidence of this domain."""
        with self._lock:
            history = self._histories.get(uuid)
            return frozenset(history.evidence) if history else frozenset()


def _bound(known: OrderedDict[UUID, Any]) -> None:
    if len(known) > REMEMBERED:
        known.popitem(last=False)


class Listener:
    """The event callbacks of one connection. `changed`, `redefined`, `count` and `failed` must not block."""

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
        """Register for all events; returns the ids of the callbacks. Raises libvirtError if the connection is lost."""
        any_domain = None
        ids = [
            connection.domainEventRegisterAny(any_domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        ]
        for name in OTHER_EVENTS:
            try:
                number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")
                ids.append(connection.domainEventRegisterAny(any_domain, number, self._other, name))
            except libvirt.libvirtError as error:
                # Other drivers than QEMU's lack some of these events; only the lifecycle event is required.
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
        return ids

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        now_s = time.monotonic()
        try:
            uuid = UUID(bytes=domain.UUID())
            self._evidences.note(uuid, event, detail, now_s, run=domain.ID())  # ID() is part of the event: no call
            if event in {libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED}:
                self._redefined(uuid)
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

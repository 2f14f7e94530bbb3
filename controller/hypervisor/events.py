"""Handles libvirt's events. Each event is about one domain, and some events are evidence of why the domain stopped.

The callbacks run on libvirt's event-loop thread. They record the event and enqueue the domain; they never call libvirt,
log or wait. A callback must catch every exception: libvirt would only print it, and SystemExit would end the loop.
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

from controller.hypervisor.remembered import forget_oldest
from controller.policy.view import Evidence

Changed = Callable[[UUID, str, float], None]
"""Called on the event-loop thread with the UUID and the name of a domain, and the monotonic seconds of the event."""

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
    ("STOPPED", "SAVED"): Evidence.STOPPED_SAVED,
    ("SHUTDOWN", "HOST"): Evidence.SHUTDOWN_HOST,
    ("SHUTDOWN", "GUEST"): Evidence.SHUTDOWN_GUEST,
    ("STARTED", "RESTORED"): Evidence.STARTED_RESTORED,
    ("STARTED", "MIGRATED"): Evidence.STARTED_MIGRATED,
}
ENDS_ARRIVAL = {Evidence.STOPPED_MIGRATED, Evidence.STOPPED_FAILED}
"""The VM has left again, or the migration to this host has failed: then it might still run where it came from."""


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
    """The evidence, each with the monotonic seconds at which its event arrived."""
    absent_since_s: float | None = None
    """Since when libvirt does not know the domain, in monotonic seconds. None if no absence was observed."""
    ended: bool = False
    """An event has shown that the run ended."""


class Evidences:
    """The evidence of each domain since its last start. Thread-safe.

    The evidence is kept when the domain disappears, because a migration might undefine the domain, and a transient
    domain disappears when it stops. The evidence is discarded when a domain with this UUID is defined or started again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histories: OrderedDict[UUID, History] = OrderedDict()
        self._started_paused: OrderedDict[UUID, int] = OrderedDict()
        """The id of each domain that was started paused and not resumed, according to this connection's events."""
        self._resumed: OrderedDict[UUID, int] = OrderedDict()
        """The id of each domain at its last RESUMED event. In an ordinary start, it precedes STARTED (measured)."""

    def connected(self) -> None:
        """Forget what events before this connection might have ended, because they were missed.

        These are which domains were started paused and not resumed, which pauses a restore left behind, and which
        domains arrived by a migration: such a domain might have left again. An arrival is kept if an event has shown
        that the run ended here.
        """
        with self._lock:
            self._started_paused.clear()
            self._resumed.clear()
            for history in self._histories.values():
                history.evidence.pop(Evidence.STARTED_RESTORED, None)
                if not history.ended:
                    history.evidence.pop(Evidence.STARTED_MIGRATED, None)

    def note(self, uuid: UUID, event: int, detail: int, at_s: float, *, run: int = -1) -> None:
        """Record one lifecycle event. `run` is the id of the domain at the event, or -1 if the domain was off."""
        evidence = EVIDENCE_NUMBERS.get((event, detail))
        with self._lock:
            self._note_run(uuid, event, detail, run)
            newly_defined = (event, detail) == DEFINED_ADDED and run < 0
            if event == libvirt.VIR_DOMAIN_EVENT_STARTED or newly_defined:
                self._histories.pop(uuid, None)
            elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED and uuid in self._histories:
                self._histories[uuid].evidence.pop(Evidence.STARTED_RESTORED, None)
            if evidence:
                history = self._histories.setdefault(uuid, History())
                history.evidence[evidence], history.absent_since_s = at_s, None
                if evidence in ENDS_ARRIVAL:
                    history.evidence.pop(Evidence.STARTED_MIGRATED, None)
                forget_oldest(self._histories)
            elif (event, detail) == UNDEFINED_REMOVED and run < 0:  # a running domain remains, as a transient domain
                self._mark_absent(uuid, at_s)
            if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and uuid in self._histories:
                self._histories[uuid].ended = True

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
        forget_oldest(self._started_paused)
        forget_oldest(self._resumed)

    def started_paused(self, uuid: UUID, run: int | None) -> bool:
        """Whether the domain was started paused with id `run` and has not been resumed.

        True only if this connection saw the start. Then it has missed no RESUMED event.
        """
        with self._lock:
            return run is not None and self._started_paused.get(uuid) == run

    def observed_running(self, uuid: UUID, asked_s: float) -> None:
        """Record that an observation that began at `asked_s` shows the domain running.

        Evidence of earlier stops is discarded. Such evidence belongs to earlier runs: the agent had no connection at
        the next STARTED event, so it missed the event. Evidence of a restore is discarded, because it explains only the
        pause that the restore left behind: a later pause might be that of a migration.
        """
        if uuid not in self._histories:
            return
        with self._lock:
            history = self._histories.pop(uuid, History())
            arrived = Evidence.STARTED_MIGRATED
            kept = {e: at_s for e, at_s in history.evidence.items() if at_s >= asked_s or e is arrived}
            if kept:
                self._histories[uuid] = History(kept)

    def forget_arrival(self, uuid: UUID) -> None:
        """Discard the evidence that the domain arrived by a migration, because a report of this host now shows it.

        A later report of another host is about a run after the arrival.
        """
        with self._lock:
            if history := self._histories.get(uuid):
                history.evidence.pop(Evidence.STARTED_MIGRATED, None)

    def observed_absent(self, uuid: UUID, asked_s: float) -> None:
        """Record that an observation that began at `asked_s` did not find the domain.

        A later domain with this UUID does not inherit the evidence of a stop.
        """
        if uuid in self._histories:
            with self._lock:
                self._mark_absent(uuid, asked_s)

    def observed_off(self, uuid: UUID, asked_s: float) -> None:
        """Record that an observation that began at `asked_s` shows the domain off.

        If the domain was absent before, it is now another domain with the same UUID, so the evidence is discarded.
        """
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
        """Return the evidence of this domain."""
        with self._lock:
            history = self._histories.get(uuid)
            return frozenset(history.evidence) if history else frozenset()


class Listener:
    """The callbacks for libvirt's events. `changed`, `redefined`, `count` and `failed` must not block."""

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
        """Register a callback for each event, and return their ids. Raises libvirtError if the connection is lost."""
        any_domain = None
        ids = [
            connection.domainEventRegisterAny(any_domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        ]
        for name in OTHER_EVENTS:
            try:
                number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")
                ids.append(connection.domainEventRegisterAny(any_domain, number, self._other, name))
            except libvirt.libvirtError as error:
                # Drivers other than QEMU's lack some of these events. Only the lifecycle event is required.
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
        return ids

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        now_s = time.monotonic()
        try:
            uuid = UUID(bytes=domain.UUID())
            self._evidences.note(uuid, event, detail, now_s, run=domain.ID())  # ID() makes no libvirt call
            if event in {libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED}:
                self._redefined(uuid)
            self._changed(uuid, domain.name(), now_s)
            self._count("lifecycle")
        except BaseException as error:  # noqa: BLE001 - a callback must catch every exception
            self._failed(error)

    def _other(self, _connection: Any, domain: Any, *rest: Any) -> None:
        now_s = time.monotonic()
        try:
            self._changed(UUID(bytes=domain.UUID()), domain.name(), now_s)
            self._count(str(rest[-1]).lower())
        except BaseException as error:  # noqa: BLE001 - a callback must catch every exception
            self._failed(error)

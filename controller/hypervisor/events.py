"""libvirt's events: each names a domain, and may leave a piece of evidence about its stop.

The callbacks run on libvirt's event-loop thread. They read, note and enqueue; they never call libvirt, never log and
never wait. Nothing may leave them: an exception would be printed and lost, and SystemExit would end the loop.
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
class Past:
    """What events said of one domain."""

    noted: dict[Evidence, float] = field(default_factory=dict)
    """With the monotonic seconds at which the event came."""
    gone_s: float | None = None
    """Since when libvirt no longer knows the domain; None: it does, or nobody said otherwise."""


class Evidences:
    """What events said of each domain since it was last started. Any thread may use it.

    It outlives the domain: a migration may undefine it, and one without a definition ends with its run. It ends when
    the domain is defined or started anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[UUID, Past] = OrderedDict()
        self._begun_paused: OrderedDict[UUID, int] = OrderedDict()
        """The run of each domain whose CPUs have not run, as far as one connection has heard."""
        self._resumed: OrderedDict[UUID, int] = OrderedDict()
        """The run of each domain that was last resumed: in an ordinary start that comes before STARTED (measured)."""

    def connected(self) -> None:
        """A new connection begins to listen: what was resumed before has not been heard."""
        with self._lock:
            self._begun_paused.clear()
            self._resumed.clear()

    def note(self, uuid: UUID, event: int, detail: int, at_s: float, *, run: int = -1) -> None:
        """Take in one lifecycle event; `run` is the id that the domain had then."""
        evidence = EVIDENCE_NUMBERS.get((event, detail))
        with self._lock:
            self._note_run(uuid, event, detail, run)
            defined_anew = (event, detail) == DEFINED_ADDED and run < 0
            if event == libvirt.VIR_DOMAIN_EVENT_STARTED or defined_anew:
                self._known.pop(uuid, None)
            if evidence:
                past = self._known.setdefault(uuid, Past())
                past.noted[evidence], past.gone_s = at_s, None
                _bound(self._known)
            elif (event, detail) == UNDEFINED_REMOVED and run < 0:  # one that runs is still there
                self._mark_gone(uuid, at_s)

    def _note_run(self, uuid: UUID, event: int, detail: int, run: int) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self._resumed[uuid] = run
            self._begun_paused.pop(uuid, None)
        elif event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._begun_paused.pop(uuid, None)
            if self._resumed.pop(uuid, None) != run and detail == libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED:
                self._begun_paused[uuid] = run
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._begun_paused.pop(uuid, None)
            self._resumed.pop(uuid, None)
        _bound(self._begun_paused)
        _bound(self._resumed)

    def begun_paused(self, uuid: UUID, run: int | None) -> bool:
        """This run was started paused and not resumed since, and nothing of that can have been missed."""
        with self._lock:
            return run is not None and self._begun_paused.get(uuid) == run

    def runs(self, uuid: UUID, asked_s: float) -> None:
        """Forget the stops before this moment of a domain that was seen to run after it: they were of earlier runs.

        The STARTED in between was missed, for there was no connection.
        """
        if uuid not in self._known:
            return
        with self._lock:
            past = self._known.pop(uuid, Past())
            kept = {e: at_s for e, at_s in past.noted.items() if at_s >= asked_s or e in OF_THE_START}
            if kept:
                self._known[uuid] = Past(kept)

    def absent(self, uuid: UUID, asked_s: float) -> None:
        """A look that began at this moment has not found the domain: another one of this UUID inherits nothing."""
        if uuid in self._known:
            with self._lock:
                self._mark_gone(uuid, asked_s)

    def off(self, uuid: UUID, asked_s: float) -> None:
        """A look that began at this moment has found the domain, off: if it was gone before, this is another one."""
        past = self._known.get(uuid)
        if past is None or past.gone_s is None:
            return
        with self._lock:
            if past.gone_s < asked_s and self._known.get(uuid) is past:
                del self._known[uuid]

    def _mark_gone(self, uuid: UUID, at_s: float) -> None:
        past = self._known.get(uuid)
        if past and past.gone_s is None:
            past.gone_s = at_s

    def of(self, uuid: UUID) -> frozenset[Evidence]:
        """What is known of this domain."""
        with self._lock:
            past = self._known.get(uuid)
            return frozenset(past.noted) if past else frozenset()


def _bound(known: OrderedDict[UUID, Any]) -> None:
    if len(known) > REMEMBERED:
        known.popitem(last=False)


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
            self._evidences.note(uuid, event, detail, now_s, run=domain.ID())  # the id that the event tells: no call
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

"""Reads and obeys the Hypervisor of this node, and reports on the host in its status."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Protocol

import structlog

from controller import __version__
from controller.agent.host_spec import HostSpec
from controller.agent.settings import Settings
from controller.api.hypervisor import DomainCounts, Hypervisor, HypervisorStatus
from controller.api.notice import Notice
from controller.api.virtualmachine import VirtualMachine
from controller.fleet.host_status import Host, events_of_change, is_urgent, reported
from controller.fleet.inventory import (
    Inventory,
    ListedDomain,
    count_vms,
    has_open_start,
    managed_by,
    observed,
    take_inventory,
)
from controller.hypervisor.connection import LibvirtConnection
from controller.kube.hypervisors import OwnHypervisor
from controller.policy.view import Domain
from controller.runtime.errors import Conflicted, Forbidden, Rejected, Transient, Unserved, Vanished
from controller.runtime.periodic import PeriodicTask
from controller.runtime.retry import Backoff

COALESCE_S = 1.0
"""How long an urgent difference waits before it is written, so that one write has all that changes together."""
URGENT_EVERY_S, OTHERS_EVERY_S, SPREAD = 5.0, 30.0, 0.2
"""The shortest time between a write and the next urgent write, and the next other write, with jitter for the latter."""
RETRY_S = 1.0, 30.0
"""The first and the longest wait after a failed request."""

log = structlog.get_logger()


class Recorder(Protocol):
    """Writes Kubernetes Events."""

    def record(self, of: Hypervisor, notice: Notice) -> None:
        """Queue the Event, which another thread writes. Never raises an exception, never waits."""


class Urgency(IntEnum):
    """How soon something must be done."""

    NONE = 0
    SOME_TIME = 1
    SOON = 2


class Pace:
    """Limits how often something is done, by its urgency. Not thread-safe."""

    def __init__(self, coalesce_s: float, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        """The first time, it is done `coalesce_s` seconds after it is due."""
        self._coalesce_s, self._uniform = coalesce_s, uniform
        self._due_s: dict[Urgency, float] = {}
        """Since when it is due, in monotonic seconds."""
        self._done_s = float("-inf")
        self._others_every_s = 0.0

    def wait_s(self, urgency: Urgency, now_s: float) -> float | None:
        """Return how many seconds to wait; 0: do it now; None: nothing is due."""
        self._due_s = {level: self._due_s.get(level, now_s) for level in Urgency if 0 < level <= urgency}
        every_s = {Urgency.SOON: URGENT_EVERY_S, Urgency.SOME_TIME: self._others_every_s}
        at_s = [max(since_s + self._coalesce_s, self._done_s + every_s[it]) for it, since_s in self._due_s.items()]
        return max(0.0, min(at_s) - now_s) if at_s else None

    def done(self, now_s: float) -> None:
        """Note that it is done."""
        self._done_s, self._due_s = now_s, {}
        self._others_every_s = OTHERS_EVERY_S * self._uniform(1 - SPREAD, 1 + SPREAD)


class HostReport:
    """Keeps the Hypervisor of this node. A thread does this; the methods are thread-safe and do not wait.

    The order after a change of the spec: the agent reads it, decisions obey it, and then the status acknowledges it
    (`observedGeneration`).
    """

    def __init__(
        self,
        settings: Settings,
        spec: HostSpec,
        store: OwnHypervisor,
        hypervisor: LibvirtConnection,
        recorder: Recorder,
        *,
        may_write: Callable[[], bool],
        vms: Callable[[], Sequence[VirtualMachine] | None],
        quiet_since_s: Callable[[], float | None],
        relist: Callable[[], None],
        unwatched: Callable[[], bool],
        watch_again: Callable[[], None],
        counted: Callable[[DomainCounts, DomainCounts], None],
    ) -> None:
        """`may_write`: whether this agent holds the host lock and the Lease. `vms` returns None before the first list.

        `quiet_since_s` returns the monotonic time since which no action has been under way; None: an action is.
        `relist` makes the agent list libvirt. `unwatched`: whether the watch has begun without the Hypervisor, because
        the API server did not know it then; `watch_again` begins the watch again. `counted` is called with the numbers
        of all domains, and of those that the report of an object shows.
        """
        self._settings, self._spec, self._store = settings, spec, store
        self._hypervisor, self._recorder = hypervisor, recorder
        self._may_write, self._vms = may_write, vms
        self._quiet_since_s, self._relist, self._counted = quiet_since_s, relist, counted
        self._unwatched, self._watch_again = unwatched, watch_again
        self._object: Hypervisor | None = None
        """The object as it was last read or written; None: it does not exist, or must be read first."""
        self._uncertain = True
        """Whether the object might differ from the version that was read last."""
        self._backoff, self._retry_s = Backoff(*RETRY_S), float("-inf")
        self._write_backoff, self._write_retry_s = Backoff(*RETRY_S), float("-inf")
        """Apart from those of reads: while writes are refused and reads are not, the waits must still become longer."""
        self._read_s = float("-inf")
        self._list: tuple[Sequence[Domain], float] | None = None
        """The last list of libvirt, and the monotonic time when it began."""
        self._unlisted = Urgency.NONE
        """How urgent a new list of libvirt is."""
        self._event_s = float("-inf")
        """When the last event of libvirt came, in monotonic seconds."""
        self._list_pace, self._write_pace = Pace(0.0), Pace(COALESCE_S)
        self._obeyed_s = float("-inf")
        """Since when the present maintenance is obeyed, in monotonic seconds."""
        self._looked_s = self._watched_again_s = float("-inf")
        self.task = PeriodicTask("host-report", OTHERS_EVERY_S, self._run)

    # --- notifications

    def object_changed(self, raw: dict[str, Any]) -> None:
        """Note a version of the object from the watch."""
        if not self._store.is_current(raw):
            self._retry_s = float("-inf")
            self.object_uncertain()

    def object_uncertain(self) -> None:
        """Note that the object was changed or deleted, or that its watch was refused: it must be read again."""
        self._uncertain = True
        self.task.wake_up()

    def ask_again(self) -> None:
        """Repeat a failed request now, because the API server might answer again."""
        self._retry_s = self._write_retry_s = float("-inf")
        self.task.wake_up()

    def domain_changed(self, *, managed: bool) -> None:
        """Note an event of libvirt about a domain. The event thread calls this."""
        self._event_s = time.monotonic()
        level = Urgency.SOME_TIME if managed and not self._spec.maintenance() else Urgency.SOON
        if self._unlisted < level:  # otherwise the thread knows already
            self._unlisted = level
            self.task.wake_up()

    def vm_reported(self) -> None:
        """Note that the status of a VM was written. During maintenance, the report on the host might follow from it.

        Otherwise the thread reads the statuses periodically.
        """
        if self._spec.maintenance():
            self.task.wake_up()

    def listed(self, domains: Sequence[Domain], began_s: float) -> None:
        """Note a list of libvirt, and the monotonic time when it began."""
        self._list = domains, began_s
        self.task.wake_up()

    # --- the thread

    def _run(self) -> float | None:
        now_s = time.monotonic()
        if self._is_read_due(now_s):
            self._read(now_s)
        if self._object and self._unwatched() and now_s - self._watched_again_s > OTHERS_EVERY_S:
            self._watched_again_s = now_s
            self._watch_again()
        look_in_s = self._looked_s + COALESCE_S - now_s
        if look_in_s > 0:
            waits_s = [look_in_s]
        else:
            self._looked_s = now_s
            waits_s = [wait_s for wait_s in (self._list_when_due(now_s), self._write_when_due(now_s)) if wait_s]
        retries_s = [at_s for at_s in (self._retry_s, self._write_retry_s) if at_s > now_s]  # also those set just now
        waits_s += [max(at_s - time.monotonic(), 0.0) for at_s in retries_s]
        if self._spec.maintenance():
            waits_s.append(URGENT_EVERY_S)
        return min(waits_s, default=None)

    def _is_read_due(self, now_s: float) -> bool:
        old = now_s - self._read_s > self._settings.resync_api_s
        return now_s >= self._retry_s and (self._uncertain or self._object is None or old)

    def _read(self, now_s: float) -> None:
        self._uncertain = False
        try:
            found = self._store.read()
            if found is None:
                if self._object or not self._may_write():
                    self._spec.missing()
                if self._may_write():
                    found = self._store.create()
                    log.info("created the Hypervisor of this node", hypervisor=found.name)
        except Unserved:
            self._fail()
            self._spec.unserved()
        except Forbidden as error:
            self._fail()
            self._spec.refused(str(error))
        except (Transient, Rejected, Vanished) as error:
            self._fail(error)
            self._spec.failed(str(error))
        else:
            self._read_s = now_s
            self._take(found)

    def _take(self, found: Hypervisor | None) -> None:
        """Obey the object. `found` is None if it does not exist, and this agent may not create it."""
        self._object = found
        if found is None:
            self._fail()
            return
        self._backoff.reset()
        self._retry_s = float("-inf")
        begins = found.maintenance != self._spec.maintenance()
        self._spec.read(found)
        if begins:
            self._obeyed_s = time.monotonic()

    def _fail(self, error: Exception | None = None) -> None:
        self._retry_s = _retry_s(self._backoff, error)
        self._uncertain = True

    def _list_when_due(self, now_s: float) -> float | None:
        """List libvirt if a list is due. Return how many seconds to wait otherwise; None: no list is wanted."""
        wait_s = self._list_pace.wait_s(self._unlisted, now_s) if self._hypervisor.connected else None
        if wait_s == 0:
            self._unlisted = Urgency.NONE
            self._list_pace.done(now_s)
            self._relist()
        return wait_s

    def _write_when_due(self, now_s: float) -> float | None:
        """Write the status if it differs and a write is due. Return how many seconds to wait; None: nothing differs."""
        vms = self._vms()
        if vms is None or self._object is None or not self._may_write():
            return None
        if now_s < max(self._retry_s, self._write_retry_s):
            return None
        old = self._object.status
        new = reported(old, self._host(self._object.generation, vms), datetime.now(UTC).replace(microsecond=0))
        urgency = Urgency.NONE
        if self._store.differs(new):
            urgency = Urgency.SOON if is_urgent(old, new) else Urgency.SOME_TIME
        wait_s = self._write_pace.wait_s(urgency, now_s)
        if wait_s == 0:
            self._write(old, new, now_s)
        return wait_s

    def _write(self, old: HypervisorStatus, new: HypervisorStatus, now_s: float) -> None:
        try:
            written = self._store.report(new)
        except (Conflicted, Vanished):
            self.object_uncertain()
        except (Transient, Rejected) as error:
            log.warning("could not report on this host", error=str(error))
            self._write_retry_s = _retry_s(self._write_backoff, error)
            self._uncertain = True
        else:
            self._write_backoff.reset()
            self._write_pace.done(now_s)
            self._object = written
            for reason, note in events_of_change(old, new, self._spec.maintenance()):
                self._recorder.record(written, Notice(reason, note))

    # --- what is reported

    def _host(self, generation: int, vms: Sequence[VirtualMachine]) -> Host:
        settings, facts, quiet_since_s = self._settings, self._hypervisor.host_facts, self._quiet_since_s()
        inventory = self._inventory(vms)
        began_s = self._list[1] if self._list else float("-inf")
        acting = quiet_since_s is None or has_open_start(vms, settings.node_name)
        current = began_s > max(self._obeyed_s, self._event_s, quiet_since_s or 0.0)
        if self._spec.maintenance() and not current and not acting:
            self._unlisted = max(self._unlisted, Urgency.SOON)
        return Host(
            generation=generation,
            maintenance=self._spec.maintenance(),
            understood=not (self._object and self._object.misunderstood),
            blocked=self._spec.blocked(),
            observe_only=settings.observe_only,
            unreachable="" if self._hypervisor.connected else f"{settings.libvirt_uri} is not connected",
            boot_id=settings.boot_id,
            agent_version=__version__,
            lease_namespace=settings.lease_namespace or "",
            libvirt_version=facts.libvirt_version if facts else None,
            qemu_version=facts.qemu_version if facts else None,
            capacity=facts.capacity if facts else None,
            inventory=inventory,
            vms=count_vms(vms, settings.node_name),
            running=self._running(vms),
            running_is_current=current,
            acting=acting,
        )

    def _inventory(self, vms: Sequence[VirtualMachine]) -> Inventory | None:
        if self._list is None:
            return None
        inventory = take_inventory(
            [_listed(domain) for domain in self._list[0]],
            managed_by(vms, self._settings.node_name),
            names=self._settings.report_unmanaged,
            ignored=self._settings.ignore_domains,
        )
        self._counted(inventory.domains, inventory.managed)
        return inventory

    def _running(self, vms: Sequence[VirtualMachine]) -> tuple[str, ...]:
        """Return the names of the domains that have a QEMU, by the last list or by the report of their VM.

        A QEMU whose domain libvirt shows off might not have exited; only the report shows this.
        """
        listed = {domain.uuid: domain.name for domain in (self._list[0] if self._list else ()) if domain.phase.on}
        for vm in observed(vms, self._settings.node_name):
            record = vm.status.domain
            if record and record.uuid and vm.status.was_on:
                listed.setdefault(record.uuid, record.name)
        return tuple(listed.values())


def _listed(domain: Domain) -> ListedDomain:
    return ListedDomain(
        uuid=domain.uuid,
        name=domain.name,
        power_state=domain.phase.power_state,
        on=domain.phase.on,
        reason=domain.reason,
        transient=not domain.persistent,
    )


def _retry_s(backoff: Backoff, error: Exception | None) -> float:
    """Return the monotonic time of the next attempt after a request that has just failed."""
    asked_s = error.retry_after_s if isinstance(error, Transient) else 0.0
    return time.monotonic() + max(backoff.wait_s(), asked_s)

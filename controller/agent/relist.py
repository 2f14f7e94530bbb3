"""The truth, asked for now and then: events and the watch only shorten the wait for it.

libvirt is listed in bulk, and only VMs that differ from their report are looked at; the API server is listed with the
field selector, and what is no longer there is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from controller.api.libvirt_words import OffReason
from controller.api.virtualmachine import PowerState, Status, VirtualMachine, VmKey
from controller.hypervisor.connection import Hypervisor
from controller.hypervisor.host import LibvirtHost
from controller.kube.store import KubeStore
from controller.kube.watch_health import WatchHealth
from controller.policy.view import Domain
from controller.runtime.errors import Rejected, Transient
from controller.runtime.periodic import PeriodicTask
from controller.runtime.retry import Backoff

LISTED_WITHIN_PERIODS = 3
"""A libvirt that has not been listed for so many periods is not looked after."""
LIBVIRT_RETRY_S = 5.0
"""The wait after a listing of libvirt that failed."""
FIRST_LIST_RETRY_S, LIST_RETRY_S = (1.0, 8.0), (30.0, 60.0)
"""The first and the longest wait after a list of the API server that failed: before the first good one, and after."""
STALE_S, STALE_PERIODS = 600.0, 2
"""How old the last list of objects may be, or how many periods of such lists if that is longer."""

log = structlog.get_logger()


def differs(vm: VirtualMachine, domain: Domain | None) -> bool:
    """Whether the report of a VM is not what a listing of libvirt shows."""
    status = vm.status
    if domain is None:
        return status.power_state is not PowerState.ABSENT
    record = status.domain
    return (
        record is None
        or status.power_state is not domain.phase.power_state
        or (status.libvirt_state != domain.state)
        or _tells_another_reason(status, domain)
        or (record.uuid, record.name, record.id) != (domain.uuid, domain.name, domain.id)
        or (record.persistent, record.autostart) != (domain.persistent, domain.autostart)
    )


def _tells_another_reason(status: Status, domain: Domain) -> bool:
    # A restarted libvirtd says UNKNOWN where the report still knows the reason.
    return domain.reason not in {OffReason.UNKNOWN, status.libvirt_reason}


class RelistDiff:
    """Of what libvirt lists with what was reported of it; one thread at a time.

    Neither side is ever changed, only replaced, so two that agreed do so for as long as both are the same objects.
    """

    def __init__(self) -> None:
        self._agreed: dict[int, tuple[VirtualMachine, Domain]] = {}
        """By the `id` of the former, which is no other's while it is kept here."""

    def changed(self, vms: Sequence[VirtualMachine], domains: Sequence[Domain]) -> list[VirtualMachine]:
        """The VMs to look at after libvirt has been listed."""
        listed = set(map(id, domains))
        agreed = {id(vm): pair for vm in vms if (pair := self._agreed.get(id(vm))) and id(pair[1]) in listed}
        found = []
        for vm, domain in _matched([vm for vm in vms if id(vm) not in agreed], domains):
            if differs(vm, domain):
                found.append(vm)
            elif domain:
                agreed[id(vm)] = vm, domain
        self._agreed = agreed
        return found


def _matched(
    vms: Sequence[VirtualMachine], domains: Sequence[Domain]
) -> Iterator[tuple[VirtualMachine, Domain | None]]:
    """Each VM with the domain that it means."""
    by_uuid = {domain.uuid: domain for domain in domains}
    by_name = {domain.name: domain for domain in domains}
    for vm in vms:
        address = vm.address
        yield vm, by_uuid.get(address.uuid) if address.uuid else by_name.get(address.name or "")


class LibvirtRelist:
    """Lists libvirt now and then, and has what differs from its report looked at. `unready` may be asked anywhere."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        host: LibvirtHost,
        store: KubeStore,
        *,
        period_s: float,
        look: Callable[[VmKey], None],
        resynced: Callable[[str, float], None],
    ) -> None:
        """`look` has a VM looked at; `resynced` is told of a listing: of libvirt, and how many seconds it took."""
        self._hypervisor, self._host, self._store = hypervisor, host, store
        self._period_s, self._look, self._resynced = period_s, look, resynced
        self._comparison = RelistDiff()
        self._listed_s = time.monotonic()
        """When libvirt was last listed; the first listing has its time too."""
        self.task = PeriodicTask("libvirt-resync", period_s, self._relist)

    def unready(self) -> str | None:
        """Why libvirt is not seen, as a sentence; None where it is: events alone are no proof."""
        if not self._hypervisor.connected:
            return f"libvirt at {self._hypervisor.uri} does not answer"
        late = time.monotonic() - self._listed_s > LISTED_WITHIN_PERIODS * self._period_s
        return f"libvirt has not been listed for {LISTED_WITHIN_PERIODS} periods of --resync-libvirt" if late else None

    def _relist(self) -> float | None:
        if not self._hypervisor.connected:
            return None
        began_s = time.monotonic()
        try:
            domains = self._host.relist()
        except Transient as error:
            log.warning("could not list libvirt domains", error=str(error))
            return LIBVIRT_RETRY_S
        for vm in self._comparison.changed(self._store.vms(), domains):
            self._look(vm.key)
        self._listed_s = began_s
        self._resynced("libvirt", time.monotonic() - began_s)
        return None


class ApiRelist:
    """Lists the objects of the node now and then, and has what changed looked at. Any thread may ask for its state."""

    def __init__(
        self,
        store: KubeStore,
        watched: WatchHealth,
        *,
        period_s: float,
        first: Callable[[], None],
        look: Callable[[VmKey], None],
        resynced: Callable[[str, float], None],
    ) -> None:
        """`first` is called after the first list, before any of its VMs is looked at."""
        self._store, self._watched, self._period_s = store, watched, period_s
        self._first, self._look, self._resynced = first, look, resynced
        self._backoff = Backoff(*FIRST_LIST_RETRY_S)
        self._listed_s = float("-inf")
        self._why = ""
        """Why the last list failed."""
        self.listed = threading.Event()
        """There has been a good list."""
        self.task = PeriodicTask("api-resync", period_s, self._relist)

    def unready(self) -> str | None:
        """Why the objects of the node are not known well enough, as a sentence; None where they are."""
        if not self.listed.is_set():
            return f"the VirtualMachines of this node have not been listed yet{self._why}"
        old_s = time.monotonic() - max(self._listed_s, self._watched.listed_s)
        if old_s > max(STALE_S, STALE_PERIODS * self._period_s):
            return f"the VirtualMachines of this node have not been listed for {old_s:.0f} s{self._why}"
        return None

    def _relist(self) -> float | None:
        began_s = time.monotonic()
        try:
            changed, gone = self._store.relist()
        except (Transient, Rejected) as error:
            log.warning("could not list VirtualMachines", error=str(error))
            self._why = f": {error}"
            asked_s = error.retry_after_s if isinstance(error, Transient) else 0.0
            return max(self._backoff.wait_s(), asked_s)
        self._backoff = Backoff(*LIST_RETRY_S)
        self._listed_s, self._why = began_s, ""
        for key in changed | gone:
            self._look(key)
        self._resynced("api", time.monotonic() - began_s)
        if not self.listed.is_set():
            self._first()
            self.listed.set()
        return None

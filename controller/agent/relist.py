"""The periodic relists of libvirt and of the API server: they find what libvirt's events and the watch have missed.

libvirt is listed in bulk, and only VMs that differ from their report are reconciled. The API server is listed with the
field selector, and objects that are no longer listed are forgotten.
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
"""The agent is not ready when it has not listed libvirt for this many periods."""
LIBVIRT_RETRY_S = 5.0
"""The wait after a failed list of libvirt."""
FIRST_LIST_RETRY_S, LIST_RETRY_S = (1.0, 8.0), (30.0, 60.0)
"""The first and the longest wait after a failed list of the API server: before the first success, and after it."""
STALE_S, STALE_PERIODS = 600.0, 2
"""The agent is not ready when its last list of objects is older than this time or this many periods, the longer one."""

log = structlog.get_logger()


def differs(vm: VirtualMachine, domain: Domain | None) -> bool:
    """Whether the report of a VM differs from the listed domain (None: libvirt did not list it)."""
    status = vm.status
    if domain is None:
        return status.power_state is not PowerState.ABSENT
    record = status.domain
    return (
        record is None
        or status.power_state is not domain.phase.power_state
        or (status.libvirt_state != domain.state)
        or _reason_differs(status, domain)
        or (record.uuid, record.name, record.id) != (domain.uuid, domain.name, domain.id)
        or (record.persistent, record.autostart) != (domain.persistent, domain.autostart)
    )


def _reason_differs(status: Status, domain: Domain) -> bool:
    # A restarted libvirtd returns UNKNOWN where the report still has the reason.
    return domain.reason not in {OffReason.UNKNOWN, status.libvirt_reason}


class RelistDiff:
    """Compares the domains that libvirt lists with the reports. Not thread-safe: one thread at a time.

    VMs and domains are immutable values, so a pair that agreed agrees as long as both are the same Python objects.
    """

    def __init__(self) -> None:
        self._agreed: dict[int, tuple[VirtualMachine, Domain]] = {}
        """By the `id` of the VM, which is unique while this dict keeps the VM alive."""

    def changed(self, vms: Sequence[VirtualMachine], domains: Sequence[Domain]) -> list[VirtualMachine]:
        """The VMs whose report differs from the list."""
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
    """Each VM with the domain that it names; None: the list has no such domain."""
    by_uuid = {domain.uuid: domain for domain in domains}
    by_name = {domain.name: domain for domain in domains}
    for vm in vms:
        address = vm.address
        yield vm, by_uuid.get(address.uuid) if address.uuid else by_name.get(address.name or "")


class LibvirtRelist:
    """Lists libvirt periodically and enqueues the VMs that differ from their report. `unready` is thread-safe."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        host: LibvirtHost,
        store: KubeStore,
        *,
        period_s: float,
        enqueue: Callable[[VmKey], None],
        resynced: Callable[[str, float], None],
    ) -> None:
        """`enqueue` adds a key to the work queue; `resynced` gets "libvirt" and the seconds that the relist took."""
        self._hypervisor, self._host, self._store = hypervisor, host, store
        self._period_s, self._enqueue, self._resynced = period_s, enqueue, resynced
        self._diff = RelistDiff()
        self._listed_s = time.monotonic()
        """Monotonic time of the last list of libvirt; at first the time of construction."""
        self.task = PeriodicTask("libvirt-resync", period_s, self._relist)

    def unready(self) -> str | None:
        """Why libvirt is not observed, as a sentence; None if it is. Events alone do not count, only lists do."""
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
        for vm in self._diff.changed(self._store.vms(), domains):
            self._enqueue(vm.key)
        self._listed_s = began_s
        self._resynced("libvirt", time.monotonic() - began_s)
        return None


class ApiRelist:
    """Lists the objects of the node periodically and enqueues those that changed. `unready` is thread-safe."""

    def __init__(
        self,
        store: KubeStore,
        watch_health: WatchHealth,
        *,
        period_s: float,
        on_first_list: Callable[[], None],
        enqueue: Callable[[VmKey], None],
        resynced: Callable[[str, float], None],
    ) -> None:
        """`on_first_list` is called after the first list, before the first reconcile pass.

        `enqueue` adds a key to the work queue; `resynced` gets "api" and the seconds that the relist took.
        """
        self._store, self._watch_health, self._period_s = store, watch_health, period_s
        self._on_first_list, self._enqueue, self._resynced = on_first_list, enqueue, resynced
        self._backoff = Backoff(*FIRST_LIST_RETRY_S)
        self._listed_s = float("-inf")
        self._last_error = ""
        """Why the last list failed, after a colon; empty: it succeeded, or there was none."""
        self.listed = threading.Event()
        """Set after the first successful list."""
        self.task = PeriodicTask("api-resync", period_s, self._relist)

    def unready(self) -> str | None:
        """Why the list of this node's objects is missing or too old, as a sentence; None if it is not."""
        if not self.listed.is_set():
            return f"the VirtualMachines of this node have not been listed yet{self._last_error}"
        old_s = time.monotonic() - max(self._listed_s, self._watch_health.listed_s)
        if old_s > max(STALE_S, STALE_PERIODS * self._period_s):
            return f"the VirtualMachines of this node have not been listed for {old_s:.0f} s{self._last_error}"
        return None

    def _relist(self) -> float | None:
        began_s = time.monotonic()
        try:
            changed, gone = self._store.relist()
        except (Transient, Rejected) as error:
            log.warning("could not list VirtualMachines", error=str(error))
            self._last_error = f": {error}"
            asked_s = error.retry_after_s if isinstance(error, Transient) else 0.0
            return max(self._backoff.wait_s(), asked_s)
        self._backoff = Backoff(*LIST_RETRY_S)
        self._listed_s, self._last_error = began_s, ""
        for key in changed | gone:
            self._enqueue(key)
        self._resynced("api", time.monotonic() - began_s)
        if not self.listed.is_set():
            self._on_first_list()
            self.listed.set()
        return None

"""Lists libvirt and the API server periodically, to find changes that libvirt's events and the watch have missed.

A list of libvirt has all domains, and only the VMs whose report differs from the list are reconciled. A list of the API
server has the objects of this node (field selector), and the store removes the objects that are missing in the list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from controller.api.libvirt_words import OffReason
from controller.api.virtualmachine import PowerState, Status, VirtualMachine, VmKey
from controller.hypervisor.connection import LibvirtConnection
from controller.hypervisor.host import LibvirtHost
from controller.kube.store import KubeStore
from controller.kube.watch_health import WatchHealth
from controller.policy.view import Domain
from controller.runtime.errors import Rejected, Transient
from controller.runtime.periodic import PeriodicTask
from controller.runtime.retry import Backoff

LISTED_WITHIN_PERIODS = 3
"""If the agent has not listed libvirt for this many periods, it is not ready."""
LIBVIRT_RETRY_S = 5.0
"""How long the agent waits after a failed list of libvirt."""
FIRST_LIST_RETRY_S, LIST_RETRY_S = (1.0, 8.0), (30.0, 60.0)
"""The first and the longest wait after a failed list of the API server, before and after the first successful list."""
STALE_S, STALE_PERIODS = 600.0, 2
"""If the last list of the API server is older than this time and than this many periods, the agent is not ready."""

log = structlog.get_logger()


def differs(vm: VirtualMachine, domain: Domain | None) -> bool:
    """Whether the report of a VM differs from its domain in a list of libvirt; `domain` is None if it is not listed.

    If it is not certain that the listed domain is that of the VM, only a pass can find out.
    """
    status = vm.status
    if domain is None:
        return status.power_state is not PowerState.ABSENT
    record = status.domain
    return (
        record is None
        or not vm.may_mean(domain.name)
        or status.power_state is not domain.phase.power_state
        or (status.libvirt_state != domain.state)
        or _reason_differs(status, domain)
        or (record.uuid, record.name, record.id) != (domain.uuid, domain.name, domain.id)
        or (record.persistent, record.autostart) != (domain.persistent, domain.autostart)
    )


def _reason_differs(status: Status, domain: Domain) -> bool:
    # After a restart, libvirtd returns UNKNOWN for a domain whose report still has the reason.
    return domain.reason not in {OffReason.UNKNOWN, status.libvirt_reason}


class RelistDiff:
    """Compares the domains of a list with the reports. Not thread-safe.

    VMs and domains are immutable. A pair that agreed once is not compared again as long as both are the same Python
    objects.
    """

    def __init__(self) -> None:
        self._agreed: dict[int, tuple[VirtualMachine, Domain]] = {}
        """The pairs that agreed in the last list, by the `id` of the VM. The dict keeps the VM alive: no other object
        gets this `id`."""

    def changed(self, vms: Sequence[VirtualMachine], domains: Sequence[Domain]) -> list[VirtualMachine]:
        """Return the VMs whose report differs from the list."""
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
    """Yield each VM with its domain; None: the list does not have it."""
    by_uuid = {domain.uuid: domain for domain in domains}
    by_name = {domain.name: domain for domain in domains}
    for vm in vms:
        address = vm.address
        domain = by_uuid.get(address.uuid) if address.uuid else by_name.get(address.name or "")
        yield vm, domain


class LibvirtRelist:
    """Lists libvirt periodically, and enqueues the VMs whose report differs from the list. `unready` is thread-safe."""

    def __init__(
        self,
        hypervisor: LibvirtConnection,
        host: LibvirtHost,
        store: KubeStore,
        *,
        period_s: float,
        enqueue: Callable[[VmKey], None],
        resynced: Callable[[str, float], None],
        listed: Callable[[list[Domain], float], None],
    ) -> None:
        """`enqueue` adds a key to the work queue. `resynced` is called with "libvirt" and the duration in seconds.

        `listed` is called with the domains of each list, and the monotonic time when the list began.
        """
        self._hypervisor, self._host, self._store, self._listed = hypervisor, host, store, listed
        self._period_s, self._enqueue, self._resynced = period_s, enqueue, resynced
        self._diff = RelistDiff()
        self._listed_s = time.monotonic()
        """The monotonic time of the last list of libvirt; initially the time of the construction."""
        self.task = PeriodicTask("libvirt-resync", period_s, self._relist)

    def unready(self) -> str | None:
        """Return a message if libvirt is not connected or was not listed recently, otherwise None."""
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
        self._listed(domains, began_s)
        self._resynced("libvirt", time.monotonic() - began_s)
        return None


class ApiRelist:
    """Lists the objects of the node periodically, and enqueues those that have changed. `unready` is thread-safe."""

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

        `enqueue` adds a key to the work queue. `resynced` is called with "api" and the duration in seconds.
        """
        self._store, self._watch_health, self._period_s = store, watch_health, period_s
        self._on_first_list, self._enqueue, self._resynced = on_first_list, enqueue, resynced
        self._backoff = Backoff(*FIRST_LIST_RETRY_S)
        self._listed_s = float("-inf")
        self._last_error = ""
        """The reason why the last list failed, with a leading colon; empty: it succeeded, or there was none."""
        self.listed = threading.Event()
        """Set after the first successful list."""
        self.task = PeriodicTask("api-resync", period_s, self._relist)

    def unready(self) -> str | None:
        """Return a message if this node's objects were not listed yet or not recently, otherwise None."""
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

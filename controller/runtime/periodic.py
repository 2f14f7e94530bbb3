"""The truth, asked for now and then: events only shorten the wait for it.

libvirt is listed in bulk, and only VMs that differ from their report are looked at; the API server is listed
with the field selector, and what is no longer there is forgotten.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence

import structlog

from controller.api.virtualmachine import Domain, PowerState, Status, VirtualMachine

JITTER = 0.1
"""By how much of its period each is longer or shorter: agents that were started together must not list together."""

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
    return domain.reason not in {"UNKNOWN", status.libvirt_reason}


class Comparison:
    """Of what libvirt lists with what was reported of it; one thread at a time.

    Neither side is ever changed, only replaced, so two that agreed do so for as long as both are the same objects.
    """

    def __init__(self) -> None:
        self._agreed: dict[int, tuple[VirtualMachine, Domain]] = {}
        """By the `id` of the former, which is no other's while it is kept here."""

    def out_of_step(self, vms: Sequence[VirtualMachine], domains: Sequence[Domain]) -> list[VirtualMachine]:
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


class Periodic:
    """A thread that does one thing now and then, and at once when asked. `nudge` may be called from any thread."""

    def __init__(
        self,
        name: str,
        period_s: float,
        do: Callable[[], float | None],
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`do` returns after how many seconds it wants to be called again, or None for the period, give or take."""
        self.name, self._period_s, self._do, self._uniform = name, period_s, do, uniform
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first time is now."""
        self._thread.start()

    def nudge(self) -> None:
        """Do it now."""
        self._wake.set()

    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after the call that is under way."""
        self._closed.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait so long until it has stopped."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._do_once())
            # After the wait, and before what it was for: whoever wakes it later is heard.
            self._wake.clear()

    def _do_once(self) -> float:
        """Do it; how long to wait then."""
        try:
            again_s = self._do()
        except Exception:
            log.exception(f"{self.name} failed inside virtsync")
            again_s = None
        return self._period_s * self._uniform(1 - JITTER, 1 + JITTER) if again_s is None else again_s

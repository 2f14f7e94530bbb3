"""What a listing of libvirt has to be looked at: events only shorten the wait for it.

All domains are listed in bulk, and only VMs that differ from their report are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller.api.virtualmachine import PowerState, Status, VirtualMachine
from controller.policy.view import Domain


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

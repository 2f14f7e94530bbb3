"""Facts about the host that do not change while it runs: its size, and the versions of libvirt and QEMU."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import libvirt

from controller.api.hypervisor import Capacity
from controller.hypervisor.pool import ConnectionSet


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host, as libvirt describes it."""

    capacity: Capacity
    libvirt_version: str
    """The version of the libvirt daemon, such as 9.0.0."""
    qemu_version: str
    """The version of the QEMU that libvirt uses for new VMs. Empty if libvirt does not tell it."""


def read_host_facts(connections: ConnectionSet) -> HostFacts:
    """Read the facts. This takes milliseconds, or a second if libvirt has not probed its QEMU yet.

    Raises libvirtError, and Transient if no connection is free.
    """
    with connections.actions.take() as connection:
        _, memory_mib, cpus, *_ = connection.getInfo()
        qemu = 0
        if connection.getType() == "QEMU":
            with suppress(libvirt.libvirtError):  # libvirt finds no QEMU
                qemu = connection.getVersion()
        return HostFacts(Capacity(cpus, memory_mib), version_text(connection.getLibVersion()), version_text(qemu))


def version_text(number: int) -> str:
    """Return the text of a version that libvirt has as a number: 9000000 is 9.0.0. Empty for 0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number else ""

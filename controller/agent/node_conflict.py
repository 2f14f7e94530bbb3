"""Detects that two hosts have the same node name, by the reports that the other host has written.

With a Lease, only one of the two agents acts. Without a Lease, the agents would overwrite each other's reports at once
and without end, so each of them waits before it writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.policy.view import Node

FIRST_S, MAX_S = 5.0, 60.0
"""The first and the longest wait before this agent overwrites a report of the other host. The waits double."""

log = structlog.get_logger()


class NodeConflict:
    """Detects reports that another host has written under the name of this node. Thread-safe. No method waits."""

    def __init__(self, *, on_temporary_uuid: Callable[[], None]) -> None:
        """`on_temporary_uuid` is called if libvirt's UUID of this host changed within one boot.

        Such a UUID identifies no host.
        """
        self._on_temporary_uuid = on_temporary_uuid
        self._lock = threading.Lock()
        self._waits: dict[VmKey, float] = {}

    def check(self, vm: VirtualMachine, node: Node) -> bool:
        """Whether another host has written the status of this VM under the name of this node."""
        status = vm.status
        known = None not in {status.host_uuid, node.host_uuid}
        if not known or status.node_name != node.name or status.host_uuid == node.host_uuid:
            return False
        if status.node_boot_id == node.boot_id:  # the same boot is the same host, whatever its UUID is
            self._on_temporary_uuid()
            return False
        return True

    def wait_s(self, vm: VirtualMachine, node: Node) -> float:
        """Return the seconds to wait before the next pass of a VM; 0 unless another host has just reported the VM."""
        contested = self.check(vm, node)
        with self._lock:
            if not contested:
                self._waits.pop(vm.key, None)
                return 0.0
            wait_s = self._waits[vm.key] = min(2 * self._waits.get(vm.key, FIRST_S / 2), MAX_S)
        log.warning(
            "another machine reports under the name of this node",
            message="give each agent its own --node-name and a Lease (--lease-namespace)",
            node=node.name,
            other_host_uuid=str(vm.status.host_uuid),
        )
        return wait_s

    def forget(self, key: VmKey) -> None:
        """Forget the waits of an object that is no longer one of this node."""
        with self._lock:
            self._waits.pop(key, None)

"""Two machines under one node name: detects reports that another machine has written under the name of this node.

The Lease of the node separates two such agents. Without a Lease, each would replace the other's report at once, without
end; so each waits before it writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.policy.view import Node

FIRST_S, MAX_S = 5.0, 60.0
"""How long to leave the report of another machine unchanged: doubled each time, up to a minute."""

log = structlog.get_logger()


class NodeConflict:
    """Detects reports of another machine under the name of this node. Thread-safe; no method waits."""

    def __init__(self, *, temporary: Callable[[], None]) -> None:
        """`temporary` is called when the UUID of this machine has changed within one boot."""
        self._temporary = temporary
        self._lock = threading.Lock()
        self._waits: dict[VmKey, float] = {}

    def check(self, vm: VirtualMachine, node: Node) -> bool:
        """Whether another machine has written this status under the name of this node."""
        status = vm.status
        known = None not in {status.host_uuid, node.host_uuid}
        if not known or status.node_name != node.name or status.host_uuid == node.host_uuid:
            return False
        if status.node_boot_id == node.boot_id:  # one boot is one machine, whatever its UUID
            self._temporary()
            return False
        return True

    def wait_s(self, vm: VirtualMachine, node: Node) -> float:
        """After how many seconds to reconcile a VM whose status another writer has just written; 0: at once."""
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

"""The rights of an agent in the API server. deploy/base/rbac.yaml grants them, and a test compares the two."""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.names import GROUP, HYPERVISOR_PLURAL, PLURAL

REPORT = "report"
"""The verb that allows to write the status of objects of any node. The agents of the DaemonSet do not have it."""


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on one resource."""

    group: str
    resource: str
    """Such as `virtualmachines/status`."""
    verbs: tuple[str, ...]
    name: str = ""
    """The name of the only object to which they apply; empty: they apply to all objects."""


CLUSTER_RIGHTS = (
    Right(GROUP, PLURAL, ("get", "list", "watch")),
    Right(GROUP, f"{PLURAL}/status", ("patch",)),
    Right(GROUP, HYPERVISOR_PLURAL, ("get", "list", "watch", "create")),
    Right(GROUP, f"{HYPERVISOR_PLURAL}/status", ("patch",)),
    Right("events.k8s.io", "events", ("create", "patch")),
)
"""The rights in all namespaces."""
LEASE_RIGHTS = (Right("coordination.k8s.io", "leases", ("get", "create", "update")),)
"""The rights in the namespace of the Leases."""

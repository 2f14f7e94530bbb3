"""The paths of virtsync's objects and of Leases in the API."""

from __future__ import annotations

from urllib.parse import quote

from controller.api.names import GROUP, HYPERVISOR_PLURAL, PLURAL, VERSION
from controller.api.virtualmachine import VmKey

RESOURCES = f"/apis/{GROUP}/{VERSION}"
VIRTUAL_MACHINES = f"{RESOURCES}/{PLURAL}"
"""The VirtualMachines of all namespaces."""
HYPERVISORS = f"{RESOURCES}/{HYPERVISOR_PLURAL}"
NAMESPACES = "/api/v1/namespaces"
ANY_VERSION = "0"
"""The resourceVersion of a list that may be stale.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions"""


def virtual_machines(namespace: str) -> str:
    """Return the path of the VirtualMachines of this namespace."""
    return f"{RESOURCES}/namespaces/{quote(namespace)}/{PLURAL}"


def virtual_machine(key: VmKey) -> str:
    """Return the path of this VirtualMachine."""
    return f"{RESOURCES}/namespaces/{quote(key.namespace)}/{PLURAL}/{quote(key.name)}"


def hypervisor(name: str) -> str:
    """Return the path of this Hypervisor."""
    return f"{HYPERVISORS}/{quote(name)}"


def pods(namespace: str) -> str:
    """Return the path of the Pods of this namespace."""
    return f"{NAMESPACES}/{quote(namespace)}/pods"


def leases(namespace: str) -> str:
    """Return the path of the Leases of this namespace."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases"

"""The reasons of conditions: what docs/api.md says of each, and an object that has it."""

from typing import Any

from controller.api.conditions import READINESS
from controller.api.virtualmachine import Reason
from manifests import reasons

Json = dict[str, Any]


def table() -> dict[str, str]:
    """The reasons of Ready in docs/api.md, each with the health that it has in Argo CD."""
    return {reason: row.health for reason, row in reasons.of_vms().items()}


def vm(reason: str, *, generation: int = 1) -> Json:
    """A VirtualMachine with this reason, and with the conditions that the agent writes for it."""
    ready, abnormal = READINESS[Reason(reason)].value
    conditions = [{"type": "Ready", "status": ready, "reason": reason, "message": "Why."}]
    if abnormal:
        conditions.append({"type": abnormal.value, "status": "True", "reason": reason, "message": "Why."})
    return {
        "metadata": {"name": "web-1", "generation": generation},
        "spec": {"powerState": "Running"},
        "status": {"observedGeneration": 1, "conditions": conditions},
    }


def is_unknown(reason: Reason) -> bool:
    """Whether nobody knows the state of a VM that was observed before."""
    return READINESS[reason].value[0] == "Unknown" and reason is not Reason.PENDING


def host_table(kind: str) -> list[tuple[str, str, str]]:
    """The status, the reason and the documented health of each row about a condition of a Hypervisor."""
    return [(row.status, row.reason, row.health) for row in reasons.of_hosts(kind).values()]


def host(*conditions: tuple[str, str, str]) -> Json:
    """A Hypervisor with these conditions: type, status, reason. It is in maintenance if Quiesced is one of them."""
    written = [{"type": kind, "status": status, "reason": why, "message": "Why."} for kind, status, why in conditions]
    spec = {"maintenance": {"mode": "Shutdown", "reason": "RAM"}} if written[-1]["type"] == "Quiesced" else {}
    return {
        "metadata": {"name": "node-a", "generation": 3},
        "spec": spec,
        "status": {"observedGeneration": 3, "conditions": written},
    }

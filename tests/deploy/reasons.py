"""The reasons of Ready: what docs/api.md says of each, and an object that has it."""

import re
from typing import Any

from controller.api.conditions import READINESS
from controller.api.virtualmachine import Reason
from tests.deploy.callers import REPOSITORY

Json = dict[str, Any]


def table() -> dict[str, str]:
    """The reasons of Ready in docs/api.md, each with the health that it has in Argo CD."""
    section = (REPOSITORY / "docs/api.md").read_text().partition("## Ready, and why")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?:True|False|Unknown) \| (.*?) \| .* \| (\w+) \|$", section, re.MULTILINE)
    return {reason: health for reasons, health in rows for reason in re.findall(r"`(\w+)`", reasons)}


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

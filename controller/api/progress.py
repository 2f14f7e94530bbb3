"""Says how far a requested change is, from the report of the agent.

Pure. Each function takes the object as it is now, and the generation that the change gave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from controller.api.changes import left_alone
from controller.api.conditions import READINESS, Readiness
from controller.api.hypervisor import Hypervisor
from controller.api.names import ConditionType, HypervisorConditionType
from controller.api.virtualmachine import Condition, DesiredPowerState, Reason, VirtualMachine


class Stage(Enum):
    """How far a change is."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    """It will not be done unless somebody else does something."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a change is, and why."""

    stage: Stage
    said: str


def of_power(vm: VirtualMachine, generation: int, desired: DesiredPowerState) -> Progress:
    """Say whether the VM is as its powerState asks.

    FAILED if somebody has changed powerState since, or if restartPolicy leaves the VM in another state.
    """
    if vm.desired is not desired:
        return Progress(Stage.FAILED, f"somebody has changed powerState to {vm.desired or 'none'}")
    progress = _report(vm, generation)
    if progress.stage is not Stage.WAITING and (why := left_alone(vm)):
        return Progress(Stage.FAILED, why)
    return progress


def of_restart(vm: VirtualMachine, generation: int, at: datetime) -> Progress:
    """Say whether the VM runs again after the restart that was requested for this time.

    FAILED if somebody has removed the request before it was carried out.
    """
    last = vm.status.last_restart_time
    carried_out = last is not None and last >= at
    if not carried_out and (vm.restart_request is None or vm.restart_request < at):
        return Progress(Stage.FAILED, "somebody has removed the request before it was carried out")
    progress = _report(vm, generation)
    if progress.stage is Stage.DONE and not carried_out:
        return Progress(Stage.WAITING, progress.said)
    return progress


def of_begun_maintenance(host: Hypervisor, generation: int) -> Progress:
    """Say whether the host is quiet. While nobody hears its agent, that is unknown, whatever was reported before."""
    if host.maintenance is None:
        return Progress(Stage.FAILED, "somebody has ended the maintenance")
    ready = _ready(host)
    if host.status.observed_generation < generation:
        return Progress(Stage.WAITING, f"its agent has not acknowledged it ({_said(ready, 'no report yet')})")
    if ready and ready.status == "Unknown":
        return Progress(Stage.WAITING, _said(ready, ""))
    quiesced = host.status.condition(HypervisorConditionType.QUIESCED)
    quiet = quiesced and quiesced.status == "True" and quiesced.observed_generation >= generation
    stage = Stage.DONE if quiet else Stage.WAITING
    return Progress(stage, _said(quiesced, "acknowledged"))


def of_ended_maintenance(host: Hypervisor, generation: int) -> Progress:
    """Say whether the agent of the host acts again. Its VMs may still be off: they start after the settle time."""
    if host.maintenance is not None:
        return Progress(Stage.FAILED, "somebody has declared maintenance again")
    report = _said(_ready(host), "no report yet")
    if host.status.observed_generation < generation or host.status.maintenance:
        return Progress(Stage.WAITING, f"its agent has not acknowledged it ({report})")
    return Progress(Stage.DONE, report)


def _report(vm: VirtualMachine, generation: int) -> Progress:
    ready = vm.status.condition(ConditionType.READY)
    if not vm.node_name:
        return Progress(Stage.FAILED, "no node is responsible for it: set spec.nodeName")
    if vm.status.observed_generation < generation or ready is None:
        return Progress(Stage.WAITING, f"the agent of {vm.node_name} has not answered it")
    return Progress(_stage(vm, ready), _said(ready, ""))


def _stage(vm: VirtualMachine, ready: Condition) -> Stage:
    if ready.status == "True":
        return Stage.DONE
    if ready.reason not in list(Reason):
        return Stage.WAITING
    if ready.reason == Reason.HELD and not vm.holds:
        # The report can be older than a release, which changes no generation; or the host is in maintenance.
        return Stage.WAITING
    lasting = READINESS[Reason(ready.reason)] in {Readiness.STALLED, Readiness.HELD}
    return Stage.FAILED if lasting else Stage.WAITING


def _ready(host: Hypervisor) -> Condition | None:
    return host.status.condition(HypervisorConditionType.READY)


def _said(condition: Condition | None, otherwise: str) -> str:
    return f"{condition.reason}: {condition.message.rstrip('.')}" if condition else otherwise

"""The agent's report on its host: from what the agent knows to the status of the Hypervisor. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from controller.api.hypervisor import (
    Capacity,
    HypervisorReason,
    HypervisorStatus,
    Maintenance,
    MaintenanceMode,
    MaintenanceProgress,
    Unmanaged,
    VmCounts,
)
from controller.api.names import EventReason, HypervisorConditionType
from controller.api.values import replace
from controller.api.virtualmachine import Condition
from controller.fleet.inventory import Inventory

NAMED_LIMIT = 10
"""How many running domains the message of Quiesced names."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the agent knows about its host. A value that is None is not known, and keeps its last report."""

    generation: int
    """The generation of the spec that the agent obeys."""
    maintenance: Maintenance | None
    """The maintenance that the agent obeys."""
    understood: bool
    """Whether the agent understands the spec. If not, it acknowledges nothing, and no maintenance begins or ends."""
    blocked: str
    """Why the agent takes no action, as one sentence; empty: it may act."""
    observe_only: bool
    unreachable: str
    """Why libvirt does not answer, as one phrase; empty: it answers."""
    boot_id: str
    agent_version: str
    lease_namespace: str
    libvirt_version: str | None
    qemu_version: str | None
    capacity: Capacity | None
    inventory: Inventory | None
    vms: VmCounts
    running: tuple[str, ...]
    """The names of the domains that have a QEMU."""
    running_is_current: bool
    """Whether `running` was observed after the last action and after the maintenance began."""
    acting: bool
    """Whether an action is under way, or a recorded start has no known result yet."""


def reported(old: HypervisorStatus, host: Host, now: datetime) -> HypervisorStatus:
    """Return the status of a host whose last report is `old`."""
    inventory = host.inventory
    progress = None
    conditions = [_condition(HypervisorConditionType.READY, _ready(host), old, host, now)]
    if not host.understood:
        progress = old.maintenance
        conditions += _quiesced_before(old)
    elif host.maintenance:
        progress = MaintenanceProgress(old.maintenance.start_time if old.maintenance else now, len(host.running))
        quiesced = _quiesced(host, host.maintenance.mode)
        conditions.append(_condition(HypervisorConditionType.QUIESCED, quiesced, old, host, now))
    return replace(
        old,
        observed_generation=host.generation if host.understood else old.observed_generation,
        lease_namespace=host.lease_namespace,
        node_boot_id=host.boot_id,
        agent_version=host.agent_version,
        libvirt_version=old.libvirt_version if host.libvirt_version is None else host.libvirt_version,
        qemu_version=old.qemu_version if host.qemu_version is None else host.qemu_version,
        capacity=host.capacity or old.capacity,
        domains=inventory.domains if inventory else old.domains,
        virtual_machines=host.vms,
        unmanaged=inventory.unmanaged if inventory else old.unmanaged,
        maintenance=progress,
        conditions=tuple(conditions),
    )


def is_urgent(old: HypervisorStatus, new: HypervisorStatus) -> bool:
    """Whether the difference between two reports is one that people or the manager wait for."""
    return (
        set(old.conditions) != set(new.conditions)
        or (old.observed_generation, old.node_boot_id) != (new.observed_generation, new.node_boot_id)
        or old.maintenance != new.maintenance
        or _appears(old.unmanaged or Unmanaged(0, 0), new.unmanaged or Unmanaged(0, 0))
    )


def events_of_change(
    old: HypervisorStatus, new: HypervisorStatus, maintenance: Maintenance | None
) -> list[tuple[EventReason, str]]:
    """Return the Events about the host, as pairs of reason and note, that follow from a new report."""
    found: list[tuple[EventReason, str]] = []
    if new.maintenance and maintenance and not old.maintenance:
        note = f"The maintenance ({maintenance.mode}) has begun: {maintenance.reason.rstrip('.')}."
        found.append((EventReason.MAINTENANCE_BEGUN, note))
    quiesced, before = new.condition(HypervisorConditionType.QUIESCED), old.condition(HypervisorConditionType.QUIESCED)
    if quiesced and quiesced.status == "True" and not (before and before.status == "True"):
        found.append((EventReason.QUIESCED, quiesced.message))
    if old.maintenance and not new.maintenance:
        note = "The maintenance has ended. After the settle time, the VMs become as their spec asks."
        found.append((EventReason.MAINTENANCE_ENDED, note))
    return found


def _appears(old: Unmanaged, new: Unmanaged) -> bool:
    """Whether an unmanaged domain appears or comes on. If the list lacks domains, the numbers show this."""
    known = {(domain.uuid, domain.has_qemu) for domain in old.domains}
    listed = {(domain.uuid, domain.has_qemu) for domain in new.domains}
    off_before = {(uuid, False) for uuid, on in known if on}
    return new.total > old.total or new.running > old.running or bool(listed - known - off_before)


Verdict = tuple[str, HypervisorReason, str]
"""The status, the reason and the message of a condition."""


def _ready(host: Host) -> Verdict:
    if host.unreachable:
        note = f"libvirt does not answer, and what is shown was observed last: {host.unreachable}."
        return "Unknown", HypervisorReason.LIBVIRT_UNREACHABLE, note
    if host.observe_only:
        note = "The agent observes the domains of this host, and takes no action (--observe-only)."
        return "True", HypervisorReason.OBSERVE_ONLY, note
    if host.blocked:
        return "False", HypervisorReason.ACTION_BLOCKED, host.blocked
    return "True", HypervisorReason.ACTIVE, "The agent observes the domains of this host, and switches its VMs."


def _quiesced(host: Host, mode: MaintenanceMode) -> Verdict:
    if host.unreachable:
        note = "libvirt does not answer, so it is not known whether the host is quiet."
        return "Unknown", HypervisorReason.LIBVIRT_UNREACHABLE, note
    shuts_down = mode is MaintenanceMode.SHUTDOWN
    if shuts_down and host.running:
        return "False", HypervisorReason.DOMAINS_RUNNING, _still_run(host.running)
    if host.acting:
        return "False", HypervisorReason.ACTIONS_UNDER_WAY, "An action of virtsync has not ended yet."
    if shuts_down and not host.running_is_current:
        note = "The domains of this host have not been listed since the last action."
        return "Unknown", HypervisorReason.PENDING, note
    note = "No domain of this host runs." if shuts_down else "virtsync takes no action on this host."
    return "True", HypervisorReason.QUIET, note


def _quiesced_before(old: HypervisorStatus) -> list[Condition]:
    """Return what was reported of Quiesced, without the mark of a manager, which ends with the agent's return."""
    before = old.condition(HypervisorConditionType.QUIESCED)
    if before and before.reason == HypervisorReason.AGENT_UNREACHABLE:
        note = "The agent does not understand the spec, so it does not know whether the host should be quiet."
        return [replace(before, reason=HypervisorReason.PENDING, message=note)]
    return [before] if before else []


def _still_run(running: tuple[str, ...]) -> str:
    named, more = ", ".join(sorted(running)[:NAMED_LIMIT]), len(running) - NAMED_LIMIT
    who = f"{named} and {more} more" if more > 0 else named
    return f"1 domain still runs: {who}." if len(running) == 1 else f"{len(running)} domains still run: {who}."


def _condition(kind: str, verdict: Verdict, old: HypervisorStatus, host: Host, now: datetime) -> Condition:
    """Return the condition with the time when its status last changed."""
    status, reason, message = verdict
    before = old.condition(kind)
    since = before.last_transition_time if before and before.status == status else now
    return Condition(kind, status, reason, message, since, host.generation)

"""Parses the Hypervisor object, and renders the agent's part of its status as JSON and as a patch.

Pure. The rules are those of `codec`: no function raises an exception, a status field that cannot be read counts as
absent, and a spec field that cannot be read is reported.
"""

from __future__ import annotations

from uuid import UUID

from controller.api.codec import (
    EPOCH,
    INT32_MAX,
    INT64_MAX,
    Json,
    SpecReader,
    as_count,
    as_flag,
    as_list,
    as_map,
    as_str,
    as_time,
    as_uuid,
    as_whole,
    as_word,
    difference,
    parse_conditions,
    render_conditions,
    text_of,
    with_foreign_conditions,
    without_empty,
)
from controller.api.hypervisor import (
    Capacity,
    DomainCounts,
    Hypervisor,
    HypervisorStatus,
    Maintenance,
    MaintenanceMode,
    MaintenanceProgress,
    RunsElsewhere,
    Unmanaged,
    UnmanagedDomain,
    VmCounts,
)
from controller.api.names import HypervisorConditionType
from controller.api.virtualmachine import PowerState


def parse_hypervisor(raw: Json) -> Hypervisor:
    """Parse an object from the API server. Never raises.

    `misunderstood` of the returned Hypervisor names the spec fields that this version does not understand. A
    maintenance with a mode that is not understood is among them.
    """
    meta, spec = as_map(raw.get("metadata")), SpecReader(raw.get("spec"))
    maintenance = _maintenance(spec)
    spec.note_unknown(spec.raw, {"maintenance"}, "spec")
    return Hypervisor(
        name=as_str(meta.get("name")),
        uid=as_str(meta.get("uid")),
        generation=as_whole(meta.get("generation"), 0, INT64_MAX) or 0,
        resource_version=as_str(meta.get("resourceVersion")),
        created=as_time(meta.get("creationTimestamp")) or EPOCH,
        deleting="deletionTimestamp" in meta,
        maintenance=maintenance,
        misunderstood=" and ".join(spec.misunderstood),
        status=parse_hypervisor_status(raw.get("status")),
    )


def _maintenance(spec: SpecReader) -> Maintenance | None:
    """Return `spec.maintenance`. If it has no mode that is understood, return None and note it as not understood."""
    raw = spec.raw.get("maintenance")
    if raw is None:
        return None
    found = as_map(raw)
    mode, reason = as_word(MaintenanceMode, found.get("mode")), found.get("reason")
    if mode is None:
        named = found.get("mode") is not None
        spec.note(found["mode"] if named else raw, "spec.maintenance.mode" if named else "spec.maintenance")
        return None
    if not isinstance(reason, str):
        spec.note_unless_empty(reason, "spec.maintenance.reason")
    spec.note_unknown(found, {"mode", "reason"}, "spec.maintenance")
    return Maintenance(mode, as_str(reason))


def parse_hypervisor_status(raw: object) -> HypervisorStatus:
    """Parse a status. Never raises."""
    raw = as_map(raw)
    observed = as_whole(raw.get("observedGeneration"), -1, INT64_MAX)
    return HypervisorStatus(
        observed_generation=-1 if observed is None else observed,
        lease_namespace=as_str(raw.get("leaseNamespace")),
        node_boot_id=as_str(raw.get("nodeBootID")),
        agent_version=as_str(raw.get("agentVersion")),
        libvirt_version=as_str(raw.get("libvirtVersion")),
        qemu_version=as_str(raw.get("qemuVersion")),
        capacity=_capacity(as_map(raw.get("capacity"))),
        domains=_domains(as_map(raw.get("domains"))),
        virtual_machines=_virtual_machines(as_map(raw.get("virtualMachines"))),
        unmanaged=_unmanaged(as_map(raw.get("unmanaged"))),
        maintenance=_progress(as_map(raw.get("maintenance"))),
        runs_elsewhere=tuple(
            RunsElsewhere(uuid, as_str(entry.get("nodeName")), as_time(entry.get("since")) or EPOCH)
            for entry in as_list(raw.get("runsElsewhere"))
            if (uuid := as_uuid(entry.get("uuid")))
        ),
        conditions=parse_conditions(raw.get("conditions"), HypervisorConditionType),
    )


def hypervisor_status_patch(raw_status: Json, new: HypervisorStatus) -> Json | None:
    """Return the merge patch that changes the agent's part of a status to the new one; None if nothing changes.

    The patch never has `runsElsewhere`, which is the manager's. For the rest, see `codec.status_patch`.
    """
    wanted = _agent_keys(new)
    wanted["conditions"] = with_foreign_conditions(
        raw_status.get("conditions"), wanted["conditions"], HypervisorConditionType
    )
    return difference(raw_status, wanted) or None


def _capacity(raw: Json) -> Capacity | None:
    return Capacity(as_count(raw.get("cpus")), as_whole(raw.get("memoryMiB"), 0, INT64_MAX) or 0) if raw else None


def _domains(raw: Json) -> DomainCounts | None:
    return DomainCounts(as_count(raw.get("total")), as_count(raw.get("running"))) if raw else None


def _virtual_machines(raw: Json) -> VmCounts | None:
    if not raw:
        return None
    return VmCounts(as_count(raw.get("total")), as_count(raw.get("running")), as_count(raw.get("notReady")))


def _unmanaged(raw: Json) -> Unmanaged | None:
    if not raw:
        return None
    return Unmanaged(
        total=as_count(raw.get("total")),
        running=as_count(raw.get("running")),
        truncated=as_flag(raw.get("truncated")) or False,
        domains=tuple(
            _unmanaged_domain(uuid, entry)
            for entry in as_list(raw.get("domains"))
            if (uuid := as_uuid(entry.get("uuid")))
        ),
    )


def _unmanaged_domain(uuid: UUID, raw: Json) -> UnmanagedDomain:
    return UnmanagedDomain(
        uuid=uuid,
        name=as_str(raw.get("name")),
        power_state=as_word(PowerState, raw.get("powerState")) or PowerState.UNKNOWN,
        reason=as_str(raw.get("reason")),
        transient=as_flag(raw.get("transient")) or False,
    )


def _progress(raw: Json) -> MaintenanceProgress | None:
    start = as_time(raw.get("startTime"))
    return MaintenanceProgress(start, as_count(raw.get("remaining"))) if start else None


def _agent_keys(status: HypervisorStatus) -> Json:
    """Return the status as JSON with every key that an agent owns; the value of an unset key is None or empty."""
    capacity, domains, vms = status.capacity, status.domains, status.virtual_machines
    unmanaged, maintenance = status.unmanaged, status.maintenance
    return {
        "observedGeneration": status.observed_generation,
        "leaseNamespace": status.lease_namespace,
        "nodeBootID": status.node_boot_id,
        "agentVersion": status.agent_version,
        "libvirtVersion": status.libvirt_version,
        "qemuVersion": status.qemu_version,
        "capacity": capacity and {"cpus": min(capacity.cpus, INT32_MAX), "memoryMiB": capacity.memory_mib},
        "domains": domains and {"total": domains.total, "running": domains.running},
        "virtualMachines": vms and {"total": vms.total, "running": vms.running, "notReady": vms.not_ready},
        "unmanaged": unmanaged
        and {
            "total": unmanaged.total,
            "running": unmanaged.running,
            "truncated": unmanaged.truncated,
            "domains": [_rendered(domain) for domain in unmanaged.domains] or None,
        },
        "maintenance": maintenance
        and {"startTime": text_of(maintenance.start_time), "remaining": maintenance.remaining},
        "conditions": render_conditions(status.conditions),
    }


def _rendered(domain: UnmanagedDomain) -> Json:
    return without_empty(
        {
            "uuid": str(domain.uuid),
            "name": domain.name,
            "powerState": domain.power_state,
            "reason": domain.reason,
            "transient": domain.transient,
        }
    )

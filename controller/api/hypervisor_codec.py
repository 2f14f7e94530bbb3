"""Parses the Hypervisor object, and renders the agent's part of its status as a patch.

Pure. The rules are those of `codec`: no function raises an exception, a status field that cannot be read counts as
absent, and a spec field that cannot be read is reported.
"""

from __future__ import annotations

from controller.api.codec import as_generation, condition_mapper
from controller.api.hypervisor import Hypervisor, HypervisorStatus, Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.json_mapping import EPOCH, Json, Mapper, as_map, as_text, as_time, words
from controller.api.merge_patch import merge_patch
from controller.api.names import HypervisorConditionType
from controller.api.spec_reader import SpecReader


def parse_hypervisor(raw: Json) -> Hypervisor:
    """Parse an object from the API server. Never raises.

    `misunderstood` of the returned Hypervisor names the spec fields that this version does not understand.
    `maintenance` is among them if its mode is not understood. Every unknown field is among them, because it might
    declare another restriction.
    """
    meta, spec = as_map(raw.get("metadata")), SpecReader(raw.get("spec"))
    maintenance = _maintenance(spec)
    spec.note_others({"maintenance"})
    return Hypervisor(
        name=as_text(meta.get("name")) or "",
        uid=as_text(meta.get("uid")) or "",
        generation=as_generation(meta.get("generation")) or 0,
        resource_version=as_text(meta.get("resourceVersion")) or "",
        created=as_time(meta.get("creationTimestamp")) or EPOCH,
        deleting="deletionTimestamp" in meta,
        maintenance=maintenance,
        misunderstood=" and ".join(spec.misunderstood),
        status=parse_hypervisor_status(raw.get("status")),
    )


def parse_hypervisor_status(raw: object) -> HypervisorStatus:
    """Parse a status. Never raises."""
    return STATUS.read(raw) or HypervisorStatus()


def hypervisor_status_patch(raw_status: Json, new: HypervisorStatus) -> Json | None:
    """Return the merge patch that changes the agent's part of a status to the new one; None if nothing changes.

    The patch never has `runsElsewhere`, which is the manager's.
    """
    wanted = STATUS.write(new)
    del wanted["runsElsewhere"]
    return merge_patch(raw_status, wanted, CONDITION_TYPES)


def _maintenance(spec: SpecReader) -> Maintenance | None:
    """Return `spec.maintenance`. If it has no mode that is understood, return None and note it as not understood."""
    raw = spec.raw.get("maintenance")
    if raw is None:
        return None
    mode = _mode(as_map(raw).get("mode"))
    if mode is None:
        spec.note_even_empty(raw, "maintenance")
        return None
    maintenance = spec.map("maintenance")
    reason = maintenance.value("reason", as_text) or ""
    maintenance.note_others({"mode", "reason"})
    return Maintenance(mode, reason)


_mode = words(MaintenanceMode)


def _complete_runs_elsewhere(values: Json, _raw: Json) -> bool:
    values.setdefault("since", EPOCH)  # an entry prevents a start, and must not get lost
    return True


CONDITION_TYPES = frozenset(HypervisorConditionType)
STATUS = Mapper(
    HypervisorStatus,
    runs_elsewhere=Mapper(RunsElsewhere, _complete_runs_elsewhere),
    conditions=condition_mapper(CONDITION_TYPES),
)

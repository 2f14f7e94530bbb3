"""Parses the object, and renders the status as JSON and as a patch that leaves other writers' keys unchanged.

Pure. No function raises an exception, whatever the JSON is. A status field that cannot be read counts as absent, so
that the next report repairs a damaged status. A spec field that cannot be read is reported, because it might have a
meaning in a newer version.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from uuid import UUID

from controller.api.json_mapping import (
    EPOCH,
    INT32_MAX,
    INT64_MAX,
    Json,
    Mapper,
    as_map,
    as_text,
    as_time,
    as_uuid,
    whole_within,
    words,
)
from controller.api.merge_patch import merge_patch, without_empty
from controller.api.names import CONFIRMED_OFF, HOLD_PREFIX, ConditionType
from controller.api.spec_reader import SpecReader
from controller.api.virtualmachine import (
    BEYOND,
    Condition,
    DesiredPowerState,
    DomainRecord,
    Hold,
    Operation,
    OperationType,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    Status,
    VirtualMachine,
    VmKey,
)

MISSPELLED_HOLD = re.compile(
    r"(?:holds?[./_-]virtsync\.dev|virtsync\.dev[./_-]holds?)(?:[./_-](?P<who>.*))?", re.IGNORECASE
)


def parse(raw: Json) -> VirtualMachine:
    """Parse an object from the API server. Never raises.

    `misunderstood` of the returned VirtualMachine names the spec fields that this version does not understand.
    """
    meta, spec = as_map(raw.get("metadata")), SpecReader(raw.get("spec"))
    annotations = as_map(meta.get("annotations"))
    domain_name, domain_uuid = _domain(spec)
    return VirtualMachine(
        key=VmKey(as_text(meta.get("namespace")) or "", as_text(meta.get("name")) or ""),
        uid=as_text(meta.get("uid")) or "",
        generation=as_generation(meta.get("generation")) or 0,
        resource_version=as_text(meta.get("resourceVersion")) or "",
        created=as_time(meta.get("creationTimestamp")) or EPOCH,
        node_name=as_text(spec.raw.get("nodeName")) or "",
        deleting="deletionTimestamp" in meta,
        domain_name=domain_name,
        domain_uuid=domain_uuid,
        desired=spec.value("powerState", _desired),
        restart_policy=spec.value("restartPolicy", _restart_policy) or RestartPolicy.ALWAYS,
        shutdown=_shutdown(spec.map("shutdown")),
        restart_request=spec.value("restartRequestTime", as_time),
        holds=_holds(annotations, as_map(meta.get("labels"))),
        confirmed_off=as_text(annotations.get(CONFIRMED_OFF)) or "",
        misunderstood=" and ".join(spec.misunderstood),
        status=parse_status(raw.get("status")),
    )


def parse_status(raw: object) -> Status:
    """Parse a status, which is the last report of an agent. Never raises."""
    return STATUS.read(raw) or Status()


def render_status(status: Status) -> Json:
    """Return the status as JSON, without empty fields."""
    return without_empty(STATUS.write(status))


def status_patch(raw: Json, new: Status) -> Json | None:
    """Return the merge patch that changes the status `raw` to the new one; None if nothing changes."""
    return merge_patch(raw, STATUS.write(new), CONDITION_TYPES)


def _domain(spec: SpecReader) -> tuple[str | None, UUID | None]:
    """Return the name and the UUID in `spec.domain`; each is None if it is absent or not understood."""
    domain = spec.map("domain")
    found = domain.value("name", as_text), domain.value("uuid", as_uuid)
    if domain.raw.keys().isdisjoint({"name", "uuid"}):  # it might name the domain in a field of a newer version
        domain.note(domain.raw)
    return found


def _shutdown(shutdown: SpecReader) -> Shutdown:
    """Return `spec.shutdown`. A field that is absent or not understood gets its default."""
    default = Shutdown()
    grace_s = shutdown.value("gracePeriodSeconds", _grace)
    return Shutdown(shutdown.value("mode", _shutdown_mode) or default.mode, grace_s or default.grace_s)


_desired, _restart_policy, _shutdown_mode = words(DesiredPowerState), words(RestartPolicy), words(ShutdownMode)
_grace = whole_within(1, INT32_MAX)
as_generation = whole_within(0, INT64_MAX)


def _holds(annotations: Json, labels: Json) -> tuple[Hold, ...]:
    """Return all holds, also the misspelled ones."""
    found = [_hold(key, why, is_label=False) for key, why in annotations.items()]
    found += [_hold(key, why, is_label=True) for key, why in labels.items()]
    return tuple(sorted(filter(None, found)))


def _hold(key: str, value: object, *, is_label: bool) -> Hold | None:
    """Return the hold that this annotation or label is; None: it is none."""
    why = as_text(value) or ""
    if key.startswith(HOLD_PREFIX) and not is_label:
        return Hold(key.removeprefix(HOLD_PREFIX), why)
    misspelled = MISSPELLED_HOLD.fullmatch(key)
    return Hold(misspelled["who"] or "", why, key, is_label) if misspelled else None


def condition_mapper(types: Collection[str]) -> Mapper[Condition]:
    """Return the mapper of conditions. A condition that has none of these types counts as absent."""

    def complete(values: Json, _raw: Json) -> bool:
        values["status"] = values.get("status") or "Unknown"
        return values.get("type") in types

    return Mapper(Condition, complete)


def _complete_status(values: Json, raw: Json) -> bool:
    if raw.get("lastRestartTime"):
        values.setdefault("last_restart_time", BEYOND)
    return True


def _complete_domain(values: Json, _raw: Json) -> bool:
    return bool(values.get("name") or values.get("uuid") or values.get("bound_by"))


def _complete_operation(values: Json, _raw: Json) -> bool:
    starts = values.get("type") is OperationType.START or "attempt" in values
    if starts:
        values.setdefault("start_time", EPOCH)  # the record of a called start must not get lost
    return True


CONDITION_TYPES = frozenset(ConditionType)
STATUS = Mapper(
    Status,
    _complete_status,
    domain=Mapper(DomainRecord, _complete_domain),
    operation=Mapper(Operation, _complete_operation),
    conditions=condition_mapper(CONDITION_TYPES),
)

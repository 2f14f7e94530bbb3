"""Between the API's JSON and our words, in both directions, with nothing lost.

Pure. What cannot be read is treated as not being there: a status that somebody damaged must heal, not hurt.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from controller.model import (
    Backoff,
    Condition,
    DesiredPowerState,
    DomainRecord,
    LastStop,
    Operation,
    OperationType,
    PowerState,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    Status,
    StopCause,
    VirtualMachine,
    VmKey,
)

HOLD_PREFIX = "hold.virtsync.dev/"
CONFIRMED_OFF = "virtsync.dev/confirmed-off"

Json = dict[str, Any]
W = TypeVar("W", bound=StrEnum)


def parse(raw: Json) -> VirtualMachine:
    """The object that the API server shows; it has validated the spec."""
    meta, spec = raw["metadata"], raw.get("spec") or {}
    annotations: dict[str, str] = meta.get("annotations") or {}
    domain, shutdown = spec.get("domain") or {}, spec.get("shutdown") or {}
    desired = spec.get("powerState")
    return VirtualMachine(
        key=VmKey(meta["namespace"], meta["name"]),
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        resource_version=meta["resourceVersion"],
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        node_name=spec.get("nodeName") or "",
        deleting="deletionTimestamp" in meta,
        domain_name=domain.get("name"),
        domain_uuid=_uuid(domain.get("uuid")),
        desired=DesiredPowerState(desired) if desired else None,
        restart_policy=RestartPolicy(spec.get("restartPolicy", RestartPolicy.ALWAYS)),
        shutdown=Shutdown(
            ShutdownMode(shutdown.get("mode", ShutdownMode.GRACEFUL_THEN_FORCE)),
            shutdown.get("gracePeriodSeconds", Shutdown().grace_s),
        ),
        restart_request=_time(spec.get("restartRequestTime")),
        holds=tuple(sorted((k.removeprefix(HOLD_PREFIX), v) for k, v in annotations.items() if _holds(k))),
        confirmed_off=annotations.get(CONFIRMED_OFF, ""),
        status=parse_status(raw.get("status") or {}),
    )


def parse_status(raw: Json) -> Status:
    """What the last report says."""
    libvirt = raw.get("libvirt") or {}
    return Status(
        observed_generation=raw.get("observedGeneration", -1),
        node_name=raw.get("nodeName") or "",
        node_boot_id=raw.get("nodeBootID") or "",
        host_uuid=_uuid(raw.get("hostUUID")),
        desired=_word(DesiredPowerState, raw.get("desiredPowerState")),
        power_state=_word(PowerState, raw.get("powerState")) or PowerState.UNKNOWN,
        power_state_transition_time=_time(raw.get("powerStateTransitionTime")),
        run_transition_time=_time(raw.get("runTransitionTime")),
        decided_reason=raw.get("decidedReason") or "",
        libvirt_state=libvirt.get("state") or "",
        libvirt_reason=libvirt.get("reason") or "",
        domain=_domain(raw.get("domain")),
        last_stop=_last_stop(raw.get("lastStop")),
        completion_time=_time(raw.get("completionTime")),
        restart_count=raw.get("restartCount") or 0,
        last_restart_time=_time(raw.get("lastRestartTime")),
        operation=_operation(raw.get("operation")),
        backoff=_backoff(raw.get("backoff")),
        conditions=tuple(c for c in map(_condition, raw.get("conditions") or ()) if c),
    )


def render_status(status: Status) -> Json:
    """The status as JSON; what is not there is left out."""
    domain, stop, operation, backoff = status.domain, status.last_stop, status.operation, status.backoff
    return _without_nothing(
        {
            "observedGeneration": status.observed_generation,
            "nodeName": status.node_name,
            "nodeBootID": status.node_boot_id,
            "hostUUID": str(status.host_uuid) if status.host_uuid else None,
            "desiredPowerState": status.desired,
            "powerState": status.power_state,
            "powerStateTransitionTime": _text(status.power_state_transition_time),
            "runTransitionTime": _text(status.run_transition_time),
            "decidedReason": status.decided_reason,
            "libvirt": {"state": status.libvirt_state, "reason": status.libvirt_reason},
            "domain": domain
            and {
                "name": domain.name,
                "uuid": str(domain.uuid) if domain.uuid else None,
                "boundBy": domain.bound_by,
                "id": domain.id,
                "persistent": domain.persistent,
                "autostart": domain.autostart,
            },
            "lastStop": stop and {"cause": stop.cause, "time": _text(stop.time), "message": stop.message},
            "completionTime": _text(status.completion_time),
            "restartCount": status.restart_count,
            "lastRestartTime": _text(status.last_restart_time),
            "operation": operation
            and {
                "type": operation.type,
                "startTime": _text(operation.start_time),
                "deadline": _text(operation.deadline),
                "domainID": operation.domain_id,
                "attempt": operation.attempt,
            },
            "backoff": backoff and {"failures": backoff.failures, "nextAttemptTime": _text(backoff.next_attempt_time)},
            "conditions": [
                {
                    "type": c.type,
                    "status": c.status,
                    "reason": c.reason,
                    "message": c.message,
                    "lastTransitionTime": _text(c.last_transition_time),
                    "observedGeneration": c.observed_generation,
                }
                for c in status.conditions
            ],
        }
    )


def status_patch(raw: Json, new: Status) -> Json | None:
    """The merge patch from the status that is there to the new one, or None when nothing changed.

    A field that ended is null: a merge patch never removes a key that is merely absent, and replaces lists whole.
    """
    return _difference(raw, render_status(new)) or None


def _difference(old: Json, new: Json) -> Json:
    patch: Json = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if inner := _difference(old[key], value):
                patch[key] = inner
        elif old.get(key) != value:
            patch[key] = value
    return patch


def _without_nothing(value: Json) -> Json:
    """Without what is None or empty text; a map that holds nothing is nothing too."""
    kept: Json = {}
    for key, item in value.items():
        cleaned = _without_nothing(item) if isinstance(item, dict) else item
        if cleaned not in (None, "", {}):
            kept[key] = str(cleaned) if isinstance(cleaned, str) else cleaned
    return kept


def _text(time: datetime | None) -> str | None:
    """RFC 3339 in UTC; fractions of a second only where they are not 0."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time else None


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(str(text)) if text else None
    except ValueError:
        return None


def _holds(annotation: str) -> bool:
    return annotation.startswith(HOLD_PREFIX)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _word(words: type[W], text: object) -> W | None:
    """The word, or None: a newer agent may have written one that this one does not know."""
    try:
        return words(str(text)) if text else None
    except ValueError:
        return None


def _domain(raw: Json | None) -> DomainRecord | None:
    if not raw:
        return None
    return DomainRecord(
        name=raw.get("name") or "",
        uuid=_uuid(raw.get("uuid")),
        bound_by=raw.get("boundBy") or "",
        id=_whole(raw.get("id")),
        persistent=raw.get("persistent"),
        autostart=raw.get("autostart"),
    )


def _last_stop(raw: Json | None) -> LastStop | None:
    time = _time(raw.get("time")) if raw else None
    if not raw or not time:
        return None
    return LastStop(_word(StopCause, raw.get("cause")) or StopCause.UNKNOWN, time, raw.get("message") or "")


def _operation(raw: Json | None) -> Operation | None:
    if not raw:
        return None
    kind = _word(OperationType, raw.get("type"))
    start, deadline = _time(raw.get("startTime")), _time(raw.get("deadline"))
    attempt = _whole(raw.get("attempt"))
    if kind is None or start is None or (deadline is None and attempt is None):
        return None
    return Operation(kind, start, deadline, _whole(raw.get("domainID")), attempt)


def _backoff(raw: Json | None) -> Backoff | None:
    time = _time(raw.get("nextAttemptTime")) if raw else None
    return Backoff(raw.get("failures") or 0, time) if raw and time else None


def _condition(raw: Json) -> Condition | None:
    time = _time(raw.get("lastTransitionTime"))
    if not time:
        return None
    return Condition(
        type=raw.get("type") or "",
        status=raw.get("status") or "Unknown",
        reason=raw.get("reason") or "",
        message=raw.get("message") or "",
        last_transition_time=time,
        observed_generation=raw.get("observedGeneration", 0),
    )

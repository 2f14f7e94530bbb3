"""Parses the object, and renders the status as JSON and as a patch that leaves other writers' keys unchanged.

Pure. No function raises an exception, whatever the JSON is. A status field that cannot be read counts as absent, so
that the next report repairs a damaged status. A spec field that cannot be read is reported, because it might have a
meaning in a newer version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from controller.api.clock import api_time
from controller.api.names import CONFIRMED_OFF, HOLD_PREFIX, ConditionType
from controller.api.text import sanitized
from controller.api.virtualmachine import (
    BEYOND,
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

MISSPELLED_HOLD = re.compile(
    r"(?:holds?[./_-]virtsync\.dev|virtsync\.dev[./_-]holds?)(?:[./_-](?P<who>.*))?", re.IGNORECASE
)
LAST_YEAR = 9000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
CONDITIONS_LIMIT = 16
"""The maximum number of conditions in a status, as in the CRD."""
QUOTE_LIMIT = 80
"""The maximum length in bytes of each value that `misunderstood` quotes."""

Json = dict[str, Any]
W = TypeVar("W", bound=StrEnum)


def parse(raw: Json) -> VirtualMachine:
    """Parse an object from the API server. Never raises.

    `misunderstood` of the returned VirtualMachine names the spec fields that this version does not understand.
    """
    meta, spec = as_map(raw.get("metadata")), SpecReader(raw.get("spec"))
    annotations = as_map(meta.get("annotations"))
    domain_name, domain_uuid = spec.domain()
    return VirtualMachine(
        key=VmKey(as_str(meta.get("namespace")), as_str(meta.get("name"))),
        uid=as_str(meta.get("uid")),
        generation=as_whole(meta.get("generation"), 0, INT64_MAX) or 0,
        resource_version=as_str(meta.get("resourceVersion")),
        created=as_time(meta.get("creationTimestamp")) or EPOCH,
        node_name=as_str(spec.raw.get("nodeName")),
        deleting="deletionTimestamp" in meta,
        domain_name=domain_name,
        domain_uuid=domain_uuid,
        desired=spec.word(DesiredPowerState, "powerState"),
        restart_policy=spec.word(RestartPolicy, "restartPolicy") or RestartPolicy.ALWAYS,
        shutdown=spec.shutdown(),
        restart_request=spec.restart_request(),
        holds=_holds(annotations, as_map(meta.get("labels"))),
        confirmed_off=as_str(annotations.get(CONFIRMED_OFF)),
        misunderstood=" and ".join(spec.misunderstood),
        status=parse_status(raw.get("status")),
    )


class SpecReader:
    """Reads the fields of one spec, and collects the fields that this version does not understand."""

    def __init__(self, raw: object) -> None:
        self.misunderstood: list[str] = []
        """A phrase for each field that is not understood, such as `spec.powerState "Hibernated"`."""
        self.raw = self._map({"spec": raw}, "spec", "spec")

    def word(self, words: type[W], field: str) -> W | None:
        """Return the value of this enum field of the spec; None if the field is absent or not understood."""
        return self._word(words, self.raw, field, f"spec.{field}")

    def shutdown(self) -> Shutdown:
        """Return `spec.shutdown`. A field that is absent or not understood gets its default."""
        raw, default = self._map(self.raw, "shutdown", "spec.shutdown"), Shutdown()
        grace_s = as_whole(raw.get("gracePeriodSeconds"), 1, INT32_MAX)
        if grace_s is None:
            self.note_unless_empty(raw.get("gracePeriodSeconds"), "spec.shutdown.gracePeriodSeconds")
        mode = self._word(ShutdownMode, raw, "mode", "spec.shutdown.mode")
        return Shutdown(mode or default.mode, grace_s or default.grace_s)

    def restart_request(self) -> datetime | None:
        """Return `spec.restartRequestTime`; None if it is absent or not understood."""
        text = self.raw.get("restartRequestTime")
        time = as_time(text)
        if time is None:
            self.note_unless_empty(text, "spec.restartRequestTime")
        return time

    def domain(self) -> tuple[str | None, UUID | None]:
        """Return the name and the UUID in `spec.domain`; each is None if it is absent or not understood."""
        raw = self._map(self.raw, "domain", "spec.domain")
        name, uuid = raw.get("name"), as_uuid(raw.get("uuid"))
        if not isinstance(name, str):
            self.note_unless_empty(name, "spec.domain.name")
        if uuid is None:
            self.note_unless_empty(raw.get("uuid"), "spec.domain.uuid")
        if raw.keys().isdisjoint({"name", "uuid"}):  # it might name the domain in a field of a newer version
            self.note_unless_empty(raw, "spec.domain")
        return name if isinstance(name, str) else None, uuid

    def _word(self, words: type[W], raw: Json, field: str, where: str) -> W | None:
        word = as_word(words, raw.get(field))
        if word is None:
            self.note_unless_empty(raw.get(field), where)
        return word

    def _map(self, raw: Json, field: str, where: str) -> Json:
        value = raw.get(field)
        if not isinstance(value, dict):
            self.note_unless_empty(value, where)
        return as_map(value)

    def note_unless_empty(self, value: object, where: str) -> None:
        """Collect this field as not understood, unless its value is empty."""
        if value not in (None, "", {}):
            self.note(value, where)

    def note(self, value: object, where: str) -> None:
        """Collect this field as not understood."""
        self.misunderstood.append(f"{where} {sanitized(json.dumps(value, ensure_ascii=False), QUOTE_LIMIT)}")

    def note_unknown(self, raw: Json, known: Set[str], where: str) -> None:
        """Collect the fields of this part of the spec that are not known and not empty."""
        for field, value in raw.items():
            if field not in known:
                self.note_unless_empty(value, f"{where}.{sanitized(field, QUOTE_LIMIT)}")


def parse_status(raw: object) -> Status:
    """Parse a status, which is the last report of an agent. Never raises."""
    raw = as_map(raw)
    libvirt = as_map(raw.get("libvirt"))
    restarted = raw.get("lastRestartTime")
    observed = as_whole(raw.get("observedGeneration"), -1, INT64_MAX)
    return Status(
        observed_generation=-1 if observed is None else observed,
        node_name=as_str(raw.get("nodeName")),
        node_boot_id=as_str(raw.get("nodeBootID")),
        host_uuid=as_uuid(raw.get("hostUUID")),
        desired=as_word(DesiredPowerState, raw.get("desiredPowerState")),
        power_state=as_word(PowerState, raw.get("powerState")) or PowerState.UNKNOWN,
        power_state_transition_time=as_time(raw.get("powerStateTransitionTime")),
        run_transition_time=as_time(raw.get("runTransitionTime")),
        decided_reason=as_str(raw.get("decidedReason")),
        libvirt_state=as_str(libvirt.get("state")),
        libvirt_reason=as_str(libvirt.get("reason")),
        domain=_domain(as_map(raw.get("domain"))),
        last_stop=_last_stop(as_map(raw.get("lastStop"))),
        completion_time=as_time(raw.get("completionTime")),
        restart_count=as_count(raw.get("restartCount")),
        last_restart_time=as_time(restarted) or (BEYOND if restarted else None),
        operation=_operation(as_map(raw.get("operation"))),
        backoff=_backoff(as_map(raw.get("backoff"))),
        conditions=parse_conditions(raw.get("conditions"), ConditionType),
    )


def render_status(status: Status) -> Json:
    """Return the status as JSON, without empty fields."""
    return without_empty(_every_key(status))


def status_patch(raw: Json, new: Status) -> Json | None:
    """Return the merge patch that changes the status `raw` to the new one; None if nothing changes.

    At each level the patch has only keys that this version of the agent owns, so that the keys of newer agents and of
    other writers stay unchanged. To remove a key of its own, the patch sets it to null, as a merge patch requires. A
    merge patch replaces a list as a whole, so the new list also has the conditions of other writers.
    """
    wanted = _every_key(new)
    wanted["conditions"] = with_foreign_conditions(raw.get("conditions"), wanted["conditions"], ConditionType)
    return difference(raw, wanted) or None


def _every_key(status: Status) -> Json:
    """Return the status as JSON with every key that an agent owns; the value of an unset key is None or empty."""
    domain, stop, operation, backoff = status.domain, status.last_stop, status.operation, status.backoff
    return {
        "observedGeneration": status.observed_generation,
        "nodeName": status.node_name,
        "nodeBootID": status.node_boot_id,
        "hostUUID": str(status.host_uuid) if status.host_uuid else None,
        "desiredPowerState": status.desired,
        "powerState": status.power_state,
        "powerStateTransitionTime": text_of(status.power_state_transition_time),
        "runTransitionTime": text_of(status.run_transition_time),
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
        "lastStop": stop and {"cause": stop.cause, "time": text_of(stop.time), "message": stop.message},
        "completionTime": text_of(status.completion_time),
        "restartCount": min(status.restart_count, INT32_MAX),
        "lastRestartTime": text_of(status.last_restart_time),
        "operation": operation
        and {
            "type": operation.type,
            "startTime": text_of(operation.start_time),
            "deadline": text_of(operation.deadline),
            "domainID": operation.domain_id,
            "attempt": operation.attempt and min(operation.attempt, INT32_MAX),
        },
        "backoff": backoff
        and {
            "failures": min(backoff.failures, INT32_MAX),
            "nextAttemptTime": text_of(backoff.next_attempt_time),
        },
        "conditions": render_conditions(status.conditions),
    }


def render_conditions(conditions: tuple[Condition, ...]) -> list[Json]:
    """Return the conditions as JSON."""
    return [
        {
            "type": c.type,
            "status": c.status,
            "reason": c.reason,
            "message": c.message,
            "lastTransitionTime": text_of(c.last_transition_time),
            "observedGeneration": c.observed_generation,
        }
        for c in conditions
    ]


def with_foreign_conditions(old: object, ours: list[Json], types: type[StrEnum]) -> list[Json]:
    """Return our conditions, followed by the old conditions of other types up to `CONDITIONS_LIMIT`.

    Returns the old list itself if it has exactly these conditions, in whatever order.
    """
    found = old if isinstance(old, list) else []
    others = [c for c in found if isinstance(c, dict) and as_str(c.get("type")) not in {"", *types}]
    wanted = [*ours, *others[: CONDITIONS_LIMIT - len(ours)]]
    same = len(found) == len(wanted) and all(condition in found for condition in wanted)
    return found if same else wanted


def difference(old: Json, new: Json) -> Json:
    """Return the merge patch that sets the keys of `new` to their values, and changes no other key."""
    patch: Json = {}
    for key, value in new.items():
        before, after = old.get(key), without_empty(value) if isinstance(value, dict) else value
        if after in (None, "", {}):
            if before is not None:
                patch[key] = None
        elif isinstance(value, dict) and isinstance(before, dict):
            if inner := difference(before, value):
                patch[key] = inner
        elif before != after:
            patch[key] = _plain(after)
    return patch


def without_empty(value: Json) -> Json:
    """Return the map without keys whose value is None, an empty text, or a map that is or becomes empty."""
    kept: Json = {}
    for key, item in value.items():
        cleaned = without_empty(item) if isinstance(item, dict) else item
        if cleaned not in (None, "", {}):
            kept[key] = _plain(cleaned)
    return kept


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def text_of(time: datetime | None) -> str | None:
    """Return the time as the API writes it."""
    return api_time(time) if time else None


def as_time(text: object) -> datetime | None:
    """Parse a time, and return it in UTC; None if it cannot be read, or is not between the years 1970 and 9000.

    The limits exist because calculations with times outside of them might overflow.
    """
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return time if EPOCH.year <= time.year <= LAST_YEAR else None


def as_uuid(text: object) -> UUID | None:
    """Return the UUID; None if it cannot be read."""
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _holds(annotations: Json, labels: Json) -> tuple[tuple[str, str], ...]:
    """Return who holds the VM, and why. A misspelled hold also holds the VM, and its text has the right spelling."""
    right = [(key.removeprefix(HOLD_PREFIX), why) for key, why in annotations.items() if key.startswith(HOLD_PREFIX)]
    others = [*labels.items(), *((key, why) for key, why in annotations.items() if not key.startswith(HOLD_PREFIX))]
    wrong = [(_misspelled(found["who"]), why) for key, why in others if (found := MISSPELLED_HOLD.fullmatch(key))]
    return tuple(sorted((who, as_str(why)) for who, why in (*right, *wrong)))


def _misspelled(who: str | None) -> str:
    spelling = f"write it as the annotation {HOLD_PREFIX}{who or '<your name>'}"
    return f"{who or 'nobody named'}; {spelling}"


def as_str(value: object) -> str:
    """Return the text; an empty text if the value is not a text."""
    return value if isinstance(value, str) else ""


def as_map(value: object) -> Json:
    """Return the map; an empty map if the value is not a map."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Json]:
    """Return the maps of a list of maps."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_flag(value: object) -> bool | None:
    """Return the flag; None if the value is neither true nor false."""
    return value if isinstance(value, bool) else None


def as_whole(value: object, least: int, most: int = INT32_MAX) -> int | None:
    """Return the value if it is a whole number within these limits of the API, otherwise None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else None


def as_count(value: object) -> int:
    """Return the number; 0 if the value is not a number from 0 to 2^31 - 1."""
    return as_whole(value, 0) or 0


def as_word(words: type[W], text: object) -> W | None:
    """Return the enum member with this text; None if there is none, as for a text of a newer version."""
    try:
        return words(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _domain(raw: Json) -> DomainRecord | None:
    name, uuid = as_str(raw.get("name")), as_uuid(raw.get("uuid"))
    if not name and not uuid:
        return None
    return DomainRecord(
        name=name,
        uuid=uuid,
        bound_by=as_str(raw.get("boundBy")),
        id=as_whole(raw.get("id"), 0),
        persistent=as_flag(raw.get("persistent")),
        autostart=as_flag(raw.get("autostart")),
    )


def _last_stop(raw: Json) -> LastStop | None:
    time = as_time(raw.get("time"))
    if not time:
        return None
    return LastStop(as_word(StopCause, raw.get("cause")) or StopCause.UNKNOWN, time, as_str(raw.get("message")))


def _operation(raw: Json) -> Operation | None:
    kind = as_word(OperationType, raw.get("type"))
    start, deadline = as_time(raw.get("startTime")), as_time(raw.get("deadline"))
    attempt = as_whole(raw.get("attempt"), 1)
    starts = kind is OperationType.START or attempt is not None
    if starts and start is None:
        start = EPOCH  # the record of a called start must not get lost, even if its time cannot be read
    if kind is None or start is None or (deadline is None and not starts):
        return None
    return Operation(kind, start, deadline, as_whole(raw.get("domainID"), 0), attempt)


def _backoff(raw: Json) -> Backoff | None:
    time = as_time(raw.get("nextAttemptTime"))
    return Backoff(as_count(raw.get("failures")), time) if time else None


def parse_conditions(raw: object, types: type[StrEnum]) -> tuple[Condition, ...]:
    """Return the conditions that have one of these types."""
    read = [_condition(as_map(condition), types) for condition in (raw if isinstance(raw, list) else [])]
    return tuple(condition for condition in read if condition)


def _condition(raw: Json, types: type[StrEnum]) -> Condition | None:
    time = as_time(raw.get("lastTransitionTime"))
    if not time or as_word(types, raw.get("type")) is None:
        return None
    return Condition(
        type=as_str(raw.get("type")),
        status=as_str(raw.get("status")) or "Unknown",
        reason=as_str(raw.get("reason")),
        message=as_str(raw.get("message")),
        last_transition_time=time,
        observed_generation=as_whole(raw.get("observedGeneration"), 0, INT64_MAX) or 0,
    )

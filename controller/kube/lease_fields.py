"""Reads the fields of a Lease that its holder writes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.json_mapping import INT32_MAX, Json, as_map, as_text, whole_within
from controller.api.names import GROUP

LOCK = f"{GROUP}/lock"
"""The annotation that contains the holder of the Lease and its host lock, as "HOLDER LOCK". If the holder was changed
in another way, such as with kubectl, the annotation still contains an earlier holder, and is ignored."""

_duration_s = whole_within(1, INT32_MAX)


@dataclass(frozen=True, slots=True)
class LeaseFields:
    """What the holder of a Lease has written into it."""

    holder: str
    """Empty: nobody holds the Lease."""
    renewed: str
    """The renew time as text, by the clock of the holder; empty: never renewed."""
    duration_s: int | None
    lock: str
    """The host lock that this holder had when it took the Lease; empty: not known."""


def lease_fields(raw: Json) -> LeaseFields:
    """Return the fields of a Lease. A field that cannot be read counts as missing."""
    spec = as_map(raw.get("spec"))
    holder = as_text(spec.get("holderIdentity")) or ""
    annotation = as_text(as_map(as_map(raw.get("metadata")).get("annotations")).get(LOCK)) or ""
    lock_holder, _, lock = annotation.partition(" ")
    return LeaseFields(
        holder=holder,
        renewed=as_text(spec.get("renewTime")) or "",
        duration_s=_duration_s(spec.get("leaseDurationSeconds")),
        lock=lock if lock_holder == holder else "",
    )

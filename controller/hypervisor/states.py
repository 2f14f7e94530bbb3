"""libvirt's numbers for states and reasons, in its words and in ours. Total: a number it lacks is passed through.

Source: enum virDomainState and the virDomain*Reason enums of libvirt-domain.h.
"""

from __future__ import annotations

import libvirt

from controller.model import Phase

STATES = (
    "NOSTATE",
    "RUNNING",
    "BLOCKED",
    "PAUSED",
    "SHUTDOWN",
    "SHUTOFF",
    "CRASHED",
    "PMSUSPENDED",
)


def _reasons(state: str) -> dict[int, str]:
    prefix = f"VIR_DOMAIN_{state}_"
    return {
        number: name.removeprefix(prefix)
        for name in dir(libvirt)
        if name.startswith(prefix) and isinstance(number := getattr(libvirt, name), int)
    }


REASONS = {state: _reasons(state) for state in STATES}
"""Reason numbers by state, as this libvirt-python knows them; an older one knows fewer."""

BUSY = {"SAVE", "DUMP", "SNAPSHOT", "MIGRATION", "POSTCOPY", "SHUTTING_DOWN"}
PAUSES = {
    "STARTING_UP": Phase.STARTING,
    "IOERROR": Phase.PAUSED_IO_ERROR,
    "WATCHDOG": Phase.PAUSED_WATCHDOG,
    "POSTCOPY_FAILED": Phase.POST_COPY_FAILED,
    "CRASHED": Phase.CRASHED_KEPT,
    **dict.fromkeys(BUSY, Phase.PAUSED_BUSY),
}
PHASES = {
    "RUNNING": Phase.RUNNING,
    "BLOCKED": Phase.RUNNING,
    "SHUTDOWN": Phase.SHUTTING_DOWN,
    "CRASHED": Phase.CRASHED_KEPT,
    "PMSUSPENDED": Phase.SUSPENDED,
}


def words(state: int, reason: int) -> tuple[str, str]:
    """libvirt's own words for its numbers."""
    name = STATES[state] if 0 <= state < len(STATES) else f"STATE_{state}"
    return name, REASONS.get(name, {}).get(reason, f"REASON_{reason}")


def phase(state: str, reason: str, *, managed_save: bool) -> Phase:
    """What a domain is doing, from libvirt's words; `managed_save` is asked only of a domain that is off."""
    if state == "SHUTOFF":
        if managed_save:
            return Phase.SAVED
        return Phase.CRASHED_OFF if reason == "CRASHED" else Phase.STOPPED
    if state == "PAUSED":
        return PAUSES.get(reason, Phase.PAUSED)
    return PHASES.get(state, Phase.UNKNOWN)

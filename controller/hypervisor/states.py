"""libvirt's numbers for states and reasons, in its words and in ours. Total: a number it lacks is passed through.

Source: enum virDomainState and the virDomain*Reason enums of libvirt-domain.h. The words stand here rather than being
read from libvirt-python: it mixes them with flags (VIR_DOMAIN_SHUTDOWN_SIGNAL), and older builds of it lack some.
"""

from __future__ import annotations

from controller.policy.view import Phase

REASONS = {
    "NOSTATE": ("UNKNOWN",),
    "RUNNING": (
        "UNKNOWN",
        "BOOTED",
        "MIGRATED",
        "RESTORED",
        "FROM_SNAPSHOT",
        "UNPAUSED",
        "MIGRATION_CANCELED",
        "SAVE_CANCELED",
        "WAKEUP",
        "CRASHED",
        "POSTCOPY",
        "POSTCOPY_FAILED",
    ),
    "BLOCKED": ("UNKNOWN",),
    "PAUSED": (
        "UNKNOWN",
        "USER",
        "MIGRATION",
        "SAVE",
        "DUMP",
        "IOERROR",
        "WATCHDOG",
        "FROM_SNAPSHOT",
        "SHUTTING_DOWN",
        "SNAPSHOT",
        "CRASHED",
        "STARTING_UP",
        "POSTCOPY",
        "POSTCOPY_FAILED",
        "API_ERROR",
    ),
    "SHUTDOWN": ("UNKNOWN", "USER"),
    "SHUTOFF": (
        "UNKNOWN",
        "SHUTDOWN",
        "DESTROYED",
        "CRASHED",
        "MIGRATED",
        "SAVED",
        "FAILED",
        "FROM_SNAPSHOT",
        "DAEMON",
    ),
    "CRASHED": ("UNKNOWN", "PANICKED"),
    "PMSUSPENDED": ("UNKNOWN",),
}
"""Each state's reasons, both in the order of their numbers."""

STATES = tuple(REASONS)

PLAIN = {"UNKNOWN", "USER", "FROM_SNAPSHOT", "API_ERROR"}
BUSY = {"SAVE", "DUMP", "SNAPSHOT", "MIGRATION", "POSTCOPY", "SHUTTING_DOWN"}
PAUSES = {
    "STARTING_UP": Phase.STARTING,
    "IOERROR": Phase.PAUSED_IO_ERROR,
    "WATCHDOG": Phase.PAUSED_WATCHDOG,
    "POSTCOPY_FAILED": Phase.POST_COPY_FAILED,
    "CRASHED": Phase.CRASHED_KEPT,
    **dict.fromkeys(PLAIN, Phase.PAUSED),
    **dict.fromkeys(BUSY, Phase.PAUSED_BUSY),
}
"""A pause for a reason that this table lacks may be anybody's: it is Unknown, and nothing is done about it."""
PHASES = {
    "RUNNING": Phase.RUNNING,
    "BLOCKED": Phase.RUNNING,
    "SHUTDOWN": Phase.SHUTTING_DOWN,
    "CRASHED": Phase.CRASHED_KEPT,
    "PMSUSPENDED": Phase.SUSPENDED,
}


def words(state: int, reason: int) -> tuple[str, str]:
    """libvirt's own words for its numbers."""
    state_word = STATES[state] if 0 <= state < len(STATES) else f"STATE_{state}"
    reasons = REASONS.get(state_word, ())
    return state_word, reasons[reason] if 0 <= reason < len(reasons) else f"REASON_{reason}"


def phase(state: str, reason: str, *, managed_save: bool) -> Phase:
    """What a domain is doing, from libvirt's words; `managed_save` is asked only of a domain that is off."""
    if state == "SHUTOFF":
        if managed_save:
            return Phase.SAVED
        return Phase.CRASHED_OFF if reason == "CRASHED" else Phase.STOPPED
    if state == "PAUSED":
        return PAUSES.get(reason, Phase.UNKNOWN)
    return PHASES.get(state, Phase.UNKNOWN)

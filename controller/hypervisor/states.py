"""Translates libvirt's numbers for states and reasons into words, and the words into a phase. Accepts unknown numbers.

Source: enum virDomainState and the virDomain*Reason enums of libvirt-domain.h. The words are not read from
libvirt-python, because some flags there have similar names (VIR_DOMAIN_SHUTDOWN_SIGNAL), and older builds lack some
words.
"""

from __future__ import annotations

from controller.api.libvirt_words import OffReason, PauseReason, State
from controller.policy.view import Phase

REASONS: dict[str, tuple[str, ...]] = {
    State.NOSTATE: ("UNKNOWN",),
    State.RUNNING: (
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
    State.BLOCKED: ("UNKNOWN",),
    State.PAUSED: tuple(PauseReason),
    State.SHUTDOWN: ("UNKNOWN", "USER"),
    State.SHUTOFF: tuple(OffReason),
    State.CRASHED: ("UNKNOWN", "PANICKED"),
    State.PMSUSPENDED: ("UNKNOWN",),
}
"""The reasons of each state, in the order of libvirt's numbers."""

STATES = tuple(State)

PLAIN = {PauseReason.UNKNOWN, PauseReason.USER, PauseReason.FROM_SNAPSHOT, PauseReason.API_ERROR}
BUSY = {
    PauseReason.SAVE,
    PauseReason.DUMP,
    PauseReason.SNAPSHOT,
    PauseReason.MIGRATION,
    PauseReason.POSTCOPY,
    PauseReason.SHUTTING_DOWN,
}
PAUSES: dict[str, Phase] = {
    PauseReason.STARTING_UP: Phase.STARTING,
    PauseReason.IOERROR: Phase.PAUSED_IO_ERROR,
    PauseReason.WATCHDOG: Phase.PAUSED_WATCHDOG,
    PauseReason.POSTCOPY_FAILED: Phase.POST_COPY_FAILED,
    PauseReason.CRASHED: Phase.CRASHED_KEPT,
    **dict.fromkeys(PLAIN, Phase.PAUSED),
    **dict.fromkeys(BUSY, Phase.PAUSED_BUSY),
}
"""The phase of a paused domain for each reason. For any other reason, it is unknown who paused the domain, so the phase
is UNKNOWN and the agent does nothing."""
RUNS: dict[str, Phase] = {"POSTCOPY_FAILED": Phase.POST_COPY_FAILED_RUNNING}
"""The phase of a running domain for each reason that matters. For any other reason, the phase is RUNNING."""
PHASES: dict[str, Phase] = {
    State.BLOCKED: Phase.RUNNING,
    State.SHUTDOWN: Phase.SHUTTING_DOWN,
    State.CRASHED: Phase.CRASHED_KEPT,
    State.PMSUSPENDED: Phase.SUSPENDED,
}


def words(state: int, reason: int) -> tuple[str, str]:
    """Return libvirt's words for a state and a reason, or STATE_n and REASON_n for unknown numbers."""
    state_word = STATES[state] if 0 <= state < len(STATES) else f"STATE_{state}"
    reasons = REASONS.get(state_word, ())
    return state_word, reasons[reason] if 0 <= reason < len(reasons) else f"REASON_{reason}"


def phase(state: str, reason: str, *, managed_save: bool) -> Phase:
    """Return the phase of a domain with this state and reason. `managed_save` matters only if the domain is off."""
    if state == State.SHUTOFF:
        if managed_save:
            return Phase.SAVED
        return Phase.CRASHED_OFF if reason == OffReason.CRASHED else Phase.STOPPED
    if state == State.RUNNING:
        return RUNS.get(reason, Phase.RUNNING)
    if state == State.PAUSED:
        return PAUSES.get(reason, Phase.UNKNOWN)
    return PHASES.get(state, Phase.UNKNOWN)

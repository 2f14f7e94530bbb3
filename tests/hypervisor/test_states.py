"""libvirt's states and reasons: every one that it names has its word and its phase, and no other is guessed at."""

import libvirt
import pytest

from controller.hypervisor import states
from controller.policy.view import Phase

# The other way round than the code has it, and without "the others".
TABLE = {
    Phase.UNKNOWN: ["NOSTATE/UNKNOWN"],
    Phase.RUNNING: [f"RUNNING/{reason}" for reason in states.REASONS["RUNNING"] if reason != "POSTCOPY_FAILED"]
    + ["BLOCKED/UNKNOWN"],
    Phase.STARTING: ["PAUSED/STARTING_UP"],
    Phase.PAUSED: ["PAUSED/UNKNOWN", "PAUSED/USER", "PAUSED/FROM_SNAPSHOT", "PAUSED/API_ERROR"],
    Phase.PAUSED_BUSY: [
        "PAUSED/SAVE",
        "PAUSED/DUMP",
        "PAUSED/SNAPSHOT",
        "PAUSED/MIGRATION",
        "PAUSED/POSTCOPY",
        "PAUSED/SHUTTING_DOWN",
    ],
    Phase.PAUSED_IO_ERROR: ["PAUSED/IOERROR"],
    Phase.PAUSED_WATCHDOG: ["PAUSED/WATCHDOG"],
    Phase.POST_COPY_FAILED: ["PAUSED/POSTCOPY_FAILED"],
    Phase.POST_COPY_FAILED_RUNNING: ["RUNNING/POSTCOPY_FAILED"],
    Phase.CRASHED_KEPT: ["PAUSED/CRASHED", "CRASHED/UNKNOWN", "CRASHED/PANICKED"],
    Phase.SHUTTING_DOWN: ["SHUTDOWN/UNKNOWN", "SHUTDOWN/USER"],
    Phase.SUSPENDED: ["PMSUSPENDED/UNKNOWN"],
    Phase.CRASHED_OFF: ["SHUTOFF/CRASHED"],
    Phase.STOPPED: [
        "SHUTOFF/UNKNOWN",
        "SHUTOFF/SHUTDOWN",
        "SHUTOFF/DESTROYED",
        "SHUTOFF/MIGRATED",
        "SHUTOFF/SAVED",
        "SHUTOFF/FAILED",
        "SHUTOFF/FROM_SNAPSHOT",
        "SHUTOFF/DAEMON",
    ],
}
EXPECTED = {pair: phase for phase, pairs in TABLE.items() for pair in pairs}

# Names of other enums that begin as the names of reasons do.
NO_REASONS = {
    "SHUTDOWN_DEFAULT",
    "SHUTDOWN_ACPI_POWER_BTN",
    "SHUTDOWN_GUEST_AGENT",
    "SHUTDOWN_INITCTL",
    "SHUTDOWN_SIGNAL",
    "SHUTDOWN_PARAVIRT",
    "PMSUSPENDED_DISK_UNKNOWN",
}


def constants(prefix: str) -> dict[str, int]:
    """libvirt's own numbers, by name without the prefix."""
    names = (name for name in dir(libvirt) if name.startswith(prefix))
    return {name.removeprefix(prefix): number for name in names if isinstance(number := getattr(libvirt, name), int)}


STATE_NUMBERS = {state: getattr(libvirt, f"VIR_DOMAIN_{state}") for state in states.STATES}
PAIRS = [
    (state, reason, STATE_NUMBERS[state], number)
    for state in states.STATES
    for reason, number in constants(f"VIR_DOMAIN_{state}_").items()
    if f"{state}_{reason}" not in NO_REASONS
]


def test_every_state_that_libvirt_names_is_known() -> None:
    assert sorted(STATE_NUMBERS.values()) == list(range(len(states.STATES)))
    # Every state is one word and has the reason UNKNOWN: so a new one shows by its name.
    names = constants("VIR_DOMAIN_")
    assert {name for name in names if "_" not in name and f"{name}_UNKNOWN" in names} == set(states.STATES)


@pytest.mark.parametrize(("state", "reason", "state_number", "number"), PAIRS, ids=str)
def test_a_reason_that_libvirt_names_has_its_own_word_and_a_phase(
    state: str, reason: str, state_number: int, number: int
) -> None:
    words = states.words(state_number, number)
    assert words == (state, reason)
    assert states.phase(*words, managed_save=False) is EXPECTED["/".join(words)]


@pytest.mark.parametrize(("state", "reason", "state_number", "number"), PAIRS, ids=str)
def test_what_libvirt_says_is_running_or_paused_is_reported_so(
    state: str, reason: str, state_number: int, number: int
) -> None:
    phase = states.phase(*states.words(state_number, number), managed_save=False)
    if state in {"RUNNING", "PAUSED"} and phase not in {Phase.STARTING, Phase.CRASHED_KEPT}:
        assert phase.power_state.upper() == state, reason


def test_every_word_is_in_the_table() -> None:
    assert {f"{state}/{reason}" for state, reasons in states.REASONS.items() for reason in reasons} == set(EXPECTED)


@pytest.mark.parametrize("reason", states.REASONS["SHUTOFF"])
def test_a_domain_with_a_saved_memory_is_saved_whatever_the_reason(reason: str) -> None:
    assert states.phase("SHUTOFF", reason, managed_save=True) is Phase.SAVED


@pytest.mark.parametrize(
    ("numbers", "words", "phase"),
    [
        ((9, 7), ("STATE_9", "REASON_7"), Phase.UNKNOWN),
        ((-1, -1), ("STATE_-1", "REASON_-1"), Phase.UNKNOWN),
        ((0, 5), ("NOSTATE", "REASON_5"), Phase.UNKNOWN),
        # Whoever pauses for a reason that nobody knows yet may have a good one.
        ((3, 77), ("PAUSED", "REASON_77"), Phase.UNKNOWN),
        # These are what they are, for any reason.
        ((1, 77), ("RUNNING", "REASON_77"), Phase.RUNNING),
        ((4, 2), ("SHUTDOWN", "REASON_2"), Phase.SHUTTING_DOWN),
        ((5, 77), ("SHUTOFF", "REASON_77"), Phase.STOPPED),
        ((6, 77), ("CRASHED", "REASON_77"), Phase.CRASHED_KEPT),
        ((7, -1), ("PMSUSPENDED", "REASON_-1"), Phase.SUSPENDED),
    ],
)
def test_a_number_that_libvirt_does_not_name_is_passed_through(
    numbers: tuple[int, int], words: tuple[str, str], phase: Phase
) -> None:
    assert states.words(*numbers) == words
    assert states.phase(*words, managed_save=False) is phase

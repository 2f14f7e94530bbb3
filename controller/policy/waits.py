"""The wait settings of the policy, for drift correction, starts and stops. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.setting import Duration, Section, Whole, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The waits, in seconds. The constructor raises ValueError with a message if two of them contradict each other."""

    settle_power_s: float = setting(
        "--settle-power",
        Section.DRIFT,
        Duration(),
        "How long to wait before correcting a start or stop that somebody else made; 0: correct at once.",
        default="10s",
    )
    settle_pause_s: float | None = setting(
        "--settle-pause",
        Section.DRIFT,
        Duration(never=True),
        "How long to wait before correcting a pause, a suspended guest or a saved VM, because a backup may cause these;"
        " never: do not correct them.",
        default="15m",
    )
    brake_count: int = setting(
        "--brake-count",
        Section.DRIFT,
        Whole(2, 1000),
        "If this many VMs stop within --brake-window because their guests powered off, or somebody stopped or saved"
        " them, assume that the host is shutting down: start only VMs that the user has just asked to start or restart"
        " (a circuit breaker).",
        default="3",
    )
    brake_window_s: float = setting(
        "--brake-window",
        Section.DRIFT,
        Duration(),
        "The time within which the --brake-count stops must occur.",
        default="60s",
    )
    brake_hold_s: float = setting(
        "--brake-hold",
        Section.DRIFT,
        Duration(),
        "How long the brake (--brake-count) stays on after the last of these stops; 0: no brake.",
        default="120s",
    )
    backoff_first_s: float = setting(
        "--backoff-first",
        Section.STARTS,
        Duration(),
        "The wait before the next start of a VM that failed to start or keeps stopping, before the next resume after"
        " an I/O error, and before the next attempt of any other action that failed; doubled after each"
        " failure.",
        default="10s",
    )
    backoff_max_s: float = setting(
        "--backoff-max",
        Section.STARTS,
        Duration(),
        "The longest wait of this exponential backoff (--backoff-first).",
        default="300s",
    )
    backoff_forget_s: float = setting(
        "--backoff-forget",
        Section.STARTS,
        Duration(),
        "After a VM has run for this long, its failures no longer count.",
        default="600s",
    )
    acpi_resend_s: float = setting(
        "--acpi-resend",
        Section.STOPS,
        Duration(least_s=0.1),
        "How often to press the ACPI power button of a VM again, because a guest that is still booting ignores it.",
        default="10s",
    )
    force_wait_s: float = setting(
        "--force-wait",
        Section.STOPS,
        Duration(),
        "The shortest time between this agent's first press of a guest's power button and forcing the VM off, even if"
        " the grace period ends earlier. If the whole grace period is shorter than this time, the grace period"
        " counts instead.",
        default="30s",
    )
    schedule_confirm_s: float = setting(
        "--schedule-confirm",
        Section.TESTS,
        Duration(),
        "Start a scheduled restart only after two observations, at least this far apart, show that its time has"
        " passed.",
        default="10s",
    )

    def __post_init__(self) -> None:
        """Check the rules that concern more than one value. Raises ValueError with a message."""
        if self.backoff_first_s > self.backoff_max_s:
            raise ValueError("--backoff-first must not be longer than --backoff-max.")

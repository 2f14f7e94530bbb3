"""The wait settings of the policy: drift correction, starts and stops. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.setting import Duration, Section, Whole, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Waits in seconds; 0 means at once. Raises ValueError, with a message, if they contradict each other."""

    settle_power_s: float = setting(
        "--settle-power",
        Section.DRIFT,
        Duration(),
        "How long to leave a start or stop made by someone else alone before correcting it; 0: correct at once.",
        default="10s",
    )
    settle_pause_s: float | None = setting(
        "--settle-pause",
        Section.DRIFT,
        Duration(never=True),
        "The same for a pause, a suspended guest and a saved VM, which backups cause; never: do not correct these.",
        default="15m",
    )
    brake_count: int = setting(
        "--brake-count",
        Section.DRIFT,
        Whole(2, 1000),
        "If this many VMs are stopped by others within --brake-window, assume that the host is shutting down and start"
        " none (a circuit breaker).",
        default="3",
    )
    brake_window_s: float = setting(
        "--brake-window", Section.DRIFT, Duration(), "The time in which --brake-count stops must occur.", default="60s"
    )
    brake_hold_s: float = setting(
        "--brake-hold",
        Section.DRIFT,
        Duration(),
        "How long to start no VM then, counted from the last stop; 0: disable the brake.",
        default="120s",
    )
    backoff_first_s: float = setting(
        "--backoff-first",
        Section.STARTS,
        Duration(),
        "The wait before the next start of a VM that failed to start or keeps stopping; doubled after each failure.",
        default="10s",
    )
    backoff_max_s: float = setting(
        "--backoff-max", Section.STARTS, Duration(), "The longest such wait (exponential backoff).", default="300s"
    )
    backoff_forget_s: float = setting(
        "--backoff-forget",
        Section.STARTS,
        Duration(),
        "How long a VM must run before its failures are forgotten.",
        default="600s",
    )
    acpi_resend_s: float = setting(
        "--acpi-resend",
        Section.STOPS,
        Duration(least_s=0.1),
        "How often to press the ACPI power button of a VM again: a guest that is still booting ignores it.",
        default="10s",
    )
    force_wait_s: float = setting(
        "--force-wait",
        Section.STOPS,
        Duration(),
        "The shortest time between this agent's first press of the power button and a forced stop, even after the grace"
        " period.",
        default="30s",
    )
    schedule_confirm_s: float = setting(
        "--schedule-confirm",
        Section.TESTS,
        Duration(),
        "A scheduled restart begins when two observations this far apart agree that its time has come.",
        default="10s",
    )

    def __post_init__(self) -> None:
        """Check what involves several fields."""
        if self.backoff_first_s > self.backoff_max_s:
            raise ValueError("--backoff-first must not be longer than --backoff-max.")

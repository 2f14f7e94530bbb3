"""How patient an agent is with what others do. Seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waits:
    """How patient the policy is, in seconds. 0 means at once."""

    settle_power_s: float = 10.0
    """How long a stop or a start that somebody else made is left alone."""
    settle_pause_s: float | None = 900.0
    """The same for a pause, a guest's suspend and a save; None: for ever."""
    acpi_resend_s: float = 10.0
    """How often the power button is pressed again: a guest that still boots loses it."""
    force_wait_s: float = 30.0
    """The least time between the first press of the power button by this process and force."""
    backoff_first_s: float = 10.0
    backoff_max_s: float = 300.0
    backoff_forget_s: float = 600.0
    """How long a VM must run before its failures are forgotten."""
    brake_window_s: float = 60.0
    brake_count: int = 3
    """So many VMs of a node that somebody else stops within the window look like a host that shuts down."""
    brake_hold_s: float = 120.0
    """How long nothing is started then, counted from the last stop."""
    schedule_confirm_s: float = 10.0
    """A scheduled restart begins when two looks so far apart agree that its time has come."""

"""What an operator can set: plain values, units last. The command line fills them in (see cli.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one agent."""

    node_name: str
    boot_id: str
    """Tells one boot of the node from the next."""
    libvirt_uri: str = "qemu:///system"
    kubeconfig: Path | None = None
    """None: the Pod's own service account, or ~/.kube/config outside of a cluster."""
    observe_only: bool = False
    lease_namespace: str | None = None
    """Where the Lease of the node is kept; None: none is."""
    identity: str | None = None
    """What the holder of the Lease is called, and nobody else; None: a random name."""
    lease_duration_s: float = 40.0
    """Whole seconds."""
    waits: Waits = field(default_factory=Waits)
    start_parallel: int = 2
    start_interval_s: float = 1.0
    resync_libvirt_s: float = 60.0
    resync_api_s: float = 600.0
    relist_spread_s: float = 10.0
    """Within this time after an outage the API server is listed."""
    workers: int = 8
    """Passes at a time: one that libvirt does not answer costs one of them."""
    http_address: str = "*"
    """An IPv4 or IPv6 address; `*` is every address of both kinds."""
    http_port: int = 8080
    """0: any free one."""
    log_format: str = "text"
    log_level: str = "info"

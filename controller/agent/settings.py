"""What an operator can set: plain values, units last. The command line fills them in (see cli.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from controller.policy.waits import Waits


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

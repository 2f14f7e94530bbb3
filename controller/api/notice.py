"""A Kubernetes Event in the words of virtsync. Pure. `kube/events.py` writes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event about a VM or a host that virtsync is about to write."""

    reason: str
    note: str
    warning: bool = False
    action: str = "Observe"
    """What virtsync did: the name of an action, or Observe."""

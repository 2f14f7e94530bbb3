"""Names in the API that are not fields: the kind, annotations, condition types, Event reasons, field managers.

Pure. Each name is spelled here and nowhere else; docs/api.md explains them to users.
"""

from __future__ import annotations

from enum import StrEnum

GROUP = "virtsync.dev"
VERSION = "v1alpha1"
KIND = "VirtualMachine"
PLURAL = "virtualmachines"

HOLD_PREFIX = f"hold.{GROUP}/"
"""Prefix of an annotation that holds a VM: the name of the holder follows, and the value is the reason."""
CONFIRMED_OFF = f"{GROUP}/confirmed-off"
"""The annotation by which a user confirms that a VM is off on another node."""

AGENT = "virtsync-agent"
"""The agent's name as an HTTP client (User-Agent) and as a field manager."""
AGENT_CONTROLLER = f"{GROUP}/agent"
"""The agent's name as the `reportingController` of Events."""


class ConditionType(StrEnum):
    """The types of the conditions that an agent writes. They are those of kstatus.

    Source: https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class EventReason(StrEnum):
    """The reasons of Events that are not reasons of Ready."""

    STARTED = "Started"
    RESTARTED = "Restarted"
    RESUMED = "Resumed"
    WOKEN = "Woken"
    PAUSED = "Paused"
    SHUTDOWN_REQUESTED = "ShutdownRequested"
    FORCED_OFF = "ForcedOff"
    STOPPED = "Stopped"
    STOPPED_UNEXPECTEDLY = "StoppedUnexpectedly"
    HOLD_RELEASED = "HoldReleased"

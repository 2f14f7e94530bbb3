"""Names that reach the API and are no field: the kind, annotations, conditions, Event reasons, writers.

Pure. They are spelled here and nowhere else; docs/api.md explains them to users.
"""

from __future__ import annotations

from enum import StrEnum

GROUP = "virtsync.dev"
VERSION = "v1alpha1"
KIND = "VirtualMachine"
PLURAL = "virtualmachines"

HOLD_PREFIX = f"hold.{GROUP}/"
"""Begins an annotation that holds a VM; who holds it comes after, and why is its value."""
CONFIRMED_OFF = f"{GROUP}/confirmed-off"
"""The annotation by which a user vouches that a VM is off on another node."""

AGENT = "virtsync-agent"
"""The agent as an HTTP client, and as a field manager."""
AGENT_CONTROLLER = f"{GROUP}/agent"
"""The agent as the `reportingController` of Events."""


class ConditionType(StrEnum):
    """The types of the conditions that an agent writes; those of kstatus.

    Source: https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class EventReason(StrEnum):
    """The reasons of Events that are no reason of Ready."""

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

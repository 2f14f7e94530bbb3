"""The names of the API that are not fields: the kind, annotations, condition types, Event reasons, field managers.

Pure. All other modules use these constants. docs/api.md explains the names to users.
"""

from __future__ import annotations

from enum import StrEnum

GROUP = "virtsync.dev"
VERSION = "v1alpha1"
KIND = "VirtualMachine"
PLURAL = "virtualmachines"
HYPERVISOR_KIND = "Hypervisor"
HYPERVISOR_PLURAL = "hypervisors"

HOLD_PREFIX = f"hold.{GROUP}/"
"""The prefix of an annotation that holds a VM. The rest of the key names the holder; the value is the reason."""
CONFIRMED_OFF = f"{GROUP}/confirmed-off"
"""The annotation by which a user confirms that a VM is off on another node."""

AGENT = "virtsync-agent"
"""The agent's name as an HTTP client (User-Agent) and as a field manager."""
HOST_ACCOUNT_PREFIX = f"{AGENT}."
"""The prefix of the ServiceAccount of a host that is not a node. The rest of the name is the host. The policies in
deploy/base rely on this."""
AGENT_CONTROLLER = f"{GROUP}/agent"
"""The agent's name as the `reportingController` of Events."""
MANAGER = "virtsync-manager"
"""The manager's name as an HTTP client (User-Agent), as a field manager, and of the Lease of its leader. No Node may
have this name."""
MANAGER_CONTROLLER = f"{GROUP}/manager"
"""The manager's name as the `reportingController` of Events."""

CLI = "virtsync-cli"
"""The name of the commands for users as an HTTP client (User-Agent) and as a field manager.

It must not begin with `kubectl`: Flux takes over the fields of each manager whose name begins so, and removes those
that Git does not have. Fields of other managers stay. Source: matchFieldManager in
https://github.com/fluxcd/pkg/blob/main/ssa/patch.go; seen with kustomize-controller 1.9.6 and a manager `ann`."""


class ConditionType(StrEnum):
    """The types of the conditions that an agent writes. kstatus defines them.

    Source: https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class HypervisorConditionType(StrEnum):
    """The types of the conditions of a Hypervisor."""

    READY = "Ready"
    QUIESCED = "Quiesced"
    """Only during maintenance: whether the host is quiet, as the mode of the maintenance defines it."""


class EventReason(StrEnum):
    """The reasons of Kubernetes Events. Events also use some reasons of Ready, which are not repeated here."""

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
    AGENT_RETURNED = "AgentReturned"
    MAINTENANCE_BEGUN = "MaintenanceBegun"
    QUIESCED = "Quiesced"
    MAINTENANCE_ENDED = "MaintenanceEnded"

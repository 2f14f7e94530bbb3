"""Which host wrote a report, and whether the report of another host shows that the VM is off there. Pure.

A report of another host is history: it is kept whole until it is resolved, so that the second observation finds in it
what the first one found. It is resolved when the domain runs here, when that host's agent reported the VM off without
doubt, or when the user confirms this very report (the annotation virtsync.dev/confirmed-off).
"""

from __future__ import annotations

from enum import Enum

from controller.api.clock import api_time
from controller.api.libvirt_words import OffReason, PauseReason
from controller.api.names import ConditionType
from controller.api.values import replace
from controller.api.virtualmachine import OperationType, PowerState, Reason, Status, StopCause
from controller.policy.view import Domain, Evidence, Node, Phase, Unreadable, View

SURVIVES = {Reason.HELD, Reason.SETTLING}
"""Decisions of the former host that stay valid here: losing a hold or a settle time does not request an action."""

AT_WORK = {Reason.HYPERVISOR_BUSY, Reason.SHUTDOWN_TIMED_OUT}
"""Under these only libvirt said "off": another call is working on the domain, or its QEMU has not exited."""


class Elsewhere(Enum):
    """Why the report of another host forbids that the VM is started here."""

    MAY_RUN = "it was on there, or that is not known"
    SENT_AWAY = "it was migrated from there to some host"
    MEMORY_THERE = "its memory was saved there"
    OLD_MEMORY_HERE = "the memory that is saved here is older than that report"


def is_foreign(report: Status, node: Node) -> bool:
    """Another node wrote this report, or another machine under the name of this node."""
    return bool(report.node_name) and (report.node_name != node.name or _is_other_machine(report, node))


def unresolved(report: Status, view: View) -> Elsewhere | None:  # noqa: PLR0911 - one rule a line
    """Why this report forbids a start here; None: it does not, or this host wrote it."""
    seen = view.observed
    if not is_foreign(report, view.node) or _runs_here(view):
        return None
    if isinstance(seen, Domain) and seen.phase is Phase.SAVED:
        return Elsewhere.OLD_MEMORY_HERE
    if view.vm.confirmed_off == vouching(report):
        return None
    if _in_flight(report) or not report.was_off:
        return Elsewhere.MAY_RUN
    if memory_elsewhere(report):
        return Elsewhere.MEMORY_THERE
    if report.last_stop and report.last_stop.cause is StopCause.MIGRATED:
        return None if Evidence.STARTED_MIGRATED in view.evidence else Elsewhere.SENT_AWAY
    return Elsewhere.MAY_RUN if is_stale(report) else None


def vouching(report: Status) -> str:
    """The value of `virtsync.dev/confirmed-off` that confirms this report, and no other.

    No clocks are compared: the user repeats a time that the report shows.
    """
    moved = report.run_transition_time or report.power_state_transition_time
    return f"{report.node_name} {api_time(moved)}" if moved else report.node_name


def memory_elsewhere(report: Status) -> bool:
    """The memory of the VM was saved, and has not been removed or restored since."""
    if report.power_state is PowerState.SAVED:
        return True
    cause = report.last_stop.cause if report.last_stop else None
    if not report.was_off or cause not in {None, StopCause.SAVED}:
        return False
    reason = report.libvirt_reason
    return reason == OffReason.SAVED or (cause is StopCause.SAVED and reason == OffReason.UNKNOWN)


def taken_over(report: Status, view: View) -> Status:
    """The part of another host's report that is valid here; what was in flight there is not in flight here."""
    if isinstance(view.observed, Unreadable):
        # Resolved, although this host cannot be observed yet: the next Ready is not the former host's.
        return report if is_stale(report) else replace(report, decided_reason=Reason.PENDING)
    cause = report.last_stop.cause if report.last_stop else None
    return replace(
        report,
        desired=report.desired if report.completion_time else None,
        power_state=PowerState.UNKNOWN,
        libvirt_state="",
        libvirt_reason="",
        domain=report.domain and replace(report.domain, id=None),
        last_stop=None if cause in {StopCause.MIGRATED, StopCause.SAVED} else report.last_stop,
        operation=None,
        backoff=None,
        decided_reason=_surviving(report),
    )


def is_stale(report: Status) -> bool:
    """The report says "off", but its host could not be observed, was not heard from, or was working on the VM then."""
    if report.decided_reason == Reason.PENDING:
        return False
    if not report.decided_reason and report.reason == Reason.STARTING:  # an older version kept no record of a start
        return True
    # HandoverUnconfirmed: an earlier pass found the report stale; no agent of that host has written since.
    if {Reason.HANDOVER_UNCONFIRMED, *AT_WORK} & {report.reason, report.decided}:
        return True
    ready = report.condition(ConditionType.READY)
    return ready is not None and ready.status == "Unknown"


def _is_other_machine(report: Status, node: Node) -> bool:
    """Another machine took over the name of this node. Within one boot a machine is the same, whatever its UUID."""
    known = report.host_uuid is not None and node.host_uuid is not None
    return known and report.host_uuid != node.host_uuid and report.node_boot_id != node.boot_id


def _runs_here(view: View) -> bool:
    """The VM has a QEMU here that does not only wait for incoming memory of a migration.

    A QEMU that waits ends if the migration fails; it begins in the phase STARTING.
    """
    seen = view.observed
    if not isinstance(seen, Domain) or not seen.phase.on or seen.phase is Phase.STARTING:
        return False
    return not (seen.phase is Phase.PAUSED_BUSY and seen.reason in {PauseReason.MIGRATION, PauseReason.POSTCOPY})


def _in_flight(report: Status) -> bool:
    """A start was called there, or might have been: older reports do not show whether a restart is past its stop."""
    operation = report.operation
    return operation is not None and (operation.starts or operation.type is OperationType.RESTART)


def _surviving(report: Status) -> str:
    return report.decided if report.decided in SURVIVES else Reason.PENDING

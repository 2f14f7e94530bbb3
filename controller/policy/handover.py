"""Whether another host wrote the last report, and whether that report permits a start on this host. Pure.

The report of another host is resolved when the domain runs on this host, when the report shows without doubt that the
VM is off, or when the user confirms exactly this report with the annotation virtsync.dev/confirmed-off. Until then the
report is kept unchanged, so that each pass decides from the same report.
"""

from __future__ import annotations

from enum import Enum

from controller.api.clock import api_time
from controller.api.libvirt_words import OffReason, PauseReason
from controller.api.names import ConditionType
from controller.api.values import replace
from controller.api.virtualmachine import OperationType, PowerState, Reason, Status, StopCause
from controller.policy.stops import MEMORY_LEFT
from controller.policy.view import STANDS_STILL, Domain, Evidence, Node, Phase, Unreadable, View

SURVIVES = {Reason.HELD, Reason.SETTLING}
"""Decisions of the former host that stay valid on this host. When the hold or the settle time ends here, a difference
from the spec is drift, and not a request of the user."""

AT_WORK = {Reason.HYPERVISOR_BUSY, Reason.SHUTDOWN_TIMED_OUT}
"""Reasons under which a report of "off" is in doubt: a call is working on the domain, or QEMU has not exited."""


class Unresolved(Enum):
    """Why the report of another host forbids a start of the VM on this host."""

    MAY_RUN = "the VM was on, or might have been on, on that host"
    OTHER_DOMAIN = "the report is about another domain, so it does not show whether the VM runs on that host"
    SENT_AWAY = "the VM was migrated from that host to another one"
    MEMORY_THERE = "the memory of the VM was saved on that host"
    MEMORY_HERE = "memory of the VM is saved on this host, and might be older than the last run on that host"


def is_foreign(report: Status, node: Node) -> bool:
    """Whether another node wrote this report, or another machine that had the name of this node."""
    return bool(report.node_name) and (report.node_name != node.name or _is_other_machine(report, node))


def unresolved(report: Status, view: View) -> Unresolved | None:  # noqa: PLR0911 - one rule a line
    """Return why this report forbids a start on this host.

    None: it permits a start, this host wrote it, or the VM already runs here.
    """
    seen = view.observed
    if not is_foreign(report, view.node) or (runs_here(view) and not _stands_still_beside(report, view)):
        return None
    if isinstance(seen, Domain) and seen.phase is Phase.SAVED:
        return Unresolved.MEMORY_HERE
    if view.vm.confirmed_off == vouching(report):
        return None
    if not is_of_the_domain(report, view):
        return Unresolved.OTHER_DOMAIN
    if _in_flight(report) or not report.was_off:
        return Unresolved.MAY_RUN
    if memory_elsewhere(report):
        return Unresolved.MEMORY_THERE
    if sent_away(report):
        return None if Evidence.STARTED_MIGRATED in view.evidence else Unresolved.SENT_AWAY
    return Unresolved.MAY_RUN if is_stale(report) else None


def is_of_the_domain(report: Status, view: View) -> bool:
    """Whether this report is about the domain that the spec names now.

    It is, too, if the spec names the same domain in another way, such as by its UUID instead of its name.
    """
    vm, record = view.vm, report.domain
    if not record or not record.bound_by or record.bound_by == vm.bound_by:
        return True
    if vm.domain_uuid:
        return record.uuid == vm.domain_uuid
    # Another domain might have the name that this domain had.
    return record.name == vm.bound_by and getattr(view.observed, "uuid", record.uuid) == record.uuid


def vouching(report: Status) -> str:
    """Return the value of the annotation `virtsync.dev/confirmed-off` that confirms this report and no other report.

    The value contains a time from the report. The user copies that time, so no clocks are compared.
    """
    moved = report.run_transition_time or report.power_state_transition_time
    return f"{report.node_name} {api_time(moved)}" if moved else report.node_name


def sent_away(report: Status) -> bool:
    """Whether this report of "off" shows that the VM was migrated to another host."""
    cause = report.last_stop.cause if report.last_stop else None
    return report.was_off and (report.libvirt_reason == OffReason.MIGRATED or cause is StopCause.MIGRATED)


def memory_elsewhere(report: Status) -> bool:
    """Whether this report shows that the memory of the VM was saved (managed save, or a file) and is still there."""
    if report.power_state is PowerState.SAVED:
        return True
    cause = report.last_stop.cause if report.last_stop else None
    if not report.was_off or cause not in {None, StopCause.SAVED}:
        return False
    return report.libvirt_reason == OffReason.SAVED or cause is StopCause.SAVED


def taken_over(report: Status, view: View) -> Status:
    """Return the resolved report of another host without the parts that are not valid on this host.

    The operation and the backoff of the other host, for example, do not continue on this host.
    """
    if isinstance(view.observed, Unreadable):
        # Ready is about to be replaced. Pending lets `is_stale` know that the report was not in doubt.
        return report if is_stale(report) else replace(report, decided_reason=Reason.PENDING)
    cause = report.last_stop.cause if report.last_stop else None
    return replace(
        report,
        desired=report.desired if report.completion_time else None,
        power_state=PowerState.UNKNOWN,
        libvirt_state="",
        libvirt_reason="",
        domain=report.domain and replace(report.domain, id=None, shutdown_request_time=None),
        last_stop=None if cause in MEMORY_LEFT else report.last_stop,
        operation=None,
        backoff=None,
        decided_reason=_surviving(report),
    )


def is_stale(report: Status) -> bool:
    """Whether a report of "off" is in doubt.

    The report is in doubt if Ready was Unknown (the VM could not be observed, or the agent was unreachable), if libvirt
    was working on the VM, or if the VM ran on a third host.
    """
    # HandoverUnconfirmed: an earlier pass found the report in doubt, and the agent of that host has not written since.
    if report.reason in {Reason.AGENT_UNREACHABLE, Reason.HANDOVER_UNCONFIRMED}:
        return True
    if report.decided_reason == Reason.PENDING and report.reason != Reason.PENDING:
        return False
    if not report.decided_reason and report.reason == Reason.STARTING:  # an older version wrote no record of a start
        return True
    if {Reason.HANDOVER_UNCONFIRMED, Reason.RUNS_ELSEWHERE, *AT_WORK} & {report.reason, report.decided}:
        return True
    ready = report.condition(ConditionType.READY)
    return ready is not None and ready.status == "Unknown"


def _is_other_machine(report: Status, node: Node) -> bool:
    """Whether another machine with the name of this node wrote the report.

    Within one boot it is the same machine, even if its host UUID has changed.
    """
    known = report.host_uuid is not None and node.host_uuid is not None
    return known and report.host_uuid != node.host_uuid and report.node_boot_id != node.boot_id


def runs_here(view: View) -> bool:
    """Whether the VM certainly has a QEMU on this host that does not wait for the memory of an incoming migration.

    A QEMU that waits is STARTING, or PAUSED_BUSY with the reason MIGRATION or POSTCOPY. It ends if the migration fails.
    A VM that is just starting, or that is paused for an outgoing migration, looks the same, so it does not count.
    """
    seen = view.observed
    if not isinstance(seen, Domain) or not seen.phase.on or seen.phase is Phase.STARTING:
        return False
    return not (seen.phase is Phase.PAUSED_BUSY and seen.reason in {PauseReason.MIGRATION, PauseReason.POSTCOPY})


def _stands_still_beside(report: Status, view: View) -> bool:
    """Whether the CPUs of the VM stand still on this host, and the other host reports the VM on.

    virtsync must not resume such a copy, because the VM might run on the other host. A VM that has arrived here by a
    migration is no copy, and a VM that a job of libvirt has paused has run here.
    """
    seen = view.observed
    still = isinstance(seen, Domain) and seen.phase in STANDS_STILL - {Phase.PAUSED_BUSY}
    confirmed = view.vm.confirmed_off == vouching(report)
    return still and not report.was_off and not confirmed and Evidence.STARTED_MIGRATED not in view.evidence


def _in_flight(report: Status) -> bool:
    """Whether the other host has called a start, or might have.

    A restart counts, because reports by older versions do not show whether its stop has ended and its start was called.
    """
    operation = report.operation
    return operation is not None and (operation.starts or operation.type is OperationType.RESTART)


def _surviving(report: Status) -> str:
    """Return the reason of the former host's decision if it stays valid on this host, otherwise Pending."""
    return report.decided if report.decided in SURVIVES else Reason.PENDING

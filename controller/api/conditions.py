"""Maps each reason of the condition Ready to its meaning in kstatus, for which tools such as Flux wait. Pure."""

from __future__ import annotations

from enum import Enum

from controller.api.names import ConditionType
from controller.api.virtualmachine import Reason


class Readiness(Enum):
    """The meaning of a reason in kstatus: the status of Ready, and the type of the abnormal condition that is True."""

    READY = ("True", None)
    RECONCILING = ("False", ConditionType.RECONCILING)
    STALLED = ("False", ConditionType.STALLED)
    HELD = ("False", None)
    UNKNOWN = ("Unknown", None)


READINESS = {
    Reason.IN_SYNC: Readiness.READY,
    Reason.OBSERVED: Readiness.READY,
    Reason.COMPLETED: Readiness.READY,
    Reason.SUSPENDED_BY_GUEST: Readiness.READY,
    Reason.SETTLING: Readiness.RECONCILING,
    Reason.STARTING: Readiness.RECONCILING,
    Reason.SHUTTING_DOWN: Readiness.RECONCILING,
    Reason.PAUSING: Readiness.RECONCILING,
    Reason.RESUMING: Readiness.RECONCILING,
    Reason.WAKING: Readiness.RECONCILING,
    Reason.RESTARTING: Readiness.RECONCILING,
    Reason.HYPERVISOR_BUSY: Readiness.RECONCILING,
    Reason.START_FAILED: Readiness.RECONCILING,
    Reason.CRASH_LOOP_BACK_OFF: Readiness.RECONCILING,
    Reason.PAUSED_BY_IO_ERROR: Readiness.RECONCILING,
    Reason.ACTION_FAILED: Readiness.RECONCILING,
    Reason.ACTION_BLOCKED: Readiness.RECONCILING,
    Reason.FAILED: Readiness.STALLED,
    Reason.DOMAIN_NOT_FOUND: Readiness.STALLED,
    Reason.DOMAIN_REPLACED: Readiness.STALLED,
    Reason.DOMAIN_CONFLICT: Readiness.STALLED,
    Reason.SHUTDOWN_TIMED_OUT: Readiness.STALLED,
    Reason.PAUSED_BY_WATCHDOG: Readiness.STALLED,
    Reason.CRASHED_PRESERVED: Readiness.STALLED,
    Reason.POST_COPY_FAILED: Readiness.STALLED,
    Reason.MIGRATED_AWAY: Readiness.STALLED,
    Reason.SAVED_ELSEWHERE: Readiness.STALLED,
    Reason.HANDOVER_UNCONFIRMED: Readiness.STALLED,
    Reason.RUNS_ELSEWHERE: Readiness.STALLED,
    Reason.HELD: Readiness.HELD,
    Reason.OBSERVE_ONLY: Readiness.HELD,
    Reason.UNKNOWN_STATE: Readiness.UNKNOWN,
    Reason.SPEC_NOT_UNDERSTOOD: Readiness.UNKNOWN,
    Reason.LIBVIRT_UNREACHABLE: Readiness.UNKNOWN,
    Reason.AGENT_UNREACHABLE: Readiness.UNKNOWN,
    Reason.PENDING: Readiness.UNKNOWN,
}

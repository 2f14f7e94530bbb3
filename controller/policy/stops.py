"""Find why a VM stopped, and what its restartPolicy decides after the stop. Pure."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from controller.api.clock import Now
from controller.api.libvirt_words import RAN, OffReason, PauseReason, State
from controller.api.names import EventReason
from controller.api.notice import Notice
from controller.api.values import replace
from controller.api.virtualmachine import (
    LastStop,
    PowerState,
    Reason,
    RestartPolicy,
    Status,
    StopCause,
)
from controller.policy.view import Domain, Evidence, Phase, View, VmMemory

MEMORY_LEFT = {StopCause.MIGRATED, StopCause.SAVED}
"""The causes of a stop after which the memory of the VM is elsewhere: on another host, or in a file. A start without
this memory would lose it, or would run the VM twice. So these causes stay until the VM has certainly run here again."""
WAITING_FOR_MEMORY = {PauseReason.STARTING_UP, PauseReason.MIGRATION, PauseReason.POSTCOPY}
"""The reasons of a pause in which a QEMU might still be waiting for the memory that a migration or a restore brings."""

OBEYS_WITHIN = timedelta(hours=1)
"""If a guest shuts down within this time after a request of virtsync, the request is the cause. Some guests install
updates first."""
CLOCK_STEP = timedelta(minutes=1)
"""A request that seems to be sent later than now, by at most this time, was sent just before somebody set the clock."""


class Answer(Enum):
    """The decisions of a restartPolicy after a stop of a VM that should be on."""

    START = "start"
    COMPLETED = "accept it as done"
    FAILED = "accept it as failed"


def cause_of_stop(domain: Domain, history: Status, view: View) -> StopCause:
    """Return why a domain is off that was on before; `history` is the report of the time when the domain was on."""
    return _cause(OffReason.SAVED if domain.phase is Phase.SAVED else domain.reason, history, view)


def cause_of_end(history: Status, view: View) -> StopCause:
    """Return why a domain that was on no longer exists. libvirt does not know it any more, so only events show why."""
    return _cause("", history, view)


def _cause(reason: str, history: Status, view: View) -> StopCause:  # noqa: PLR0911 - first match, one cause a line
    """Return the first cause that fits.

    A reason that libvirt gives is reliable, because libvirtd forgets all reasons when it restarts. SHUTOFF/CRASHED is
    the exception: if libvirtd did not run when the domain went off, it gives this reason even after a clean poweroff.
    """
    evidence = view.evidence
    if reason == OffReason.MIGRATED or Evidence.STOPPED_MIGRATED in evidence:
        return StopCause.MIGRATED
    if reason == OffReason.SAVED or (reason in {"", OffReason.UNKNOWN} and Evidence.STOPPED_SAVED in evidence):
        return StopCause.SAVED
    if ours(history, view):
        return StopCause.AGENT
    if history.node_boot_id != view.node.boot_id:
        return StopCause.NODE_REBOOT
    if evidence & {Evidence.STOPPED_CRASHED, Evidence.STOPPED_FAILED} or (
        reason == OffReason.CRASHED and _libvirtd_ran(history, view)
    ):
        return StopCause.CRASH
    if reason in {OffReason.DESTROYED, OffReason.FROM_SNAPSHOT} or Evidence.SHUTDOWN_HOST in evidence:
        return StopCause.EXTERNAL
    if reason == OffReason.SHUTDOWN or Evidence.SHUTDOWN_GUEST in evidence:
        return StopCause.AGENT if _obeyed_late(history, view.now) else StopCause.GUEST
    return StopCause.UNKNOWN


def _obeyed_late(history: Status, now: Now) -> bool:
    """Whether the guest has probably shut down because virtsync had asked it to, although the stop was given up since.

    A hold, maintenance or the user can end a stop after its request was sent, and no request can be taken back.
    """
    asked = history.domain.shutdown_request_time if history.domain else None
    return asked is not None and -CLOCK_STEP <= now.wall - asked <= OBEYS_WITHIN


def _libvirtd_ran(history: Status, view: View) -> bool:
    """Whether the present libvirtd was started before the domain was reported on, so that it observed the stop."""
    operation, since = history.operation, history.power_state_transition_time
    on_since = operation.start_time if operation and operation.starts else since
    began = view.node.libvirtd_since
    return began is not None and on_since is not None and began < on_since


def ours(history: Status, view: View) -> bool:
    """Whether the report contains a stop or restart by virtsync of exactly this run of the domain.

    A stop for maintenance also counts if the host has booted since, because the host might be powered off meanwhile.
    """
    operation, record = history.operation, history.domain
    if operation is None or operation.domain_id is None or record is None or record.id != operation.domain_id:
        return False
    return bool(operation.for_maintenance) or history.node_boot_id == view.node.boot_id


def answer(cause: StopCause, policy: RestartPolicy) -> Answer:
    """Return what the restartPolicy decides after a stop with this cause.

    Callers do not call it for a VM that was migrated, or whose memory was saved to a file.
    """
    if cause is StopCause.AGENT or policy is RestartPolicy.ALWAYS:
        return Answer.START
    if cause is StopCause.GUEST:
        return Answer.COMPLETED
    if policy is RestartPolicy.ON_FAILURE:
        return Answer.START
    return Answer.FAILED if cause is StopCause.CRASH else Answer.COMPLETED


MESSAGES = {
    StopCause.GUEST: "The guest powered itself off.",
    StopCause.AGENT: "virtsync stopped the VM.",
    StopCause.EXTERNAL: "Somebody stopped the VM on the host.",
    StopCause.NODE_REBOOT: "The node went down or was rebooted.",
    StopCause.CRASH: "The guest or its QEMU process crashed.",
    StopCause.SAVED: "Somebody saved the memory of the VM and stopped it.",
    StopCause.MIGRATED: "The VM was migrated away from this node.",
    StopCause.UNKNOWN: "The VM stopped while virtsync was not observing it.",
}
"""The text of `status.lastStop.message` for each cause. Another text says that somebody removed the saved memory (see
`_reconsidered`)."""


def last_stop_of(
    history: Status, view: View, domain: Domain, memory: VmMemory, *, ran: bool
) -> tuple[LastStop | None, tuple[Notice, ...]]:
    """Return the last stop of the VM, and the Event of a stop that this pass has found.

    The cause is kept until the VM has run again, except that later evidence can replace it (see `_reconsidered`).
    `ran` means that the VM has run since the last report, and is off again.
    """
    stop, unreported = history.last_stop, memory.unreported_stop
    if not domain.phase.off:
        return _later(stop, unreported), ()
    # `history` already has the present boot id. The report in the object has the id of the boot in which the VM ran.
    before = replace(history, node_boot_id=view.vm.status.node_boot_id)
    if stop and _only_waited_for_memory(stop, before, domain):
        return stop, ()
    if before.was_on or ran or _ran_unreported(memory) or _memory_has_left(before, domain):
        cause = cause_of_stop(domain, before, view)
        found = _found_before(cause, memory) or new_stop(cause, view.now)
        return found, _stop_notices(view, found)
    if unreported and _later(stop, unreported) is unreported:
        return unreported, _stop_notices(view, unreported)
    if stop is None:
        return None, ()
    return _reconsidered(stop, before, view, domain), ()


def end_of(history: Status, view: View, memory: VmMemory, *, ran: bool) -> LastStop | None:
    """Return the last stop of a domain that no longer exists.

    If the VM has run since the last recorded stop, only events show how this run ended, because libvirt no longer knows
    the domain. `ran` means that the VM has run since the last report.
    """
    if history.was_on or ran or _ran_unreported(memory):
        # `history` already has the present boot id. The report in the object has the id of the boot in which it ran.
        cause = cause_of_end(replace(history, node_boot_id=view.vm.status.node_boot_id), view)
        return _found_before(cause, memory) or new_stop(cause, view.now)
    return _later(history.last_stop, memory.unreported_stop)


def _later(stop: LastStop | None, unreported: LastStop | None) -> LastStop | None:
    """Return the stop that no report has yet if it is later than the reported one, otherwise the reported one."""
    return unreported if unreported and (stop is None or stop.time < unreported.time) else stop


def _found_before(cause: StopCause, memory: VmMemory) -> LastStop | None:
    """Return this stop as an earlier pass found it that could not report it.

    None: there is none, the VM has run again since, or the cause that was found now says more.
    """
    unreported = memory.unreported_stop
    if unreported is None or (memory.phase is not None and memory.phase.on):
        return None
    if cause in MEMORY_LEFT:
        return unreported if unreported.cause is cause else None
    return unreported if unreported.cause is not StopCause.UNKNOWN or cause is StopCause.UNKNOWN else None


def _ran_unreported(memory: VmMemory) -> bool:
    """Whether the last pass observed the VM on, whatever the last report says, and its QEMU waited for no memory."""
    phase = memory.phase
    return phase is not None and phase.on and phase not in {Phase.STARTING, Phase.PAUSED_BUSY}


def _only_waited_for_memory(stop: LastStop, before: Status, domain: Domain) -> bool:
    """Whether the QEMU in this report might only have waited for the memory that had left the VM.

    If the migration back or the restore fails, that QEMU ends, and the memory is where it was. A QEMU that waits for a
    migration can also be destroyed or crash while the VM runs on the other host.
    """
    waiting = before.libvirt_state == State.PAUSED and before.libvirt_reason in WAITING_FOR_MEMORY
    shows_a_run = RAN if stop.cause is StopCause.SAVED else RAN - {OffReason.DESTROYED, OffReason.CRASHED}
    return stop.cause in MEMORY_LEFT and waiting and domain.reason not in shows_a_run


def _memory_has_left(before: Status, domain: Domain) -> bool:
    """Whether the domain was reported off, has run since, and its memory has left it: libvirt names a new reason."""
    left = domain.phase is not Phase.SAVED and domain.reason in {OffReason.MIGRATED, OffReason.SAVED}
    return before.was_off and left and domain.reason != before.libvirt_reason


def _reconsidered(stop: LastStop, before: Status, view: View, domain: Domain) -> LastStop:
    """Return the stop with a better cause, if later passes have found one while the domain is still off."""
    if stop.cause in MEMORY_LEFT and domain.reason in RAN and domain.reason != before.libvirt_reason:
        return new_stop(cause_of_stop(domain, before, view), view.now)  # it has run here since, while nobody looked
    if stop.cause is StopCause.SAVED and before.power_state is PowerState.SAVED and domain.phase is Phase.STOPPED:
        # Somebody removed the saved memory, so a start can no longer lose it.
        return replace(stop, cause=StopCause.EXTERNAL, message="Somebody removed the saved memory of the VM.")
    rebooted = before.node_boot_id != view.node.boot_id
    # A stop that was decided on before the boot has another cause, such as a stop weeks earlier.
    undecided = before.decided == Reason.SETTLING
    may_be_host = stop.cause in {StopCause.GUEST, StopCause.EXTERNAL, StopCause.UNKNOWN} or (
        stop.cause is StopCause.SAVED and domain.phase is Phase.SAVED
    )
    if rebooted and may_be_host and undecided and view.vm.desired == before.desired:
        return replace(stop, cause=StopCause.NODE_REBOOT, message=MESSAGES[StopCause.NODE_REBOOT])
    if stop.cause is StopCause.UNKNOWN and not rebooted:
        cause = cause_of_stop(domain, before, view)
        return replace(stop, cause=cause, message=MESSAGES[cause])
    return stop


def still_unreported(reported: Status, draft: Status, memory: VmMemory) -> LastStop | None:
    """Return the stop that a pass must remember because its draft could not be reported; None: there is none."""
    return draft.last_stop if draft.last_stop != reported.last_stop else memory.unreported_stop


def new_stop(cause: StopCause, now: Now) -> LastStop:
    """Return the record of a stop that this pass has found."""
    return LastStop(cause, now.to_api(), MESSAGES[cause])


def _stop_notices(view: View, stop: LastStop) -> tuple[Notice, ...]:
    """Return the Event of a stop that virtsync did not cause. A stop by virtsync has the Event of the action."""
    if stop.cause is StopCause.AGENT:
        return ()
    vm = view.vm
    unwanted = vm.wants_on and answer(stop.cause, vm.restart_policy) is not Answer.COMPLETED
    note = f"{stop.message} Cause: {stop.cause}; spec generation {vm.generation}."
    return (Notice(EventReason.STOPPED_UNEXPECTEDLY if unwanted else EventReason.STOPPED, note, warning=unwanted),)


def restored(evidence: frozenset[Evidence]) -> bool:
    """Whether the last start restored saved memory."""
    return Evidence.STARTED_RESTORED in evidence

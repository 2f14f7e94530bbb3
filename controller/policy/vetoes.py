"""The vetoes: the rows of the decision table in which virtsync takes no action. Pure.

For each veto there is a function that checks whether it applies, and a function that returns its verdict.
"""

from __future__ import annotations

from controller.api.values import replace
from controller.api.virtualmachine import DesiredPowerState, PowerState, Reason, StopCause
from controller.policy import handover
from controller.policy import stops as causes
from controller.policy.gates import answer_in_s, braked, not_here, settling
from controller.policy.handover import AT_WORK, Unresolved, vouching
from controller.policy.situation import UNSEEN, Situation
from controller.policy.view import (
    POST_COPY_FAILED,
    Absent,
    Conflict,
    Misnamed,
    Phase,
    Replaced,
    Unreadable,
    Verdict,
)
from controller.policy.wording import confirming, holders, in_maintenance, power_predicate

LINGERS = (
    "libvirt reports the VM off, but its QEMU process has not exited (is its storage stuck?). virtsync does not start "
    "the VM before QEMU has exited."
)
LINGER_RECHECK_S = 10.0
"""libvirt sends no event when such a QEMU exits, so the domain is observed again after this time."""


def is_spec_not_understood(s: Situation) -> bool:
    """Whether the spec has a value that this version does not know."""
    return bool(s.vm.misunderstood)


def spec_not_understood(s: Situation) -> Verdict:
    """Report which value of the spec this version does not understand."""
    return Verdict(
        Reason.SPEC_NOT_UNDERSTOOD,
        f"This version of virtsync does not understand {s.vm.misunderstood}. virtsync does nothing to the VM until "
        f"the agent of {s.view.node.name} is upgraded or the spec is changed.",
    )


def is_libvirt_unreachable(s: Situation) -> bool:
    """Whether libvirt gave no answer about the domain."""
    return isinstance(s.view.observed, Unreadable)


def is_without_domain(s: Situation) -> bool:
    """Whether this object has no domain: absent, replaced, with another name, or that of an older object."""
    return isinstance(s.view.observed, (Absent, Replaced, Misnamed, Conflict))


def is_handover_unresolved(s: Situation) -> bool:
    """Whether the report of the former host forbids a start on this host."""
    return s.unresolved is not None


def is_start_in_flight(s: Situation) -> bool:
    """Whether a start is recorded and its result is not known yet."""
    return s.start.pending


def start_in_flight(s: Situation) -> Verdict:
    """Wait for the result, whatever the spec says now, because libvirt might have received the call."""
    assert s.operation  # noqa: S101 - a pending start is always recorded
    reported, left_s = s.history.message_of(Reason.STARTING), answer_in_s(s)
    if left_s and reported is not None:
        # The message of the recorded start is still correct; another message would cause another write.
        return Verdict(Reason.STARTING, reported, recheck_s=left_s)
    since_when = f"{s.operation.start_time:%H:%M:%SZ}"
    message = f"The VM has been starting since {since_when}, and libvirt has not reported the result yet."
    if s.desired is DesiredPowerState.STOPPED or s.view.to_be_shut_down:
        message += " virtsync stops the VM as soon as it is on."
    return Verdict(Reason.STARTING, message, recheck_s=s.start.recheck_s)


def is_power_state_unset(s: Situation) -> bool:
    """Whether spec.powerState is not set."""
    return s.desired is None


def is_unknown_state(s: Situation) -> bool:
    """Whether libvirt reports a state that this version does not know."""
    return s.phase is Phase.UNKNOWN


def is_running_elsewhere(s: Situation) -> bool:
    """Whether the VM is off here, and the manager has observed it running on another host."""
    return s.off and s.view.running_elsewhere is not None


def is_post_copy_failed(s: Situation) -> bool:
    """Whether a post-copy migration failed. Then the memory of the VM is on two hosts."""
    return s.phase in POST_COPY_FAILED


def is_preserved(s: Situation) -> bool:
    """Whether the VM is kept for inspection, as its libvirt definition asks, and no restart is requested."""
    return s.wants_on and not s.cycling and s.phase in {Phase.PAUSED_WATCHDOG, Phase.CRASHED_KEPT}


def is_transitioning(s: Situation) -> bool:
    """Whether a VM that should be on is starting or shutting down, and no restart is requested."""
    return s.wants_on and not s.cycling and s.phase in {Phase.STARTING, Phase.SHUTTING_DOWN}


def is_in_sync(s: Situation) -> bool:
    """Whether the VM is as the spec asks, and no operation is in flight."""
    if s.cycling or s.operation is not None or s.phase is None:
        return False
    if s.desired is DesiredPowerState.STOPPED:
        return s.phase.off
    if s.desired is DesiredPowerState.PAUSED:
        # After a failed post-copy migration, nobody has paused the VM: it cannot run.
        return s.phase.power_state is PowerState.PAUSED and s.phase not in POST_COPY_FAILED
    return s.phase is Phase.RUNNING


def in_sync(s: Situation) -> Verdict:
    """Report that the VM is as the spec asks, with a scheduled restart, the holds on the VM, and maintenance."""
    notes = [f"restart scheduled for {s.vm.restart_request:%Y-%m-%dT%H:%M:%SZ}"] if s.restart_scheduled else []
    notes += [f"held by {holders(s)}"] if s.vm.holds else []
    notes += [in_maintenance(s)] if s.view.node.maintenance else []
    power = s.status.power_state
    now = f"is off ({power})" if s.off and power is not PowerState.STOPPED else power_predicate(s)
    return Verdict(Reason.IN_SYNC, "; ".join([f"The VM {now}, as spec.powerState asks", *notes]) + ".")


def running_elsewhere(s: Situation) -> Verdict:
    """Report where the VM runs, and what the user can do."""
    return not_here(s, "start it")


def post_copy_failed(_s: Situation) -> Verdict:
    """Report that virtsync acts on neither copy of the VM."""
    return Verdict(
        Reason.POST_COPY_FAILED,
        "The post-copy migration of the VM failed, so its memory is on two hosts. Neither copy may be started or "
        "stopped.",
    )


def guest_suspended(s: Situation) -> Verdict:
    """Report that virtsync does not wake up a guest that suspended itself."""
    paused = s.desired is DesiredPowerState.PAUSED
    why = "spec.powerState is Paused" if paused else f"spec.restartPolicy is {s.vm.restart_policy}"
    message = f"The guest suspended itself (S3). virtsync does not wake it up, because {why}."
    return Verdict(Reason.SUSPENDED_BY_GUEST, message)


def libvirt_unreachable(s: Situation) -> Verdict:
    """Report that libvirt does not answer, or that another call holds the lock of the domain."""
    assert isinstance(s.view.observed, Unreadable)  # noqa: S101
    if s.view.observed.busy:
        return Verdict(Reason.HYPERVISOR_BUSY, s.view.observed.message, recheck_s=5.0)
    return Verdict(
        Reason.LIBVIRT_UNREACHABLE,
        f"libvirt on {s.view.node.name} does not answer: {s.view.observed.message}",
        recheck_s=5.0,
    )


def no_domain(s: Situation) -> Verdict:
    """Report why this object has no domain, and what the user can do."""
    name, seen = s.vm.bound_by, s.view.observed
    if isinstance(seen, Replaced):
        message = (
            f"The former domain no longer exists. The name {seen.name!r} now belongs to another domain (UUID "
            f"{seen.uuid}). To manage that one, set spec.domain.uuid to this UUID, or recreate this VirtualMachine."
        )
        return Verdict(Reason.DOMAIN_REPLACED, message)
    if isinstance(seen, Misnamed):
        message = (
            f"libvirt on {s.view.node.name} has no domain {name!r}. The domain with the UUID in the status is named "
            f"{seen.name!r}. If it is this VM, set spec.domain.name to {seen.name!r}."
        )
        return Verdict(Reason.DOMAIN_NOT_FOUND, message)
    if isinstance(seen, Conflict):
        return Verdict(
            Reason.DOMAIN_CONFLICT,
            f"The domain with UUID {seen.uuid} belongs to the older VirtualMachine {seen.owner}. Set spec.domain of "
            "this VirtualMachine to another domain, or delete one of the two objects.",
        )
    message = f"libvirt on {s.view.node.name} has no domain {name!r}."
    if there := s.view.running_elsewhere:
        message += f" It runs on {there.node_name}: set spec.nodeName to {there.node_name}."
    return Verdict(Reason.DOMAIN_NOT_FOUND, message)


def handover_unresolved(s: Situation) -> Verdict:
    """Report what the former host reported, and what the user can do.

    Usually the user confirms exactly this report, or sets spec.nodeName back.
    """
    old, here = s.history.node_name, s.view.node.name
    other_machine = old == here
    if other_machine:
        old, here = f"{old} (the former machine)", f"{here} (the present machine)"
    if s.unresolved is Unresolved.MEMORY_HERE:
        message = (
            f"Memory of this VM is saved on {here} (managed save), but the last report is from {old}. So virtsync does "
            f"not know which of the two is newer, and does not start the VM. If the VM ran on {old} after this save, "
            f"restoring the memory would damage the disks of the VM: remove the saved memory on {here} with virsh "
            f"managedsave-remove. If the VM did not run on {old} after this save, restore it on {here} with virsh "
            "start."
        )
        return Verdict(Reason.SAVED_ELSEWHERE, message)
    if s.unresolved is Unresolved.MEMORY_THERE:
        back = (
            f" Set spec.nodeName back to {old}, start the VM or remove the saved memory there, and wait for the report."
        )
        message = (
            f"The memory of the VM was saved on {old}.{'' if other_machine else back} If {old} is lost, this command "
            f"discards that memory{_vouch(s)}"
        )
        return Verdict(Reason.SAVED_ELSEWHERE, message)
    if s.unresolved is Unresolved.SENT_AWAY:
        what = f"{old} migrated this VM to another host."
        how = "Set spec.nodeName to the node on which the VM runs"
    elif s.unresolved is Unresolved.OTHER_DOMAIN and s.history.domain:
        what = f"The last report of {old} is about another domain ({s.history.domain.bound_by})."
        how = f"Set spec.nodeName back to {old}, with the right spec.domain, and wait for the report"
        how = "Make sure that the VM does not run on the former machine" if other_machine else how
    else:
        what = f"{old} last reported this VM as {s.history.power_state}.{_doubt(s, old)}"
        how = f"Set spec.nodeName back to {old}, stop the VM there and wait for the report"
        how = "Stop the VM on the former machine" if other_machine else how
        how = "Set spec.nodeName to the node on which the VM runs" if _ran_elsewhere(s) else how
    message = (
        f"{what} So virtsync does not start the VM on {here}. Waiting does not help. {how}. If you are sure that the "
        f"VM is off, confirm it{_vouch(s)}"
    )
    return Verdict(Reason.HANDOVER_UNCONFIRMED, message)


def _vouch(s: Situation) -> str:
    """Return the command that confirms the report of the former host.

    Messages end with the command, so that it is easy to copy.
    """
    bare = " (a node name alone does not identify the run)" if s.vm.confirmed_off == s.history.node_name else ""
    return f"{bare}: {confirming(s, vouching(s.history))}"


def _doubt(s: Situation, old: str) -> str:
    """Return why a report of "off" by the host `old` is in doubt; empty: the report is not "off"."""
    if not s.history.was_off:
        return ""
    if s.history.operation:
        return " It had also recorded a start, and the result of that start is not known."
    if _ran_elsewhere(s):
        return " But the VM ran on another host then."
    if (AT_WORK | {Reason.STARTING}) & {s.history.reason, s.history.decided}:
        return f" But libvirt on {old} was still working on the VM."
    return f" But {old} could not observe the VM then, or has not reported since."


def _ran_elsewhere(s: Situation) -> bool:
    return s.history.decided == Reason.RUNS_ELSEWHERE


def power_state_unset(_s: Situation) -> Verdict:
    """Report that virtsync only observes the VM."""
    return Verdict(Reason.OBSERVED, "spec.powerState is not set, so virtsync only observes the VM.")


def unknown_state(s: Situation) -> Verdict:
    """Report the state as libvirt names it."""
    return Verdict(
        Reason.UNKNOWN_STATE,
        f"libvirt reports the state {s.domain.state}/{s.domain.reason}, which virtsync does not know.",
    )


def is_memory_elsewhere(s: Situation) -> bool:
    """Whether a start would not restore the memory of the VM, because it is on another host or in a file."""
    saved = s.phase is not Phase.SAVED and handover.memory_elsewhere(s.status)
    return s.wants_on and s.off and (handover.sent_away(s.status) or saved)


def memory_elsewhere(s: Situation) -> Verdict:
    """Report where the memory is, and what to do."""
    if handover.sent_away(s.status):
        return Verdict(
            Reason.MIGRATED_AWAY,
            "The VM was migrated to another host, so virtsync never starts it here. Set spec.nodeName to its new node.",
        )
    return Verdict(
        Reason.SAVED_ELSEWHERE,
        "Somebody saved the memory of the VM to a file (virsh save). A normal start would make that file useless. "
        "Restore the VM from the file with virsh restore.",
    )


def is_stop_accepted(s: Situation) -> bool:
    """Whether the restartPolicy leaves the VM off, and the user has not requested a start since."""
    if not s.wants_on or s.asked or s.cycling or s.start.again:
        return False
    if s.status.completion_time:
        return True
    # The restartPolicy applies once to each stop, and no longer when a start after this stop was already decided.
    fresh = s.history.decided not in {Reason.STARTING, Reason.START_FAILED, Reason.CRASH_LOOP_BACK_OFF} | UNSEEN
    fresh = fresh or s.status.last_stop != s.history.last_stop
    return fresh and s.cause is not None and causes.answer(s.cause, s.vm.restart_policy) is not causes.Answer.START


def stop_accepted(s: Situation) -> Verdict:
    """Report that the restartPolicy leaves the VM off, and record this decision as the completion time."""
    if not s.status.completion_time and (wait := settling(s) or braked(s)):
        return wait
    status = replace(s.status, completion_time=s.status.completion_time or s.now.to_api())
    if s.cause is StopCause.CRASH:
        message = f"The VM crashed, and spec.restartPolicy {s.vm.restart_policy} leaves it off."
        return Verdict(Reason.FAILED, message, status=status)
    sentence = f"{s.status.last_stop.message} " if s.status.last_stop else ""
    message = f"{sentence}spec.restartPolicy {s.vm.restart_policy} leaves the VM off."
    return Verdict(Reason.COMPLETED, message, status=status)


def is_guest_suspended(s: Situation) -> bool:
    """Whether the guest suspended itself, and the spec does not ask virtsync to wake it up."""
    if s.phase is not Phase.SUSPENDED or s.cycling:
        return False
    return s.desired is DesiredPowerState.PAUSED or (
        s.desired is DesiredPowerState.RUNNING and s.vm.restart_policy != "Always"
    )


def preserved(s: Situation) -> Verdict:
    """Report why the VM is kept for inspection."""
    if s.phase is Phase.PAUSED_WATCHDOG:
        message = "The watchdog paused the VM for inspection. virtsync does not resume it."
        return Verdict(Reason.PAUSED_BY_WATCHDOG, message)
    message = "The guest crashed, and QEMU keeps the VM for inspection (on_crash). virtsync takes no action."
    return Verdict(Reason.CRASHED_PRESERVED, message)


def transitioning(s: Situation) -> Verdict:
    """Wait until the VM is on or off, and report a shutdown that takes too long."""
    if s.phase is Phase.STARTING:
        return Verdict(Reason.STARTING, "The VM is starting.")
    left_s = s.now.until((s.memory.phase_since or s.now).plus(s.vm.shutdown.grace_s))
    if s.domain.lingers:
        reason = Reason.SHUTTING_DOWN if left_s > 0 else Reason.SHUTDOWN_TIMED_OUT
        return Verdict(reason, LINGERS, recheck_s=LINGER_RECHECK_S)
    if left_s > 0:
        return Verdict(
            Reason.SHUTTING_DOWN, "The VM is shutting down. virtsync waits until it is off.", recheck_s=left_s
        )
    message = (
        "The QEMU process of the VM has not exited within the grace period. The VM should be running, so virtsync does "
        "not force it off."
    )
    return Verdict(Reason.SHUTDOWN_TIMED_OUT, message)

"""Why a VM stopped, and what its restartPolicy says to that. Pure."""

from __future__ import annotations

from enum import Enum

from controller.api.virtualmachine import RestartPolicy, Status, StopCause
from controller.policy.view import Domain, Evidence, Phase, View


class Answer(Enum):
    """What follows from a stop of a VM that should be on."""

    START = "start"
    COMPLETED = "accept it as done"
    FAILED = "accept it as failed"


def cause_of_stop(domain: Domain, history: Status, view: View) -> StopCause:
    """Why a domain that was on is off now; `history` is the report from when it was on."""
    return _cause("SAVED" if domain.phase is Phase.SAVED else domain.reason, history, view)


def cause_of_end(history: Status, view: View) -> StopCause:
    """Why a domain that was on is no longer there: libvirt has forgotten it, and only events tell."""
    return _cause("", history, view)


def _cause(reason: str, history: Status, view: View) -> StopCause:  # noqa: PLR0911 - first match, one cause a line
    """The first that fits.

    libvirt's reason proves itself, because libvirtd forgets all of them when it restarts. SHUTOFF/CRASHED is the
    exception: a libvirtd that was away when the domain went off shows it of a clean poweroff too.
    """
    evidence = view.evidence
    if reason == "MIGRATED" or Evidence.STOPPED_MIGRATED in evidence:
        return StopCause.MIGRATED
    if reason == "SAVED":
        return StopCause.SAVED
    if ours(history, view.node.boot_id):
        return StopCause.AGENT
    if history.node_boot_id != view.node.boot_id:
        return StopCause.NODE_REBOOT
    if evidence & {Evidence.STOPPED_CRASHED, Evidence.STOPPED_FAILED} or (reason == "CRASHED" and _saw(history, view)):
        return StopCause.CRASH
    if reason in {"DESTROYED", "FROM_SNAPSHOT"} or Evidence.SHUTDOWN_HOST in evidence:
        return StopCause.EXTERNAL
    if reason == "SHUTDOWN" or Evidence.SHUTDOWN_GUEST in evidence:
        return StopCause.GUEST
    return StopCause.UNKNOWN


def _saw(history: Status, view: View) -> bool:
    """The libvirtd of now was there when the domain was reported on, and so has seen it go off."""
    operation, since = history.operation, history.power_state_transition_time
    on_since = operation.start_time if operation and operation.starts else since
    began = view.node.libvirtd_since
    return began is not None and on_since is not None and began < on_since


def ours(history: Status, boot_id: str) -> bool:
    """A stop of this very run was recorded before anything was done about it."""
    operation, record = history.operation, history.domain
    return (
        operation is not None
        and operation.domain_id is not None
        and history.node_boot_id == boot_id
        and record is not None
        and record.id == operation.domain_id
    )


def answer(cause: StopCause, policy: RestartPolicy) -> Answer:
    """What the restartPolicy says to a stop; of Migrated and of memory saved to a file it is never asked."""
    if cause is StopCause.AGENT or policy is RestartPolicy.ALWAYS:
        return Answer.START
    if cause is StopCause.GUEST:
        return Answer.COMPLETED
    if policy is RestartPolicy.ON_FAILURE:
        return Answer.START
    return Answer.FAILED if cause is StopCause.CRASH else Answer.COMPLETED


MESSAGES = {
    StopCause.GUEST: "The guest powered itself off.",
    StopCause.AGENT: "virtsync stopped it.",
    StopCause.EXTERNAL: "Somebody stopped it on the host.",
    StopCause.NODE_REBOOT: "The node went down or was rebooted.",
    StopCause.CRASH: "The guest or its QEMU crashed.",
    StopCause.SAVED: "Somebody saved its memory and stopped it.",
    StopCause.MIGRATED: "It was migrated away from this node.",
    StopCause.UNKNOWN: "It went off while nobody watched.",
}
"""One sentence for each cause; `status.lastStop.message`."""

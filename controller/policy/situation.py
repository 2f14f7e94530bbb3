"""The situation of a VM: the last report, updated with the present observation (see assess.py).

A situation contains all values that the rows of the decision table read. Examples are whether the user changed the
spec, which operation is in flight, why the domain is off, and since when it has been in its present state.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.clock import Now
from controller.api.notice import Notice
from controller.api.virtualmachine import (
    DesiredPowerState,
    Operation,
    OperationType,
    Reason,
    Status,
    StopCause,
    VirtualMachine,
)
from controller.policy.handover import Unresolved
from controller.policy.starts import Start
from controller.policy.view import STANDS_STILL, Domain, Phase, View, VmMemory
from controller.policy.waits import Waits

NO_START = Start()
UNSEEN = {Reason.LIBVIRT_UNREACHABLE, Reason.AGENT_UNREACHABLE}
"""Reasons of Ready which show that the domain was not observed."""
FORBIDDEN = {Reason.HELD, Reason.RUNS_ELSEWHERE}
"""The reasons of decisions that forbade a due action. Their end is not a request, so a settle time follows."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What one view means: the result of `assess`, and the input of the decision table."""

    view: View
    waits: Waits
    history: Status
    """The last report, as far as it is valid for this domain and this host.

    If the user has bound the object to another domain, only the reason of its decision is left.
    """
    status: Status
    """The draft of the next report, still with the conditions of the last report."""
    memory: VmMemory
    asked: bool = False
    """Whether the user has changed spec.powerState, and the change has not been served yet."""
    restart_due: bool = False
    """Whether a requested restart is due and not recorded yet."""
    refusal: str = ""
    """The message of the last action, if libvirt refused it, gave no result of it or did not answer before the call;
    empty otherwise."""
    unanswered: bool = False
    """Whether the recorded start was to be called again, and libvirt has given no answer again."""
    settled_at: Now | None = None
    """When the settle time is over; None: no settle time applies."""
    settles_forever: bool = False
    """Whether virtsync never corrects this kind of drift (--settle-pause never)."""
    unresolved: Unresolved | None = None
    """Why the report of another host forbids a start on this host; None: no such report forbids it.

    As long as it forbids a start, the report is kept unchanged.
    """
    start: Start = NO_START
    """The state of the recorded start."""
    recheck_s: float | None = None
    """In how many seconds to observe again for a requested restart."""
    notices: tuple[Notice, ...] = ()

    @property
    def vm(self) -> VirtualMachine:
        """The object."""
        return self.view.vm

    @property
    def now(self) -> Now:
        """The moment of the observation."""
        return self.view.now

    @property
    def desired(self) -> DesiredPowerState | None:
        """The power state that virtsync brings about: spec.powerState, or Stopped during maintenance of the host."""
        return self.view.desired

    @property
    def domain(self) -> Domain:
        """The observed domain. Callers use it only if a domain was observed."""
        assert isinstance(self.view.observed, Domain)  # noqa: S101 - earlier vetoes handle every other observation
        return self.view.observed

    @property
    def phase(self) -> Phase | None:
        """The phase of the observed domain; None: no domain was observed."""
        return self.view.observed.phase if isinstance(self.view.observed, Domain) else None

    @property
    def wants_on(self) -> bool:
        """Whether the VM should be on: running or paused."""
        return self.view.wants_on

    @property
    def off(self) -> bool:
        """Whether the domain exists and is off."""
        return self.phase is not None and self.phase.off

    @property
    def runs_only_elsewhere(self) -> bool:
        """Whether the manager has observed the VM running on another host, and its CPUs stand still here."""
        return self.view.running_elsewhere is not None and (self.off or self.phase in STANDS_STILL)

    @property
    def operation(self) -> Operation | None:
        """The operation that is still in flight; None: there is none."""
        return self.status.operation

    @property
    def cycling(self) -> bool:
        """Whether a restart is due or in flight."""
        return self.restart_due or (self.operation is not None and self.operation.type is OperationType.RESTART)

    @property
    def restart_scheduled(self) -> bool:
        """Whether a restart is requested for a later time."""
        request = self.vm.restart_request
        return self.recheck_s is not None and request is not None and request > self.now.wall

    @property
    def stopping(self) -> bool:
        """Whether a stop that is not part of a restart is in flight."""
        return self.operation is not None and self.operation.type is OperationType.STOP

    @property
    def guest_asked(self) -> bool:
        """Whether virtsync has asked the guest of this run to shut down, as far as the report shows."""
        return self.status.domain is not None and self.status.domain.shutdown_request_time is not None

    @property
    def cause(self) -> StopCause | None:
        """Why the domain is off; None: it is not off, or no stop was observed."""
        return self.status.last_stop.cause if self.off and self.status.last_stop else None

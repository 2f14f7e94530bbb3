"""What an observation means: the last report, updated with what was observed just now (see assess.py).

It contains everything that the rows of the table ask for: whether the user changed the spec, which operation is still
in flight, why the domain went off, and since when it is in its present state.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.api.clock import Now
from controller.api.virtualmachine import (
    DesiredPowerState,
    Operation,
    OperationType,
    Reason,
    Status,
    StopCause,
    VirtualMachine,
)
from controller.policy.handover import Elsewhere
from controller.policy.starts import Start
from controller.policy.view import Domain, Notice, Phase, View, VmMemory
from controller.policy.waits import Waits

NO_START = Start()


UNSEEN = {Reason.LIBVIRT_UNREACHABLE, Reason.AGENT_UNREACHABLE}
"""Reasons of Ready under which the domain was not observed."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A view, understood. `status` is the draft of the report, still with the old conditions."""

    view: View
    waits: Waits
    history: Status
    """The report on which this pass builds: empty if the user has bound the object to another domain."""
    status: Status
    memory: VmMemory
    asked: bool = False
    """The user has changed spec.powerState, and it has not been served yet."""
    restart_due: bool = False
    refusal: str = ""
    """libvirt's message, if it refused the action before this observation."""
    settled_at: Now | None = None
    """When the settle time is over; None: no settle time applies."""
    settles_forever: bool = False
    elsewhere: Elsewhere | None = None
    """Why the report of another host forbids a start here; that report is kept whole until then."""
    start: Start = NO_START
    """What has become of the recorded start."""
    recheck_s: float | None = None
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
        """What the user wants."""
        return self.view.vm.desired

    @property
    def domain(self) -> Domain:
        """The observed domain; used only if there is one."""
        assert isinstance(self.view.observed, Domain)  # noqa: S101 - the vetoes before it handle every other observation
        return self.view.observed

    @property
    def phase(self) -> Phase | None:
        """What the domain is doing, if one was observed."""
        return self.view.observed.phase if isinstance(self.view.observed, Domain) else None

    @property
    def wants_on(self) -> bool:
        """The user wants a QEMU."""
        return self.view.vm.wants_on

    @property
    def off(self) -> bool:
        """The domain exists and is off."""
        return self.phase is not None and self.phase.off

    @property
    def operation(self) -> Operation | None:
        """The operation that is still in flight."""
        return self.status.operation

    @property
    def cycling(self) -> bool:
        """A restart is requested or in progress."""
        return self.restart_due or (self.operation is not None and self.operation.type is OperationType.RESTART)

    @property
    def restart_scheduled(self) -> bool:
        """A restart is requested for a later time."""
        request = self.vm.restart_request
        return self.recheck_s is not None and request is not None and request > self.now.wall

    @property
    def stopping(self) -> bool:
        """A stop is in flight that is not part of a restart."""
        return self.operation is not None and self.operation.type is OperationType.STOP

    @property
    def cause(self) -> StopCause | None:
        """Why the domain is off, if a stop was observed."""
        return self.status.last_stop.cause if self.off and self.status.last_stop else None

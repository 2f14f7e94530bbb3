"""What a look means: the report of before, brought up to date with what was seen just now (assess.py).

Everything that the rows of the table ask for is found there once: whether the user changed the spec, what operation is
still in flight, why a domain went off, since when it is as it is.
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
"""Reasons of Ready under which the domain was not seen."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A view, understood. `status` is the draft of the report; the conditions are still those of before."""

    view: View
    waits: Waits
    history: Status
    """The report that this look builds on: empty where the user has bound the object to another domain."""
    status: Status
    memory: VmMemory
    asked: bool = False
    """The user has changed spec.powerState, and it has not been served yet."""
    restart_due: bool = False
    refusal: str = ""
    """libvirt's words, when the act before this look was refused."""
    settled_at: Now | None = None
    """When the settle time is over; None: nothing settles."""
    settles_forever: bool = False
    elsewhere: Elsewhere | None = None
    """Why the report of another host forbids a start here; while it does, that report is kept whole."""
    start: Start = NO_START
    """What has become of the start that is on record."""
    recheck_s: float | None = None
    notices: tuple[Notice, ...] = ()

    @property
    def vm(self) -> VirtualMachine:
        """The object."""
        return self.view.vm

    @property
    def now(self) -> Now:
        """The moment of the look."""
        return self.view.now

    @property
    def desired(self) -> DesiredPowerState | None:
        """What the user wants."""
        return self.view.vm.desired

    @property
    def domain(self) -> Domain:
        """The domain that was seen; asked for only where one was."""
        assert isinstance(self.view.observed, Domain)  # noqa: S101 - the vetoes before it have taken every other sight
        return self.view.observed

    @property
    def phase(self) -> Phase | None:
        """What the domain is doing, where one was seen."""
        return self.view.observed.phase if isinstance(self.view.observed, Domain) else None

    @property
    def wants_on(self) -> bool:
        """The user wants a QEMU."""
        return self.view.vm.wants_on

    @property
    def off(self) -> bool:
        """The domain is there and off."""
        return self.phase is not None and self.phase.off

    @property
    def operation(self) -> Operation | None:
        """The operation that is still in flight."""
        return self.status.operation

    @property
    def cycling(self) -> bool:
        """A restart is asked for or under way."""
        return self.restart_due or (self.operation is not None and self.operation.type is OperationType.RESTART)

    @property
    def restart_scheduled(self) -> bool:
        """A restart is asked for whose time has not come."""
        request = self.vm.restart_request
        return self.recheck_s is not None and request is not None and request > self.now.wall

    @property
    def stopping(self) -> bool:
        """A stop is in flight, and no restart."""
        return self.operation is not None and self.operation.type is OperationType.STOP

    @property
    def cause(self) -> StopCause | None:
        """Why it is off, as far as a stop was seen."""
        return self.status.last_stop.cause if self.off and self.status.last_stop else None

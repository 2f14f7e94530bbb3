"""Actions in flight. A libvirt call has no deadline, so each action has its own thread, and their number is limited.

A QEMU that hangs blocks a call until that QEMU continues or dies (measured; closing and reopening the connection does
not end a call inside the daemon). Therefore a domain gets no second action before the first one has returned, with one
exception: a forced stop can overtake a graceful one, because the forced stop ends a QEMU that hangs, and so also the
call that waits for this QEMU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog

from controller.api.clock import Now
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.policy.start_limiter import Line, StartLimiter
from controller.policy.view import Action, Domain, Outcome, Phase, PowerAction, Result, Step
from controller.runtime.errors import Rejected, Transient, Vanished

CALLS_AT_ONCE = 8
"""Maximum number of actions in flight in libvirtd: its pool has 20 workers, and other clients need some of them."""
HANGS_AFTER_S, RESTORE_HANGS_AFTER_S, FORCE_HANGS_AFTER_S = 30.0, 300.0, 10.0
"""After this time without an answer an action counts as hanging. A restore reads all memory of a VM, and a forced stop
waits until the kernel has killed QEMU, so they have their own limits."""
FORCED_AT_ONCE = 3
"""Maximum number of forced stops in flight, including those that hang."""
FORCE_TURN_S = 0.25
"""How long a forced stop usually takes; it takes 10 s if QEMU hangs."""
FORCE_RETRY_MAX_S = 10.0

log = structlog.get_logger()


def now() -> Now:
    """Return the present moment on both clocks."""
    return Now(datetime.now(UTC), time.monotonic())


class Actuator(Protocol):
    """Executes actions on domains. Thread-safe; a call blocks until libvirt answers, without a deadline."""

    def act(self, action: PowerAction) -> Result:
        """Execute the action if the domain is still as it was observed.

        Raises Transient (libvirt did not answer) and Rejected (with libvirt's message).
        """


@dataclass(slots=True)
class Turn(AbstractContextManager["Turn"]):
    """The permission to begin an action, or how long to wait for it. Leaving the context releases it, unless kept."""

    granted: bool
    wait_s: float = 0.0
    """After how many seconds to ask again. 0 without a grant: the maximum number of calls is in flight."""
    release: Callable[[], None] = field(default=lambda: None)
    """Releases the slots that a granted turn occupies."""
    kept: bool = False

    def keep(self) -> Callable[[], None]:
        """Keep the turn after its context has ended, and return the function that releases it."""
        self.kept = True
        return self.release

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.release()


NO_TURN = Turn(granted=False)
"""The turn of a step that has no action."""


@dataclass(eq=False, slots=True)
class _Call:
    action: PowerAction
    since: Now
    overtaken: bool = False

    def hangs(self, now_s: float) -> bool:
        """Whether the call has been in flight for longer than such an action normally takes."""
        return now_s - self.since.monotonic_s > _hangs_after_s(self.action)


class ActionRunner:
    """Runs the actions of one agent, each on its own thread, and keeps the record of those in flight. Thread-safe."""

    def __init__(
        self,
        actuator: Actuator,
        start_limiter: StartLimiter,
        *,
        ended: Callable[[VirtualMachine, Step, Outcome], None],
        spawn: Callable[[Callable[[], None]], None] | None = None,
        clock: Callable[[], Now] = now,
    ) -> None:
        """`ended` is called on the action's own thread, after `progress` can return the action's outcome."""
        self._actuator, self._start_limiter, self._ended = actuator, start_limiter, ended
        self._clock = clock
        self._spawn = spawn or _in_a_thread
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._polite, self._forcing = 0, 0
        self._to_be_forced = Line()
        self._unreported = 0
        """Number of actions that have begun and whose call of `ended` has not returned."""
        self._calls: dict[UUID, list[_Call]] = {}
        self._outcomes: dict[VmKey, Outcome] = {}

    def progress(self, key: VmKey, uuid: UUID | None) -> tuple[Outcome | None, tuple[Action, Now] | None]:
        """Return the outcome of the last action on this VM, and the action in flight on its domain with its start time.

        Each outcome is returned only once.
        """
        with self._lock:
            calls = self._calls.get(uuid) if uuid else None
            return self._outcomes.pop(key, None), (calls[-1].action.kind, calls[-1].since) if calls else None

    def locked(self, uuid: UUID | None) -> Domain | None:
        """Return the domain as it was observed before the start or forced stop that is in flight; None: there is none.

        During such a call libvirt holds the domain's lock, so an observation would show nothing new and block a thread.
        """
        with self._lock:
            calls = self._calls.get(uuid, ()) if uuid else ()
            return next(
                (call.action.domain for call in calls if call.action.kind is Action.DESTROY or call.action.kind.starts),
                None,
            )

    def forget(self, key: VmKey) -> None:
        """Drop the outcome of this VM's last action and its place in the line for a forced stop."""
        with self._lock:
            self._outcomes.pop(key, None)
            self._to_be_forced.leave(key)

    def turn(self, key: VmKey, action: Action, now_s: float, *, urgent: bool) -> Turn:
        """Request permission to begin this action on the VM. A granted turn must be used or released."""
        if action is Action.DESTROY:
            return self._turn_to_force(key, now_s)
        with self._lock:
            if self._polite + self._forced_at_once(now_s) >= CALLS_AT_ONCE:
                return Turn(granted=False)
            if action.starts:
                hanging = sum(call.action.kind.starts for call in self._hanging(now_s))
                wait_s = self._start_limiter.take(key, now_s, urgent=urgent, hanging=hanging)
                if wait_s > 0:
                    return Turn(granted=False, wait_s=wait_s)
            self._polite += 1
        return Turn(granted=True, release=partial(self._release, key if action.starts else None))

    def begin(self, vm: VirtualMachine, step: Step, action: PowerAction, release: Callable[[], None]) -> None:
        """Run the action on its own thread. Raises RuntimeError, after `release`, when no thread can be started."""
        call = _Call(action, self._clock())
        with self._lock:
            self._unreported += 1
            calls = self._calls.setdefault(action.domain.uuid, [])
            overtaken = [earlier for earlier in calls if not earlier.overtaken]
            for earlier in overtaken:
                earlier.overtaken = True
            calls.append(call)
        try:
            self._spawn(lambda: self._perform(vm, step, action, call, release))
        except BaseException:
            with self._lock:
                self._remove(call)
                for earlier in overtaken:
                    earlier.overtaken = False
            release()
            self._reported_one()
            raise

    def hanging(self, action: Action) -> int:
        """Number of actions of this kind that have been in flight for longer than such an action normally takes."""
        with self._lock:
            return sum(call.action.kind is action for call in self._hanging(self._clock().monotonic_s))

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the actions in flight; returns whether all have ended. libvirt keeps the rest."""
        with self._lock:
            return self._idle.wait_for(lambda: not self._unreported, timeout_s)

    def _perform(
        self, vm: VirtualMachine, step: Step, action: PowerAction, call: _Call, release: Callable[[], None]
    ) -> None:
        outcome = Outcome(action.kind, Result.UNKNOWN, "internal error in virtsync")
        try:
            outcome = self._outcome(action)
        except Exception:
            log.exception("internal error in an action", vm=str(vm.key), action=action.kind.name)
        finally:
            release()
            with self._lock:
                self._remove(call)
                # The forced stop made the overtaken action fail, so this failure is not a refusal by libvirt.
                if not call.overtaken:
                    self._outcomes[vm.key] = outcome
        try:
            self._report_end(vm, step, action, outcome)
        except Exception:
            log.exception(
                "internal error while recording the end of an action", vm=str(vm.key), action=action.kind.name
            )
        finally:
            self._reported_one()

    def _report_end(self, vm: VirtualMachine, step: Step, action: PowerAction, outcome: Outcome) -> None:
        log.info(
            "action finished",
            vm=str(vm.key),
            action=action.kind.name,
            result=outcome.result.value,
            reason=str(step.reason),
            last_stop_cause=str(step.status.last_stop.cause) if step.status.last_stop else None,
            generation=vm.generation,
            domain_id=action.domain.id,
            message=past_tense(step.message, outcome.result),
            error=outcome.message or None,
        )
        self._ended(vm, step, outcome)

    def _reported_one(self) -> None:
        with self._lock:
            self._unreported -= 1
            self._idle.notify_all()

    def _remove(self, call: _Call) -> None:
        """Remove the call from the record. The caller holds the lock."""
        calls = self._calls[call.action.domain.uuid]
        calls.remove(call)
        if not calls:
            del self._calls[call.action.domain.uuid]

    def _outcome(self, action: PowerAction) -> Outcome:
        try:
            return Outcome(action.kind, self._actuator.act(action))
        except Rejected as error:
            return Outcome(action.kind, Result.REFUSED, str(error))
        except (Transient, Vanished) as error:
            return Outcome(action.kind, Result.UNKNOWN, str(error))

    def _turn_to_force(self, key: VmKey, now_s: float) -> Turn:
        with self._lock:
            self._to_be_forced.leave_late(now_s - FORCE_RETRY_MAX_S)
            if self._forcing < self._forced_at_once(now_s) and self._polite + self._forcing < CALLS_AT_ONCE:
                self._to_be_forced.leave(key)
                self._forcing += 1
                return Turn(granted=True, release=self._release_force)
            wait_s = min(FORCE_TURN_S * (self._to_be_forced.ahead(key) + 1), FORCE_RETRY_MAX_S)
            self._to_be_forced.come_back(key, now_s + wait_s)
            return Turn(granted=False, wait_s=wait_s)

    def _forced_at_once(self, now_s: float) -> int:
        """Number of forced stops that are allowed in parallel, and of the calls reserved for them. Needs the lock.

        The number is one, because libvirtd answers no listing while it ends a QEMU that hangs, for 10 s. Each forced
        stop that takes longer adds one: a QEMU that waits for dead storage takes minutes, and the other VMs must not
        wait for it.
        """
        return min(1 + sum(call.action.kind is Action.DESTROY for call in self._hanging(now_s)), FORCED_AT_ONCE)

    def _hanging(self, now_s: float) -> list[_Call]:
        """The calls that have been in flight for longer than such calls normally take. The caller holds the lock."""
        return [call for calls in self._calls.values() for call in calls if call.hangs(now_s)]

    def _release(self, started: VmKey | None) -> None:
        with self._lock:
            self._polite -= 1
            if started:
                self._start_limiter.give_back(started)

    def _release_force(self) -> None:
        with self._lock:
            self._forcing -= 1


def past_tense(message: str, result: Result) -> str:
    """Return the message of a step as it reads after its action has ended with this result."""
    return message.replace(" is being ", " was " if result is Result.DONE else " was to be ", 1)


def _hangs_after_s(action: PowerAction) -> float:
    if action.kind is Action.DESTROY:
        return FORCE_HANGS_AFTER_S
    restores = action.kind.starts and action.domain.phase is Phase.SAVED
    return RESTORE_HANGS_AFTER_S if restores else HANGS_AFTER_S


def _in_a_thread(do: Callable[[], None]) -> None:
    """Run it on a daemon thread, because a call that libvirt never answers must not keep the process from exiting."""
    threading.Thread(target=do, name="action", daemon=True).start()

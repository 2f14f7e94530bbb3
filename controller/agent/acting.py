"""Acts under way. No call of libvirt has a deadline, so that each has a thread of its own, and there are only so many.

A QEMU that hangs holds a call until it wakes or dies (measured; recycling the connection ends no call within the
daemon). So a domain gets no second act before the first has returned, with one exception: force may overtake what was
asked politely, for it is what frees a QEMU that hangs, and the call with it.
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
"""Acts that this agent leaves unanswered in libvirtd at a time: its pool has 20 workers, and others need some."""
HANGS_AFTER_S, RESTORE_HANGS_AFTER_S, FORCE_HANGS_AFTER_S = 30.0, 300.0, 10.0
"""An act that has not returned for longer hangs; a restore reads all memory of a VM, a forced stop waits for a kill."""
FORCED_AT_ONCE = 3
"""Forced stops at a time, hanging ones too."""
FORCE_TURN_S = 0.25
"""How long to force a VM off takes, as a rule; with a QEMU that hangs it is 10 s."""
FORCE_RETRY_MAX_S = 10.0

log = structlog.get_logger()


def now() -> Now:
    """This moment."""
    return Now(datetime.now(UTC), time.monotonic())


class Actuator(Protocol):
    """What can be done to a domain. Any thread may call it; it takes as long as libvirt takes."""

    def act(self, action: PowerAction) -> Result:
        """Do it, if the domain is still as it was seen. Raises Transient (no answer), Rejected (libvirt's words)."""


@dataclass(slots=True)
class Turn(AbstractContextManager["Turn"]):
    """The right to begin an action, or how long to wait for it. It is given back at the end of the context, or kept."""

    granted: bool
    wait_s: float = 0.0
    """When to ask again; 0 without a grant: as many calls as libvirtd bears have not returned."""
    release: Callable[[], None] = field(default=lambda: None)
    """Gives back what a grant holds."""
    kept: bool = False

    def keep(self) -> Callable[[], None]:
        """Let the turn outlive its context; what is returned gives it back."""
        self.kept = True
        return self.release

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.release()


NO_TURN = Turn(granted=False)
"""For a step without an action."""


@dataclass(eq=False, slots=True)
class _Call:
    action: PowerAction
    since: Now
    overtaken: bool = False

    def hangs(self, now_s: float) -> bool:
        """It is out for longer than such an act takes."""
        return now_s - self.since.monotonic_s > _hangs_after_s(self.action)


class ActionRunner:
    """The acts of one agent that have begun and not returned. Any thread may use it."""

    def __init__(
        self,
        actuator: Actuator,
        start_limiter: StartLimiter,
        *,
        ended: Callable[[VirtualMachine, Step, Outcome], None],
        spawn: Callable[[Callable[[], None]], None] | None = None,
        clock: Callable[[], Now] = now,
    ) -> None:
        """`ended` is called on the act's own thread, when its outcome can be asked for."""
        self._actuator, self._start_limiter, self._ended = actuator, start_limiter, ended
        self._clock = clock
        self._spawn = spawn or _in_a_thread
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._polite, self._forcing = 0, 0
        self._to_be_forced = Line()
        self._untold = 0
        """Acts that have begun and of which `ended` has not been told."""
        self._calls: dict[UUID, list[_Call]] = {}
        self._outcomes: dict[VmKey, Outcome] = {}

    def news(self, key: VmKey, uuid: UUID | None) -> tuple[Outcome | None, tuple[Action, Now] | None]:
        """What came of the last act on this VM, once; and the act on its domain that has not returned, since when."""
        with self._lock:
            calls = self._calls.get(uuid) if uuid else None
            return self._outcomes.pop(key, None), (calls[-1].action.kind, calls[-1].since) if calls else None

    def locked(self, uuid: UUID | None) -> Domain | None:
        """The domain as it was when this agent began to start it or to force it off, while that has not returned.

        libvirt holds the lock of the domain meanwhile: a look would tell no more, and would hold up a thread.
        """
        with self._lock:
            calls = self._calls.get(uuid, ()) if uuid else ()
            return next(
                (call.action.domain for call in calls if call.action.kind is Action.DESTROY or call.action.kind.starts),
                None,
            )

    def forget(self, key: VmKey) -> None:
        """Nobody will ask for this VM's outcome any more."""
        with self._lock:
            self._outcomes.pop(key, None)
            self._to_be_forced.leave(key)

    def turn(self, key: VmKey, action: Action, now_s: float, *, urgent: bool) -> Turn:
        """Ask for the right to do this to the VM; what is granted must be used, or released."""
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
        """Do it on a thread of its own; raises RuntimeError, and has released, when no thread can be started."""
        call = _Call(action, self._clock())
        with self._lock:
            self._untold += 1
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
            self._told()
            raise

    def hanging(self, action: Action) -> int:
        """How many acts of this kind are out for longer than such an act takes."""
        with self._lock:
            return sum(call.action.kind is action for call in self._hanging(self._clock().monotonic_s))

    def wait(self, timeout_s: float) -> bool:
        """Wait so long for the acts under way, and leave what is left to libvirt; whether all have ended."""
        with self._lock:
            return self._idle.wait_for(lambda: not self._untold, timeout_s)

    def _perform(
        self, vm: VirtualMachine, step: Step, action: PowerAction, call: _Call, release: Callable[[], None]
    ) -> None:
        outcome = Outcome(action.kind, Result.UNKNOWN, "it failed inside virtsync")
        try:
            outcome = self._outcome(action)
        except Exception:
            log.exception("action failed inside virtsync", vm=str(vm.key), action=action.kind.name)
        finally:
            release()
            with self._lock:
                self._remove(call)
                # What force has cut short has failed because of it: that is no refusal.
                if not call.overtaken:
                    self._outcomes[vm.key] = outcome
        try:
            self._tell(vm, step, action, outcome)
        except Exception:
            log.exception(
                "could not report the end of an action inside virtsync", vm=str(vm.key), action=action.kind.name
            )
        finally:
            self._told()

    def _tell(self, vm: VirtualMachine, step: Step, action: PowerAction, outcome: Outcome) -> None:
        log.info(
            "action ended",
            vm=str(vm.key),
            action=action.kind.name,
            result=outcome.result.value,
            reason=str(step.reason),
            cause=str(step.status.last_stop.cause) if step.status.last_stop else None,
            generation=vm.generation,
            domain_id=action.domain.id,
            message=step.message,
            error=outcome.message or None,
        )
        self._ended(vm, step, outcome)

    def _told(self) -> None:
        with self._lock:
            self._untold -= 1
            self._idle.notify_all()

    def _remove(self, call: _Call) -> None:
        """Forget the call. Under the lock."""
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
        """How many VMs may be forced off at a time; so many calls are kept for it. Under the lock.

        One, because libvirtd answers no listing while it ends a QEMU that hangs, for 10 s. One more for each that takes
        longer: a QEMU that waits for dead storage takes minutes, and the other VMs do not wait with it.
        """
        return min(1 + sum(call.action.kind is Action.DESTROY for call in self._hanging(now_s)), FORCED_AT_ONCE)

    def _hanging(self, now_s: float) -> list[_Call]:
        """The calls that are out for longer than such calls take. Under the lock."""
        return [call for calls in self._calls.values() for call in calls if call.hangs(now_s)]

    def _release(self, started: VmKey | None) -> None:
        with self._lock:
            self._polite -= 1
            if started:
                self._start_limiter.give_back(started)

    def _release_force(self) -> None:
        with self._lock:
            self._forcing -= 1


def _hangs_after_s(action: PowerAction) -> float:
    if action.kind is Action.DESTROY:
        return FORCE_HANGS_AFTER_S
    restores = action.kind.starts and action.domain.phase is Phase.SAVED
    return RESTORE_HANGS_AFTER_S if restores else HANGS_AFTER_S


def _in_a_thread(do: Callable[[], None]) -> None:
    """A daemon thread: one that libvirt never answers must not keep the process from ending."""
    threading.Thread(target=do, name="act", daemon=True).start()

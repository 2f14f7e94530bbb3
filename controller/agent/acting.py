"""Runs actions on domains, and keeps a record of the actions in flight. Their number is limited.

Each action has its own thread, because a libvirt call has no deadline. If the QEMU of a domain hangs, the call blocks
until QEMU continues or dies (measured; closing the connection does not end the call in libvirtd). Therefore no second
action on the domain begins before the first has returned, with one exception: a forced stop may begin while another
action hangs, because it kills the QEMU that hangs, and then the other action returns too.
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
from controller.api.values import replace
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.policy.start_limiter import Line, StartLimiter
from controller.policy.view import Action, CallInFlight, Domain, Outcome, Phase, PowerAction, Result, Step
from controller.runtime.errors import Rejected, Transient, Unsent, Vanished

CALLS_AT_ONCE = 8
"""The maximum number of actions in flight. libvirtd has 20 workers, and other clients need some of them."""
HANGS_AFTER_S, RESTORE_HANGS_AFTER_S, FORCE_HANGS_AFTER_S = 30.0, 300.0, 10.0
"""An action hangs if it has been in flight for longer than this. There are separate limits for a restore, which reads
all memory of a VM, and for a forced stop, which waits until the kernel has killed QEMU."""
FORCED_AT_ONCE = 3
"""The maximum number of forced stops in flight, including those that hang."""
FORCE_TURN_S = 0.25
"""How long a forced stop usually takes. It takes 10 s if QEMU hangs."""
FORCE_RETRY_MAX_S = 10.0
"""The longest time after which a VM that waits for a forced stop asks again."""

log = structlog.get_logger()


def now() -> Now:
    """Return the current moment, on the wall clock and on the monotonic clock."""
    return Now(datetime.now(UTC), time.monotonic())


class Actuator(Protocol):
    """Executes actions on domains. Thread-safe; a call blocks until libvirt answers, without a deadline."""

    def act(self, action: PowerAction) -> Result:
        """Execute the action, unless the domain has changed since it was observed. Return the result.

        Raises Unsent if libvirt does not answer before the call, Transient if it does not answer the call, and Rejected
        with libvirt's message if it refuses.
        """


@dataclass(slots=True)
class Turn(AbstractContextManager["Turn"]):
    """The answer to a request to begin an action: a permission, or a time after which to ask again.

    As a context manager, it releases the permission at the end, unless `keep` was called.
    """

    granted: bool
    wait_s: float = 0.0
    """If the turn is not granted, the seconds after which to ask again; 0: not known, because the node is crowded."""
    crowded: bool = False
    """Whether the turn is not granted because the maximum number of calls is in flight."""
    release: Callable[[], None] = field(default=lambda: None)
    """Releases the slots that a granted turn occupies."""
    kept: bool = False
    """Whether `keep` was called."""

    def keep(self) -> Callable[[], None]:
        """Keep the permission after the end of the context. Returns the function that releases it."""
        self.kept = True
        return self.release

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.release()


NO_TURN = Turn(granted=False)
"""The turn of a pass that begins no action."""


@dataclass(eq=False, slots=True)
class _Call:
    action: PowerAction
    since: Now
    overtaken: bool = False
    """Whether a later action on the same domain has begun."""

    def hangs(self, now_s: float) -> bool:
        """Whether the call has been in flight for longer than such an action normally takes."""
        return now_s - self.since.monotonic_s > _hangs_after_s(self.action)


class ActionRunner:
    """Runs the actions of one agent, each on its own thread, and records the actions in flight. Thread-safe."""

    def __init__(
        self,
        actuator: Actuator,
        start_limiter: StartLimiter,
        *,
        ended: Callable[[VirtualMachine, Step, Outcome], None],
        spawn: Callable[[Callable[[], None]], None] | None = None,
        clock: Callable[[], Now] = now,
    ) -> None:
        """`ended` is called after each action, on the thread of the action. `progress` has the outcome by then.

        `spawn` runs a function on a thread; the default uses a new daemon thread for each.
        """
        self._actuator, self._start_limiter, self._ended = actuator, start_limiter, ended
        self._clock = clock
        self._spawn = spawn or _in_a_thread
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._polite, self._forcing = 0, 0
        self._to_be_forced = Line()
        self._unreported = 0
        """The number of actions that have begun and for which `ended` has not returned."""
        self._calls: dict[UUID, list[_Call]] = {}
        self._outcomes: dict[VmKey, Outcome] = {}
        self._quiet_s = float("-inf")
        """When the last turn was released or the last action ended, in monotonic seconds."""

    def quiet_since_s(self) -> float | None:
        """Return the monotonic time since which no action has been in flight or about to begin; None: an action is."""
        with self._lock:
            return None if self._polite or self._forcing or self._unreported else self._quiet_s

    def progress(self, key: VmKey, uuid: UUID | None) -> tuple[Outcome | None, CallInFlight | None]:
        """Return the outcome of the last action on the VM, and the call in flight on its domain.

        Each is None if there is none. An outcome is returned only once.
        """
        with self._lock:
            calls = self._calls.get(uuid) if uuid else None
            call = CallInFlight(calls[-1].action.kind, calls[-1].since) if calls else None
            return self._outcomes.pop(key, None), call

    def locked(self, uuid: UUID | None) -> Domain | None:
        """Return the last observation of a domain on which a start or forced stop is in flight; None: there is none.

        During such a call libvirt locks the domain. Another observation would block its thread and return nothing new.
        """
        with self._lock:
            calls = self._calls.get(uuid, ()) if uuid else ()
            return next(
                (call.action.domain for call in calls if call.action.kind is Action.DESTROY or call.action.kind.starts),
                None,
            )

    def forget(self, key: VmKey) -> None:
        """Drop the outcome of the VM's last action, and the VM's place in the queue for forced stops."""
        with self._lock:
            self._outcomes.pop(key, None)
            self._to_be_forced.leave(key)

    def turn(self, key: VmKey, action: Action, now_s: float, *, urgent: bool) -> Turn:
        """Request the permission to begin this action on the VM. The caller must use or release a granted turn."""
        if action is Action.DESTROY:
            return self._turn_to_force(key, now_s)
        with self._lock:
            if self._polite + self._forced_at_once(now_s) >= CALLS_AT_ONCE:
                return Turn(granted=False, crowded=True)
            if action.starts:
                hanging = sum(call.action.kind.starts for call in self._hanging(now_s))
                wait_s = self._start_limiter.take(key, now_s, urgent=urgent, hanging=hanging)
                if wait_s > 0:
                    return Turn(granted=False, wait_s=wait_s)
            self._polite += 1
        return Turn(granted=True, release=partial(self._release, key if action.starts else None))

    def begin(self, vm: VirtualMachine, step: Step, action: PowerAction, release: Callable[[], None]) -> None:
        """Run the action on its own thread, and call `release` when it has returned.

        If no thread can be started, calls `release` and raises RuntimeError.
        """
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
        """Return the number of actions of this kind that hang: they take longer than such an action normally takes."""
        with self._lock:
            return sum(call.action.kind is action for call in self._hanging(self._clock().monotonic_s))

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for the actions in flight. Returns whether all of them have ended.

        libvirt continues to execute the others.
        """
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
                # The forced stop makes an overtaken action fail, so that failure must not count as a refusal.
                outcome = replace(outcome, overtaken=call.overtaken)
                if not outcome.overtaken:
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
            self._quiet_s = self._clock().monotonic_s
            self._idle.notify_all()

    def _remove(self, call: _Call) -> None:
        """Remove the call from the calls in flight. The caller holds the lock."""
        calls = self._calls[call.action.domain.uuid]
        calls.remove(call)
        if not calls:
            del self._calls[call.action.domain.uuid]

    def _outcome(self, action: PowerAction) -> Outcome:
        try:
            return Outcome(action.kind, self._actuator.act(action))
        except Rejected as error:
            return Outcome(action.kind, Result.REFUSED, str(error))
        except Unsent as error:
            return Outcome(action.kind, Result.UNSENT, str(error))
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
        """Return how many forced stops may be in flight, which is also the number of slots reserved for them.

        Normally only one, because libvirtd cannot list domains while it kills a QEMU that hangs (10 s). Each forced
        stop that takes longer adds one, because a QEMU with dead storage takes minutes and other VMs must not wait for
        it. The caller holds the lock.
        """
        return min(1 + sum(call.action.kind is Action.DESTROY for call in self._hanging(now_s)), FORCED_AT_ONCE)

    def _hanging(self, now_s: float) -> list[_Call]:
        """Return the calls that take longer than such a call normally takes. The caller holds the lock."""
        return [call for calls in self._calls.values() for call in calls if call.hangs(now_s)]

    def _release(self, started: VmKey | None) -> None:
        with self._lock:
            self._polite -= 1
            self._quiet_s = self._clock().monotonic_s
            if started:
                self._start_limiter.give_back(started)

    def _release_force(self) -> None:
        with self._lock:
            self._forcing -= 1
            self._quiet_s = self._clock().monotonic_s


def past_tense(message: str, result: Result) -> str:
    """Return the message of a step in the past tense: "was" if its action was done, otherwise "was to be"."""
    return message.replace(" is being ", " was " if result is Result.DONE else " was to be ", 1)


def _hangs_after_s(action: PowerAction) -> float:
    if action.kind is Action.DESTROY:
        return FORCE_HANGS_AFTER_S
    restores = action.kind.starts and action.domain.phase is Phase.SAVED
    return RESTORE_HANGS_AFTER_S if restores else HANGS_AFTER_S


def _in_a_thread(do: Callable[[], None]) -> None:
    """Run the function on a daemon thread: a call that libvirt never answers must not keep the process from exiting."""
    threading.Thread(target=do, name="action", daemon=True).start()

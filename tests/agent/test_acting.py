"""Who may act when: a few at a time, force one at a time and never barred, and what is told of it afterwards."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.agent.acting import (
    CALLS_AT_ONCE,
    FORCE_HANGS_AFTER_S,
    FORCE_RETRY_MAX_S,
    FORCED_AT_ONCE,
    HANGS_AFTER_S,
    RESTORE_HANGS_AFTER_S,
    ActionRunner,
)
from controller.api.clock import Now
from controller.api.virtualmachine import Reason, Status, VirtualMachine, VmKey
from controller.policy.start_limiter import STARTS_AT_ONCE, StartLimiter
from controller.policy.view import Action, Domain, Outcome, Phase, PowerAction, Result, Step, VmMemory
from controller.runtime.errors import Rejected, Transient, Unsent, Vanished


class Node:
    """Acts that return when the test lets them, in the order it likes; with `threads`, each on a real thread."""

    def __init__(self, *, parallel_starts: int = 100, threads: bool = False) -> None:
        self.under_way: list[Callable[[], None]] = []
        self.ended: list[Outcome] = []
        self.refuses: set[Action] = set()
        self.fails: Exception | None = None
        self.spawn_fails = self.telling_fails = False
        self.now_s = 1000.0
        self.acting = ActionRunner(
            self,
            StartLimiter(parallel_starts, 0.0),
            ended=self._ended,
            spawn=None if threads else self._spawn,
            clock=lambda: Now(datetime.now(UTC), self.now_s),
        )

    def _ended(self, _vm: VirtualMachine, _step: Step, outcome: Outcome) -> None:
        if self.telling_fails:
            raise ValueError("a bug")
        self.ended.append(outcome)

    def _spawn(self, do: Callable[[], None]) -> None:
        if self.spawn_fails:
            raise RuntimeError("can't start new thread")
        self.under_way.append(do)

    def act(self, action: PowerAction) -> Result:
        if action.kind in self.refuses:
            raise Rejected("the monitor is gone")
        if self.fails:
            raise self.fails
        return Result.DONE

    def begin(
        self,
        name: str,
        action: Action,
        uuid: UUID | None = None,
        *,
        urgent: bool = True,
        phase: Phase = Phase.RUNNING,
    ) -> float | None:
        """Begin, and None; or how long to wait for the turn."""
        vm = VirtualMachine(VmKey("default", name), name, 1, "1", datetime.now(UTC), "node-a")
        turn = self.acting.turn(vm.key, action, self.now_s, urgent=urgent)
        if not turn.granted:
            return turn.wait_s
        domain = Domain(uuid or uuid4(), name, phase, 1, "RUNNING", "BOOTED")
        power_action = PowerAction(action, domain)
        step = Step(Reason.SHUTTING_DOWN, "", Status(), VmMemory(), action=power_action)
        self.acting.begin(vm, step, power_action, turn.release)
        return None

    def returns(self, index: int = 0) -> None:
        self.under_way.pop(index)()


def test_one_call_is_kept_for_force() -> None:
    node = Node()
    for number in range(CALLS_AT_ONCE - 1):
        assert node.begin(f"vm-{number}", Action.SHUTDOWN) is None
    for action in set(Action) - {Action.DESTROY}:
        assert node.begin("late", action) == 0.0
    assert node.begin("late", Action.DESTROY) is None
    node.returns()
    assert node.begin("late", Action.START) is None


def test_force_is_used_on_one_vm_at_a_time() -> None:
    node = Node()
    assert node.begin("first", Action.DESTROY) is None
    waits = [node.begin(f"vm-{number}", Action.DESTROY) or 0.0 for number in range(100)]
    # Each comes back a little later than the one before, so that not all ask at once, and none is forgotten.
    assert all(0 < earlier <= later for earlier, later in pairwise(waits))
    assert waits[0] < waits[1]
    assert waits[-1] == FORCE_RETRY_MAX_S
    assert node.begin("vm-0", Action.DESTROY) == waits[0]
    node.returns()
    assert node.begin("vm-7", Action.DESTROY) is None


def test_a_vm_is_forced_off_beside_one_that_takes_longer_than_ten_seconds_and_at_most_three_at_a_time() -> None:
    node = Node()
    for number in range(FORCED_AT_ONCE):
        assert node.begin(f"frozen-{number}", Action.DESTROY) is None
        assert (node.begin("healthy", Action.DESTROY) or 0.0) > 0
        node.now_s += FORCE_HANGS_AFTER_S
        assert (node.begin("healthy", Action.DESTROY) or 0.0) > 0
        node.now_s += 0.1
    assert (node.begin("healthy", Action.DESTROY) or 0.0) > 0
    assert node.acting.hanging(Action.DESTROY) == FORCED_AT_ONCE
    node.returns()
    assert node.begin("healthy", Action.DESTROY) is None
    assert node.acting.hanging(Action.DESTROY) == FORCED_AT_ONCE - 1


def test_who_is_being_forced_off_waits_no_longer() -> None:
    node = Node()
    assert node.begin("first", Action.DESTROY) is None
    wait_s = node.begin("second", Action.DESTROY)
    node.returns()
    assert node.begin("second", Action.DESTROY) is None
    assert node.begin("third", Action.DESTROY) == wait_s


def test_who_waits_to_be_forced_off_moves_up_when_others_no_longer_want_it() -> None:
    node = Node()
    assert node.begin("first", Action.DESTROY) is None
    waits = [node.begin(f"vm-{number}", Action.DESTROY) for number in range(100)]
    node.now_s += 3 * FORCE_RETRY_MAX_S
    assert node.begin("second", Action.DESTROY) is None
    assert node.begin("late", Action.DESTROY) == waits[0]


@pytest.mark.parametrize(
    ("phase", "hangs_after_s"), [(Phase.STOPPED, HANGS_AFTER_S), (Phase.SAVED, RESTORE_HANGS_AFTER_S)]
)
@pytest.mark.parametrize("action", [Action.START, Action.START_PAUSED])
def test_as_many_starts_again_begin_beside_those_that_hang(phase: Phase, hangs_after_s: float, action: Action) -> None:
    node = Node(parallel_starts=1)
    assert node.begin("hanging", action, phase=phase) is None
    node.now_s += hangs_after_s
    assert (node.begin("next", action) or 0.0) > 0
    node.now_s += 0.1
    assert node.begin("next", action) is None
    node.now_s += RESTORE_HANGS_AFTER_S + 0.1
    assert (node.begin("third", action) or 0.0) > 0
    assert node.acting.hanging(action) == 2


def test_starts_leave_half_of_the_calls_to_stops_even_when_all_of_them_hang() -> None:
    node = Node(parallel_starts=CALLS_AT_ONCE)
    for number in range(STARTS_AT_ONCE):
        assert node.begin(f"hanging-{number}", Action.START) is None
    node.now_s += HANGS_AFTER_S + 1
    assert (node.begin("next", Action.START) or 0.0) > 0
    for number in range(CALLS_AT_ONCE - STARTS_AT_ONCE - 1):
        assert node.begin(f"vm-{number}", Action.SHUTDOWN) is None
    assert node.begin("last", Action.DESTROY) is None


def test_beside_starts_that_hang_those_go_first_that_a_user_waits_for() -> None:
    node = Node(parallel_starts=1)
    assert node.begin("hanging", Action.START) is None
    assert (node.begin("other", Action.START, urgent=False) or 0.0) > 0
    assert (node.begin("changed", Action.START) or 0.0) > 0
    node.now_s += HANGS_AFTER_S
    assert (node.begin("changed", Action.START) or 0.0) > 0
    node.now_s += 0.1
    assert (node.begin("other", Action.START, urgent=False) or 0.0) > 0
    assert node.begin("changed", Action.START) is None


def test_a_start_without_a_turn_holds_up_nobody() -> None:
    node = Node(parallel_starts=1)
    assert node.begin("first", Action.START) is None
    for _ in range(2 * CALLS_AT_ONCE):
        assert (node.begin("second", Action.START) or 0.0) > 0
    assert node.begin("third", Action.SHUTDOWN) is None
    node.returns()
    assert node.begin("second", Action.START) is None


def test_what_came_of_an_act_is_told_once() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.begin("vm", Action.SHUTDOWN, uuid)
    outcome, call = node.acting.progress(key, uuid)
    assert outcome is None
    assert call is not None
    assert call[0] is Action.SHUTDOWN
    node.returns()
    assert node.ended == [Outcome(Action.SHUTDOWN, Result.DONE)]
    assert node.acting.progress(key, uuid) == (node.ended[0], None)
    assert node.acting.progress(key, uuid) == (None, None)


@pytest.mark.parametrize("action", [Action.START, Action.DESTROY])
def test_a_host_is_quiet_when_each_turn_was_used_or_given_back(action: Action) -> None:
    """A turn counts before its act begins: between the two, a maintenance might be acknowledged."""
    node = Node()
    assert node.acting.quiet_since_s() == float("-inf")
    vm = VmKey("default", "vm")
    turn = node.acting.turn(vm, action, node.now_s, urgent=True)
    assert node.acting.quiet_since_s() is None
    node.now_s += 1
    turn.release()
    assert node.acting.quiet_since_s() == node.now_s
    node.begin("vm", action)
    assert node.acting.quiet_since_s() is None
    node.now_s += 5
    node.returns()
    assert node.acting.quiet_since_s() == node.now_s


def test_force_overtakes_and_what_it_cut_short_is_no_refusal() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.refuses = {Action.SHUTDOWN}
    node.begin("vm", Action.SHUTDOWN, uuid)
    assert node.acting.locked(uuid) is None
    node.begin("vm", Action.DESTROY, uuid)
    forced = node.acting.locked(uuid)
    assert forced is not None
    assert forced.uuid == uuid
    node.returns(0)
    outcome, call = node.acting.progress(key, uuid)
    assert outcome is None
    assert [(ended.result, ended.overtaken) for ended in node.ended] == [(Result.REFUSED, True)]
    assert call is not None
    assert call[0] is Action.DESTROY
    node.returns(0)
    assert node.acting.progress(key, uuid) == (Outcome(Action.DESTROY, Result.DONE), None)
    assert node.acting.locked(uuid) is None


def test_nobody_is_told_what_came_of_an_act_on_a_vm_that_is_forgotten() -> None:
    node, key = Node(), VmKey("default", "vm")
    node.begin("vm", Action.SHUTDOWN)
    node.returns()
    node.acting.forget(key)
    assert node.acting.progress(key, None) == (None, None)


def test_an_ending_agent_waits_for_its_acts_and_no_longer_than_it_may() -> None:
    node = Node()
    assert node.acting.wait(0.0)
    node.begin("vm", Action.SHUTDOWN)
    assert not node.acting.wait(0.01)
    node.returns()
    assert node.acting.wait(0.0)


HANGS = {
    (Action.START, Phase.STOPPED): HANGS_AFTER_S,
    (Action.START, Phase.SAVED): RESTORE_HANGS_AFTER_S,
    (Action.DESTROY, Phase.RUNNING): FORCE_HANGS_AFTER_S,
    (Action.SHUTDOWN, Phase.RUNNING): HANGS_AFTER_S,
}
"""The kinds of acts, and when each is one that hangs."""


class Turns(RuleBasedStateMachine):
    """Acts are asked for, begin, hang and return in any order. What is out is counted here as well."""

    def __init__(self) -> None:
        super().__init__()
        self.parallel = 2
        self.node = Node(parallel_starts=self.parallel)
        self.out: list[tuple[Action, Phase, float]] = []
        self.vms = 0

    def count(self, *verbs: Action, hanging: bool | None = None) -> int:
        """How many of these kinds are out, or of them those that hang, or those that do not."""
        ages = [(action, self.node.now_s - at_s > HANGS[action, phase]) for action, phase, at_s in self.out]
        return sum(action in verbs and hanging in {None, hangs} for action, hangs in ages)

    def may_begin(self, action: Action) -> bool:
        """Whether the rule lets one more of this kind begin."""
        forced_at_once = min(1 + self.count(Action.DESTROY, hanging=True), 3)
        if action is Action.DESTROY:
            return self.count(Action.DESTROY) < forced_at_once and len(self.out) < 8
        if self.count(Action.START, Action.SHUTDOWN) + forced_at_once >= 8:
            return False
        hanging = self.count(Action.START, hanging=True)
        return action is Action.SHUTDOWN or self.count(Action.START) < min(
            self.parallel + min(hanging, self.parallel), 4
        )

    @rule(kind=st.sampled_from(sorted(HANGS, key=str)))
    def ask(self, kind: tuple[Action, Phase]) -> None:
        """A VM that nobody has heard of asks once: it is let exactly if the rule lets it."""
        action, phase = kind
        may_begin = self.may_begin(action)
        self.vms += 1
        key = VmKey("default", f"vm-{self.vms}")
        wait_s = self.node.begin(key.name, action, phase=phase)
        assert (wait_s is None) == may_begin
        if wait_s is None:
            self.out.append((action, phase, self.node.now_s))

    @rule(seconds=st.sampled_from([1.0, 11.0, 31.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing returns meanwhile."""
        self.node.now_s += seconds

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_returns(self, data: st.DataObject) -> None:
        """In any order."""
        index = data.draw(st.integers(0, len(self.out) - 1))
        del self.out[index]
        self.node.returns(index)

    @invariant()
    def no_more_calls_than_libvirtd_bears(self) -> None:
        """However many hang."""
        assert len(self.out) <= 8
        assert self.count(Action.START) <= 4
        assert self.count(Action.DESTROY) <= 3

    @invariant()
    def what_hangs_is_counted(self) -> None:
        """For the metrics."""
        for action in (Action.START, Action.DESTROY, Action.SHUTDOWN):
            assert self.node.acting.hanging(action) == self.count(action, hanging=True)


test_turns_are_as_the_rule_says_whatever_hangs = Turns.TestCase


@contextmanager
def no_more_threads() -> Iterator[None]:
    """No thread can be started, as at the limit of processes or of memory: its stack would not fit."""
    before = threading.stack_size(2**46)
    try:
        yield
    finally:
        threading.stack_size(before)


@pytest.mark.parametrize("action", [Action.SHUTDOWN, Action.START, Action.DESTROY])
def test_an_act_whose_thread_cannot_be_started_holds_nothing(action: Action) -> None:
    node, uuid, key = Node(parallel_starts=1, threads=True), uuid4(), VmKey("default", "vm")
    with no_more_threads():
        for _ in range(2 * CALLS_AT_ONCE):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                node.begin("vm", action, uuid)
    assert node.acting.progress(key, uuid) == (None, None)
    assert node.acting.wait(0.0)
    assert node.begin("vm", action, uuid) is None
    assert node.acting.wait(60)
    assert node.ended == [Outcome(action, Result.DONE)]


@pytest.mark.parametrize(
    ("error", "result"),
    [(Rejected, Result.REFUSED), (Transient, Result.UNKNOWN), (Unsent, Result.UNSENT), (Vanished, Result.UNKNOWN)],
)
def test_an_act_that_fails_has_a_result_that_says_what_libvirt_may_have_received(
    error: type[Exception], result: Result
) -> None:
    node, uuid = Node(), uuid4()
    node.fails = error("why")
    node.begin("vm", Action.SHUTDOWN, uuid)
    node.returns()
    assert node.acting.progress(VmKey("default", "vm"), uuid)[0] == Outcome(Action.SHUTDOWN, result, "why")


def test_force_that_could_not_begin_has_overtaken_nothing() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.refuses = {Action.SHUTDOWN}
    node.begin("vm", Action.SHUTDOWN, uuid)
    node.spawn_fails = True
    with pytest.raises(RuntimeError):
        node.begin("vm", Action.DESTROY, uuid)
    node.returns()
    assert node.acting.progress(key, uuid)[0] == Outcome(Action.SHUTDOWN, Result.REFUSED, "the monitor is gone")


def test_an_ending_agent_does_not_wait_for_an_act_whose_end_could_not_be_told() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.telling_fails = True
    node.begin("vm", Action.SHUTDOWN, uuid)
    node.returns()
    assert node.acting.wait(0.0)
    assert node.acting.progress(key, uuid) == (Outcome(Action.SHUTDOWN, Result.DONE), None)

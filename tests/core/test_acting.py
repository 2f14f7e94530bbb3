"""Who may act when: a few at a time, force one at a time and never barred, and what is told of it afterwards."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from controller.acting import CALLS_AT_ONCE, FORCE_RETRY_MAX_S, POLITE_AT_ONCE, Acting
from controller.errors import Rejected
from controller.model import (
    Act,
    Domain,
    Memory,
    Outcome,
    Phase,
    Reason,
    Result,
    Status,
    Step,
    Verb,
    VirtualMachine,
    VmKey,
)
from controller.pacing import Pace


class Node:
    """Acts that return when the test lets them, in the order it likes; with `threads`, each on a real thread."""

    def __init__(self, *, parallel_starts: int = 100, threads: bool = False) -> None:
        self.under_way: list[Callable[[], None]] = []
        self.ended: list[Outcome] = []
        self.refuses: set[Verb] = set()
        self.spawn_fails = self.telling_fails = False
        self.acting = Acting(
            self,
            Pace(parallel_starts, 0.0),
            ended=self._ended,
            spawn=None if threads else self._spawn,
        )

    def _ended(self, _vm: VirtualMachine, _step: Step, outcome: Outcome) -> None:
        if self.telling_fails:
            raise ValueError("a bug")
        self.ended.append(outcome)

    def _spawn(self, do: Callable[[], None]) -> None:
        if self.spawn_fails:
            raise RuntimeError("can't start new thread")
        self.under_way.append(do)

    def act(self, act: Act) -> Result:
        if act.verb in self.refuses:
            raise Rejected("the monitor is gone")
        return Result.DONE

    def begin(self, name: str, verb: Verb, uuid: UUID | None = None) -> float | None:
        """Begin, and None; or how long to wait for the turn."""
        vm = VirtualMachine(VmKey("default", name), name, 1, "1", datetime.now(UTC), "node-a")
        turn = self.acting.turn(vm.key, verb, 0.0, urgent=True)
        if not turn.granted:
            return turn.wait_s
        domain = Domain(uuid or uuid4(), name, Phase.RUNNING, 1, "RUNNING", "BOOTED")
        act = Act(verb, domain)
        self.acting.begin(vm, Step(Reason.SHUTTING_DOWN, "", Status(), Memory(), act=act), act, turn.release)
        return None

    def returns(self, index: int = 0) -> None:
        self.under_way.pop(index)()


def test_one_call_is_kept_for_force() -> None:
    node = Node()
    for number in range(POLITE_AT_ONCE):
        assert node.begin(f"vm-{number}", Verb.SHUTDOWN) is None
    for verb in set(Verb) - {Verb.DESTROY}:
        assert node.begin("late", verb) == 0.0
    assert node.begin("late", Verb.DESTROY) is None
    node.returns()
    assert node.begin("late", Verb.START) is None


def test_force_is_used_on_one_vm_at_a_time() -> None:
    node = Node()
    assert node.begin("first", Verb.DESTROY) is None
    waits = [node.begin(f"vm-{number}", Verb.DESTROY) or 0.0 for number in range(100)]
    # Each comes back a little later than the one before, so that not all ask at once, and none is forgotten.
    assert all(0 < earlier <= later for earlier, later in pairwise(waits))
    assert waits[0] < waits[1]
    assert waits[-1] == FORCE_RETRY_MAX_S
    assert node.begin("vm-0", Verb.DESTROY) == waits[0]
    node.returns()
    assert node.begin("vm-7", Verb.DESTROY) is None


def test_a_start_without_a_turn_holds_up_nobody() -> None:
    node = Node(parallel_starts=1)
    assert node.begin("first", Verb.START) is None
    for _ in range(2 * POLITE_AT_ONCE):
        assert (node.begin("second", Verb.START) or 0.0) > 0
    assert node.begin("third", Verb.SHUTDOWN) is None
    node.returns()
    assert node.begin("second", Verb.START) is None


def test_what_came_of_an_act_is_told_once() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.begin("vm", Verb.SHUTDOWN, uuid)
    outcome, call = node.acting.news(key, uuid)
    assert outcome is None
    assert call is not None
    assert call[0] is Verb.SHUTDOWN
    node.returns()
    assert node.ended == [Outcome(Verb.SHUTDOWN, Result.DONE)]
    assert node.acting.news(key, uuid) == (node.ended[0], None)
    assert node.acting.news(key, uuid) == (None, None)


def test_force_overtakes_and_what_it_cut_short_is_no_refusal() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.refuses = {Verb.SHUTDOWN}
    node.begin("vm", Verb.SHUTDOWN, uuid)
    assert node.acting.locked(uuid) is None
    node.begin("vm", Verb.DESTROY, uuid)
    forced = node.acting.locked(uuid)
    assert forced is not None
    assert forced.uuid == uuid
    node.returns(0)
    outcome, call = node.acting.news(key, uuid)
    assert outcome is None
    assert call is not None
    assert call[0] is Verb.DESTROY
    node.returns(0)
    assert node.acting.news(key, uuid) == (Outcome(Verb.DESTROY, Result.DONE), None)
    assert node.acting.locked(uuid) is None


def test_nobody_is_told_what_came_of_an_act_on_a_vm_that_is_forgotten() -> None:
    node, key = Node(), VmKey("default", "vm")
    node.begin("vm", Verb.SHUTDOWN)
    node.returns()
    node.acting.forget(key)
    assert node.acting.news(key, None) == (None, None)


def test_an_ending_agent_waits_for_its_acts_and_no_longer_than_it_may() -> None:
    node = Node()
    assert node.acting.wait(0.0)
    node.begin("vm", Verb.SHUTDOWN)
    assert not node.acting.wait(0.01)
    node.returns()
    assert node.acting.wait(0.0)


@contextmanager
def no_more_threads() -> Iterator[None]:
    """No thread can be started, as at the limit of processes or of memory: its stack would not fit."""
    before = threading.stack_size(2**46)
    try:
        yield
    finally:
        threading.stack_size(before)


@pytest.mark.parametrize("verb", [Verb.SHUTDOWN, Verb.START, Verb.DESTROY])
def test_an_act_whose_thread_cannot_be_started_holds_nothing(verb: Verb) -> None:
    node, uuid, key = Node(parallel_starts=1, threads=True), uuid4(), VmKey("default", "vm")
    with no_more_threads():
        for _ in range(2 * CALLS_AT_ONCE):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                node.begin("vm", verb, uuid)
    assert node.acting.news(key, uuid) == (None, None)
    assert node.acting.wait(0.0)
    assert node.begin("vm", verb, uuid) is None
    assert node.acting.wait(60)
    assert node.ended == [Outcome(verb, Result.DONE)]


def test_force_that_could_not_begin_has_overtaken_nothing() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.refuses = {Verb.SHUTDOWN}
    node.begin("vm", Verb.SHUTDOWN, uuid)
    node.spawn_fails = True
    with pytest.raises(RuntimeError):
        node.begin("vm", Verb.DESTROY, uuid)
    node.returns()
    assert node.acting.news(key, uuid)[0] == Outcome(Verb.SHUTDOWN, Result.REFUSED, "the monitor is gone")


def test_an_ending_agent_does_not_wait_for_an_act_whose_end_could_not_be_told() -> None:
    node, uuid, key = Node(), uuid4(), VmKey("default", "vm")
    node.telling_fails = True
    node.begin("vm", Verb.SHUTDOWN, uuid)
    node.returns()
    assert node.acting.wait(0.0)
    assert node.acting.news(key, uuid) == (Outcome(Verb.SHUTDOWN, Result.DONE), None)

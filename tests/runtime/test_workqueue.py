"""The queue keeps client-go's promises: never twice in it, never in two actuator, never lost."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from controller.runtime.metrics import WorkQueueMetrics
from controller.runtime.workqueue import RETRY_FIRST_S, RETRY_MAX_S, SPREAD, WorkQueue

HANG_S = 60.0
KEYS = st.integers(0, 4)
DELAYS_S = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 100.0])


class Clock:
    """A clock that goes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class QueueAgainstItsModel(RuleBasedStateMachine):
    """Whatever is done to the queue, in whatever order, a simple model of sets tells what it hands out."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.registry = Clock(), CollectorRegistry()
        self.queue: WorkQueue[int] = WorkQueue(
            WorkQueueMetrics(self.registry, "virtualmachine"), clock=self.clock, uniform=lambda _, longest: longest
        )
        self.turn = 0
        self.waiting: dict[int, tuple[int, float]] = {}
        """Keys that could be handed out, by when they came: of two that came together the one due first is first."""
        self.working: set[int] = set()
        self.again: set[int] = set()
        self.due: dict[int, float] = {}
        self.failures: Counter[int] = Counter()
        self.barred: dict[int, float] = {}
        self.adds = 0

    def came(self, key: int, due_s: float = 0.0) -> None:
        if key in self.waiting or key in self.again:
            return
        self.adds += 1
        if key in self.working:
            self.again.add(key)
        else:
            self.waiting[key] = (self.turn, due_s)

    def release(self) -> None:
        self.turn += 1
        for key in [key for key, at in self.due.items() if at <= self.clock.now_s]:
            self.came(key, self.due.pop(key))

    def delay(self, key: int, delay_s: float) -> None:
        at = self.clock.now_s + delay_s
        self.due[key] = min(self.due.get(key, at), at)

    @rule(key=KEYS)
    def add(self, key: int) -> None:
        self.turn += 1
        self.came(key)
        self.queue.add(key)

    @rule(key=KEYS, delay_s=DELAYS_S)
    def add_after(self, key: int, delay_s: float) -> None:
        if delay_s:
            self.delay(key, delay_s)
        else:
            self.turn += 1
            self.came(key)
        self.queue.add_after(key, delay_s)

    @rule(delay_s=DELAYS_S)
    def time_passes(self, delay_s: float) -> None:
        self.clock.now_s += delay_s

    @precondition(lambda self: self.waiting or any(self.ripe(key) for key in self.due))
    @rule(target=taken)
    def get(self) -> int:
        self.release()
        key = self.queue.get()
        assert key is not None
        assert self.waiting[key] == min(self.waiting.values())
        del self.waiting[key]
        self.working.add(key)
        return key

    def ripe(self, key: int) -> bool:
        return self.due[key] <= self.clock.now_s and key not in self.working

    @rule(key=consumes(taken))
    def done(self, key: int) -> None:
        self.turn += 1
        self.working.remove(key)
        if key in self.again:
            self.again.remove(key)
            self.waiting[key] = (self.turn, 0.0)
        self.queue.done(key)

    @rule(key=KEYS, not_before_s=st.sampled_from([0.0, 1.0, 30.0]))
    def retry(self, key: int, not_before_s: float) -> None:
        self.failures[key] += 1
        wait_s = min(RETRY_FIRST_S * 2 ** (self.failures[key] - 1), RETRY_MAX_S)
        self.delay(key, max(wait_s, not_before_s * SPREAD))
        if not_before_s:
            self.barred[key] = self.clock.now_s + not_before_s
        self.queue.retry(key, not_before_s=not_before_s)

    @rule(key=KEYS)
    def forget(self, key: int) -> None:
        del self.failures[key]
        self.barred.pop(key, None)
        self.queue.forget(key)

    @rule(spread_s=st.sampled_from([0.0, 5.0]))
    def retry_failed_now(self, spread_s: float) -> None:
        for key in self.failures:
            if key not in self.waiting and key not in self.again:
                self.delay(key, max(0.0, self.barred.get(key, 0.0) - self.clock.now_s) + spread_s)
        self.queue.retry_failed_now(spread_s)

    @invariant()
    def the_depth_is_what_could_be_handed_out(self) -> None:
        depth = len(self.waiting.keys() | {key for key in self.due if self.ripe(key)})
        assert len(self.queue) == depth
        assert self.sample("workqueue_depth") == depth

    @invariant()
    def at_rest_when_nothing_is_wanted_or_in_hand(self) -> None:
        assert self.queue.drain(0) is not bool(self.waiting or self.working)

    def teardown(self) -> None:
        while self.waiting or any(self.ripe(key) for key in self.due):
            self.done(self.get())
        assert self.sample("workqueue_adds_total") == self.adds
        assert self.sample("workqueue_longest_running_processor_seconds") <= self.sample(
            "workqueue_unfinished_work_seconds"
        )
        self.queue.close()
        assert self.queue.get() is None

    def sample(self, name: str) -> float:
        value = self.registry.get_sample_value(name, {"name": "virtualmachine"})
        assert value is not None
        return value


TestQueueAgainstItsModel = QueueAgainstItsModel.TestCase


def test_a_key_added_while_worked_on_comes_back_once_when_that_is_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    assert queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0
    assert queue.drain(0)


def test_the_earliest_of_several_delays_counts() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    for delay_s in (50.0, 5.0, 20.0):
        queue.add_after("a", delay_s)
    clock.now_s += 4
    assert len(queue) == 0
    clock.now_s += 1
    assert queue.get() == "a"
    queue.done("a")
    clock.now_s += 100
    assert len(queue) == 0


def test_delays_that_no_longer_count_take_no_room() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add_after("before them all", 40_000)
    for _ in range(1000):
        queue.add_after("a", 86_400)
        queue.add_after("a", 1)
        clock.now_s += 1
        assert queue.get() == "a"
        queue.done("a")
    assert len(queue._delayed) < 50


def test_each_failure_in_a_row_waits_longer_up_to_a_limit_until_one_pass_goes_well() -> None:
    clock, asked = Clock(), list[tuple[float, float]]()

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return most

    queue: WorkQueue[str] = WorkQueue(clock=clock, uniform=uniform)
    for _ in range(2000):
        queue.retry("a")
    assert asked[:3] == [(0.05, 0.1), (0.1, 0.2), (0.2, 0.4)]
    assert asked[-1] == (15.0, 30.0)
    queue.forget("a")
    queue.retry("a")
    assert asked[-1] == (0.05, 0.1)


class Watched(Clock):
    """A clock that goes by itself, and tells when somebody has looked at it."""

    def __init__(self) -> None:
        self.looked = threading.Semaphore(0)

    def __call__(self) -> float:
        self.looked.release()
        return time.monotonic()

    def wait_for_takers(self, count: int) -> None:
        """Until so many threads are in `get`: they look with the lock held, and leave that only to wait."""
        for _ in range(count):
            assert self.looked.acquire(timeout=HANG_S)


def test_what_has_failed_need_not_wait_once_what_hindered_it_is_over() -> None:
    clock = Clock()
    queue: WorkQueue[int] = WorkQueue(clock=clock)
    for _ in range(20):
        for key in range(100):
            queue.retry(key)
        clock.now_s += 30
        for _ in range(len(queue)):
            queue.done(queue.get() or 0)
    for key in range(100):
        queue.retry(key)
    queue.add_after(-1, 10)
    queue.retry_failed_now(5.0)
    came = []
    for _ in range(10):
        came.append(len(queue))
        clock.now_s += 0.5
    assert came[0] == 0
    assert max(after - before for before, after in pairwise(came)) < 30, "they come all at once"
    assert len(queue) == 100


def test_who_was_asked_to_wait_waits_whatever_is_over() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.retry("a", not_before_s=20)
    queue.retry("b")
    queue.retry_failed_now(5.0)
    clock.now_s += 19.9
    assert len(queue) == 1, "a waits"
    clock.now_s += 0.1 + 20 * (SPREAD - 1)
    assert len(queue) == 2
    queue.add("a")
    assert queue.get() in {"a", "b"}


def test_news_of_a_key_do_not_wait_for_what_was_asked_of_it() -> None:
    queue: WorkQueue[str] = WorkQueue(clock=Clock())
    queue.retry("a", not_before_s=20)
    queue.add("a")
    assert queue.get() == "a"


def test_whoever_takes_a_key_hands_on_what_is_due_next() -> None:
    clock = Watched()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    with ThreadPoolExecutor(2) as pool:
        takers = [pool.submit(queue.get) for _ in range(2)]
        clock.wait_for_takers(2)
        queue.add_after("first", 0.01)
        queue.add_after("second", 0.02)
        try:
            # Nobody gives a key back: each must find its own.
            assert sorted(str(taker.result(HANG_S)) for taker in takers) == ["first", "second"]
        finally:
            queue.close()


def add(queue: WorkQueue[str]) -> None:
    queue.add("a")


def add_later(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0.01)


def give_back(queue: WorkQueue[str]) -> None:
    queue.done("wanted again")


@pytest.mark.parametrize(("come", "key"), [(add, "a"), (add_later, "a"), (give_back, "wanted again")])
def test_whoever_waits_is_woken_for_a_key(come: Callable[[WorkQueue[str]], None], key: str) -> None:
    clock = Watched()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add("wanted again")
    queue.get()
    queue.add("wanted again")
    while clock.looked.acquire(blocking=False):
        pass
    with ThreadPoolExecutor(1) as pool:
        taker = pool.submit(queue.get)
        clock.wait_for_takers(1)
        come(queue)
        try:
            assert taker.result(HANG_S) == key
        finally:
            queue.close()


def test_a_key_that_is_due_in_centuries_does_not_end_a_worker() -> None:
    """Python's locks cannot wait for longer than 292 years."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("in 374 years", 374 * 365 * 86400.0)
    with ThreadPoolExecutor(1) as pool:
        taker = pool.submit(queue.get)
        time.sleep(0.1)
        queue.add("now")
        try:
            assert taker.result(HANG_S) == "now"
        finally:
            queue.close()


def test_closing_wakes_everybody_and_drops_the_rest() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("later", 3600)
    with ThreadPoolExecutor(4) as pool:
        takers = [pool.submit(queue.get) for _ in range(4)]
        queue.close()
        assert [taker.result(HANG_S) for taker in takers] == [None] * 4
    queue.add("a")
    queue.add_after("b", 0.001)
    queue.retry("c")
    assert len(queue) == 0
    assert queue.get() is None


def test_a_key_in_hand_may_be_given_back_after_closing() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.get()
    queue.add("a")
    queue.close()
    assert not queue.drain(0)
    queue.done("a")
    assert queue.drain(0)


def test_draining_waits_for_the_last_hand() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add_after("later", 3600)
    assert queue.get() == "a"
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(queue.drain, 3600)
        queue.add("a")
        queue.done("a")
        assert queue.get() == "a"
        assert not drained.done()
        queue.done("a")
        try:
            assert drained.result(HANG_S)
        finally:
            queue.close()


def test_a_storm_of_threads_loses_nothing_and_puts_no_key_into_two_hands() -> None:
    """Producers count up what each key should come to; a pass reads that, as a look at libvirt would."""
    queue: WorkQueue[int] = WorkQueue()
    keys, producers, workers, rounds = 20, 6, 4, 1500
    wanted, seen = [0] * keys, [0] * keys
    in_hand: set[int] = set()
    faults: list[str] = []
    lock, last_added, settled = threading.Lock(), threading.Event(), threading.Event()

    def want(key: int, chance: random.Random) -> None:
        with lock:
            wanted[key] += 1
        if chance.random() < 0.2:
            queue.add_after(key, chance.random() / 500)
        else:
            queue.add(key)

    def produce(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - a seed makes a storm that can be had again
        for _ in range(rounds):
            want(chance.randrange(keys), chance)

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        while (key := queue.get()) is not None:
            with lock:
                if key in in_hand:
                    faults.append(f"{key} is in two hands")
                in_hand.add(key)
                seen[key] = wanted[key]
                if last_added.is_set() and seen == wanted:
                    settled.set()
            with lock:
                in_hand.discard(key)
            if chance.random() < 0.1:
                queue.retry(key)
            else:
                queue.forget(key)
            queue.done(key)

    with ThreadPoolExecutor(producers + workers) as pool:
        working = [pool.submit(work, seed) for seed in range(workers)]
        try:
            for producing in [pool.submit(produce, 100 + seed) for seed in range(producers)]:
                producing.result(HANG_S)
            last_added.set()
            want(0, random.Random(0))  # noqa: S311
            assert settled.wait(HANG_S), f"wanted {wanted}, seen {seen}"
        finally:
            queue.close()
        for one in working:
            one.result(HANG_S)
    assert faults == []

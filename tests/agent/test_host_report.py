"""How often the report on a host is written."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.agent import host_report
from controller.agent.host_report import (
    COALESCE_S,
    OTHERS_EVERY_S,
    RETRY_S,
    SPREAD,
    URGENT_EVERY_S,
    HostReport,
    Pace,
    Urgency,
)
from controller.agent.host_spec import HostSpec
from controller.api.hypervisor import Hypervisor
from controller.api.hypervisor_codec import parse_hypervisor
from controller.runtime.errors import Transient


def pace() -> Pace:
    return Pace(COALESCE_S, uniform=lambda low, _high: low)


def test_nothing_is_due_while_nothing_differs() -> None:
    assert pace().wait_s(Urgency.NONE, 100.0) is None


@pytest.mark.parametrize("urgency", [Urgency.SOON, Urgency.SOME_TIME])
def test_the_first_difference_waits_a_moment_for_others(urgency: Urgency) -> None:
    first = pace()
    assert first.wait_s(urgency, 100.0) == COALESCE_S
    assert first.wait_s(urgency, 100.4) == pytest.approx(COALESCE_S - 0.4)
    assert first.wait_s(urgency, 101.0) == 0


def test_a_difference_that_goes_away_is_forgotten() -> None:
    first = pace()
    first.wait_s(Urgency.SOON, 100.0)
    first.wait_s(Urgency.NONE, 100.9)
    assert first.wait_s(Urgency.SOON, 101.0) == COALESCE_S


def test_an_urgent_difference_waits_less_than_others() -> None:
    one = pace()
    one.done(100.0)
    assert one.wait_s(Urgency.SOON, 100.0) == URGENT_EVERY_S
    assert one.wait_s(Urgency.SOME_TIME, 100.0) == OTHERS_EVERY_S * (1 - SPREAD)
    assert one.wait_s(Urgency.SOON, 105.0) == COALESCE_S, "it is new"
    assert one.wait_s(Urgency.SOON, 106.0) == 0


@given(st.lists(st.tuples(st.floats(0.01, 20), st.sampled_from(list(Urgency))), max_size=300))
def test_a_minute_has_twelve_writes_at_most(steps: list[tuple[float, Urgency]]) -> None:
    one, now_s = pace(), 0.0
    written_s: list[float] = []
    for after_s, urgency in steps:
        now_s += after_s
        wait_s = one.wait_s(urgency, now_s)
        assert wait_s is None or wait_s <= OTHERS_EVERY_S
        if wait_s == 0:
            one.done(now_s)
            written_s.append(now_s)
    assert all(later - sooner >= URGENT_EVERY_S - 1e-6 for sooner, later in pairwise(written_s))


# --- after a request that failed


class Failing:
    """The Hypervisor on an API server that answers neither a write nor, if `reads` is False, a read."""

    def __init__(self, takes: Callable[[], None], *, reads: bool) -> None:
        self._takes, self._reads = takes, reads
        self.asked = self.written = 0

    def read(self) -> Hypervisor:
        self.asked += 1
        if self._reads:
            return parse_hypervisor({"metadata": {"name": "node-a", "resourceVersion": "1"}, "spec": {}})
        self._takes()
        raise Transient("the API server does not answer")

    def differs(self, _status: object) -> bool:
        return True

    def report(self, _status: object) -> Hypervisor:
        self.written += 1
        self._takes()
        raise Transient("the API server does not answer")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time at which the report is made."""
    at = SimpleNamespace(s=100.0)
    monkeypatch.setattr(host_report, "time", SimpleNamespace(monotonic=lambda: at.s))
    return at


def report_to(store: Failing) -> HostReport:
    settings: Any = SimpleNamespace(
        node_name="node-a",
        boot_id="boot-1",
        observe_only=False,
        libvirt_uri="qemu:///system",
        lease_namespace=None,
        resync_api_s=3600.0,
    )
    libvirt: Any = SimpleNamespace(connected=False, host_facts=None)
    own: Any = store
    recorder: Any = SimpleNamespace(record=lambda *_: None)
    return HostReport(
        settings,
        HostSpec("node-a", observe_only=False, changed=lambda: None),
        own,
        libvirt,
        recorder,
        may_write=lambda: True,
        vms=list,
        quiet_since_s=lambda: 0.0,
        relist=lambda: None,
        unwatched=lambda: False,
        watch_again=lambda: None,
        counted=lambda *_: None,
    )


def test_a_write_that_failed_is_tried_again_soon(clock: SimpleNamespace) -> None:
    report = report_to(Failing(lambda: None, reads=True))
    assert report._run() == COALESCE_S
    clock.s += COALESCE_S
    wait_s = report._run()
    assert wait_s is not None
    assert 0 < wait_s <= RETRY_S[0]


def test_a_write_that_fails_again_and_again_is_tried_less_and_less_often(clock: SimpleNamespace) -> None:
    store = Failing(lambda: None, reads=True)
    report = report_to(store)
    while clock.s < 100.0 + 10 * RETRY_S[1]:
        clock.s += report._run() or OTHERS_EVERY_S
    assert 10 <= store.written <= 30


def test_the_wait_after_a_failure_begins_when_the_request_has_ended(clock: SimpleNamespace) -> None:
    def takes_10_s() -> None:
        clock.s += 10.0

    store = Failing(takes_10_s, reads=False)
    report = report_to(store)
    report._run()
    assert store.asked == 1
    report._run()
    assert store.asked == 1
    clock.s += RETRY_S[0]
    report._run()
    assert store.asked == 2

"""What a relist of libvirt has looked at: what is not as it was reported, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from controller.agent.relist import RelistDiff
from controller.api.virtualmachine import DomainRecord, PowerState, Status, VirtualMachine, VmKey
from controller.policy.view import Domain, Phase

WEB_UUID, OTHER_UUID = UUID(int=7), UUID(int=8)


WEB = Domain(WEB_UUID, "web", Phase.RUNNING, 1, "RUNNING", "BOOTED", persistent=True, autostart=False)


RECORD = DomainRecord("web", WEB_UUID, "web", 1, persistent=True, autostart=False)


REPORT = Status(power_state=PowerState.RUNNING, libvirt_state="RUNNING", libvirt_reason="BOOTED", domain=RECORD)


VM = VirtualMachine(VmKey("default", "web"), "uid-1", 1, "1", datetime(2026, 1, 1, tzinfo=UTC), "node-a", status=REPORT)


ABSENT = replace(VM, status=Status(power_state=PowerState.ABSENT))


def test_what_is_as_it_was_reported_is_left_alone() -> None:
    assert RelistDiff().changed([VM], [WEB]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": OTHER_UUID},
        {"name": "renamed"},
        {"id": 2},
        {"phase": Phase.PAUSED},
        {"state": "BLOCKED"},
        {"reason": "UNPAUSED"},
        {"persistent": False},
        {"autostart": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("compared_before", [False, True])
def test_whatever_is_otherwise_is_looked_at(change: dict[str, Any], *, compared_before: bool) -> None:
    comparison = RelistDiff()
    if compared_before:
        assert comparison.changed([VM], [WEB]) == []
    assert comparison.changed([VM], [replace(WEB, **change)]) == [VM]


def test_it_is_looked_at_until_the_report_says_so() -> None:
    comparison, paused = RelistDiff(), replace(WEB, phase=Phase.PAUSED, state="PAUSED", reason="USER")
    assert [comparison.changed([VM], [seen]) for seen in (WEB, paused, paused)] == [[], [VM], [VM]]
    status = replace(REPORT, power_state=PowerState.PAUSED, libvirt_state="PAUSED", libvirt_reason="USER")
    assert comparison.changed([replace(VM, status=status)], [paused]) == []


@pytest.mark.parametrize("compared_before", [False, True])
def test_a_report_that_says_otherwise_is_looked_at(*, compared_before: bool) -> None:
    comparison = RelistDiff()
    if compared_before:
        assert comparison.changed([VM], [WEB]) == []
    wrong = replace(VM, status=replace(REPORT, power_state=PowerState.STOPPED))
    assert comparison.changed([wrong], [WEB]) == [wrong]
    assert comparison.changed([ABSENT], [WEB]) == [ABSENT]


@pytest.mark.parametrize("compared_before", [False, True])
def test_what_is_not_listed_must_be_reported_as_absent(*, compared_before: bool) -> None:
    comparison = RelistDiff()
    if compared_before:
        assert comparison.changed([VM], [WEB]) == []
    assert comparison.changed([VM], []) == [VM]
    assert comparison.changed([ABSENT], []) == []
    assert comparison.changed([ABSENT], [WEB]) == [ABSENT]


def test_a_restarted_libvirtd_that_has_forgotten_the_reason_says_nothing_new() -> None:
    assert RelistDiff().changed([VM], [replace(WEB, reason="UNKNOWN")]) == []


def test_each_is_compared_with_its_own_domain() -> None:
    comparison = RelistDiff()
    other = Domain(OTHER_UUID, "db", Phase.STOPPED, None, "SHUTOFF", "SHUTDOWN")
    unreported = replace(VM, key=VmKey("default", "db"), uid="uid-2", status=Status())
    assert comparison.changed([VM, unreported], [other, WEB]) == [unreported]
    assert comparison.changed([VM, unreported], [other, WEB]) == [unreported]
    by_uuid = replace(VM, key=VmKey("default", "a"), domain_uuid=WEB_UUID)
    assert comparison.changed([by_uuid], [other, WEB]) == []

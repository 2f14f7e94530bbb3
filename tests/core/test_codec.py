"""The report survives the way to the API and back, and a damaged one heals."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.codec import parse, parse_status, render_status, status_patch
from controller.model import (
    Backoff,
    Condition,
    DesiredPowerState,
    DomainRecord,
    LastStop,
    Operation,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    Shutdown,
    ShutdownMode,
    Status,
    StopCause,
)

TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda time: time.replace(microsecond=0)
)
WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
STATUSES = st.builds(
    Status,
    observed_generation=st.integers(0, 9),
    node_name=WORDS,
    node_boot_id=WORDS,
    desired=st.none() | st.sampled_from(DesiredPowerState),
    power_state=st.sampled_from(PowerState),
    power_state_transition_time=st.none() | TIMES,
    libvirt_state=WORDS,
    libvirt_reason=WORDS,
    domain=st.none()
    | st.builds(
        DomainRecord,
        WORDS,
        st.none() | st.uuids(),
        WORDS,
        st.none() | st.integers(0, 9),
        st.none() | st.booleans(),
        st.none() | st.booleans(),
    ),
    last_stop=st.none() | st.builds(LastStop, st.sampled_from(StopCause), TIMES, WORDS),
    completion_time=st.none() | TIMES,
    restart_count=st.integers(0, 9),
    last_restart_time=st.none() | TIMES,
    operation=st.none()
    | st.builds(Operation, st.sampled_from(OperationType), TIMES, TIMES, st.none() | st.integers(0, 9)),
    backoff=st.none() | st.builds(Backoff, st.integers(1, 9), TIMES),
    conditions=st.lists(
        st.builds(Condition, WORDS, WORDS, st.sampled_from(Reason).map(str), WORDS, TIMES, st.integers(0, 9)),
        max_size=2,
    ).map(tuple),
)
FIXED = settings(derandomize=True, deadline=None, database=None)


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386, as the API server does it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@FIXED
@given(STATUSES)
def test_what_is_written_is_read_back(status: Status) -> None:
    assert parse_status(render_status(status)) == status


@FIXED
@given(STATUSES, STATUSES)
def test_a_patch_leads_from_any_report_to_any_other(old: Status, new: Status) -> None:
    before, after = render_status(old), render_status(new)
    patch = status_patch(before, new)
    assert (patch is None) == (before == after)
    assert merged(before, patch or {}) == after


def test_a_field_that_ended_is_null_and_one_that_stayed_is_not_sent() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old = Status(node_name="a", operation=Operation(OperationType.STOP, start, start + timedelta(seconds=9), 1))
    assert status_patch(render_status(old), replace(old, operation=None)) == {"operation": None}


def test_what_nobody_knows_is_removed() -> None:
    raw = {**render_status(Status(node_name="a")), "left over": {"by": "somebody"}}
    assert status_patch(raw, Status(node_name="a")) == {"left over": None}


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ({"powerState": "Levitating"}, "power_state"),
        ({"desiredPowerState": "Levitating"}, "desired"),
        ({"powerStateTransitionTime": "yesterday"}, "power_state_transition_time"),
        ({"completionTime": "yesterday"}, "completion_time"),
        ({"operation": {"type": "Stop"}}, "operation"),
        ({"operation": {"type": "Dance", "startTime": "2026-01-01T00:00:00Z"}}, "operation"),
        ({"backoff": {"failures": 3}}, "backoff"),
        ({"lastStop": {"cause": "Guest"}}, "last_stop"),
        ({"conditions": [{"type": "Ready"}]}, "conditions"),
    ],
)
def test_what_cannot_be_read_is_not_there(damage: dict[str, Any], field: str) -> None:
    assert field in {f.name for f in fields(Status)}
    assert getattr(parse_status(damage), field) == getattr(Status(), field)
    healed = merged(damage, status_patch(damage, parse_status(damage)))
    assert healed == render_status(Status())


def test_a_cause_of_a_newer_agent_is_unknown_and_a_bad_uuid_is_none() -> None:
    stop = {"cause": "Gremlins", "time": "2026-01-01T00:00:00Z", "message": "?"}
    status = parse_status({"lastStop": stop, "domain": {"name": "web", "uuid": "not one"}})
    assert status.last_stop
    assert status.last_stop.cause is StopCause.UNKNOWN
    assert status.domain == DomainRecord("web", None, "")


def test_times_are_told_in_utc() -> None:
    noon_in_paris = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    assert render_status(Status(completion_time=noon_in_paris))["completionTime"] == "2026-01-01T11:00:00Z"


METADATA = {
    "namespace": "default",
    "name": "web",
    "uid": "u",
    "resourceVersion": "5",
    "creationTimestamp": "2026-01-01T00:00:00Z",
}


def test_a_bare_object_has_the_defaults() -> None:
    vm = parse({"metadata": METADATA, "spec": {"nodeName": "a"}})
    assert (vm.desired, vm.restart_policy, vm.shutdown) == (None, RestartPolicy.ALWAYS, Shutdown())
    assert (vm.deleting, vm.holds, vm.confirmed_off, vm.bound_by) == (False, (), "", "web")
    assert vm.status == Status()


def test_everything_a_user_can_say_is_read() -> None:
    annotations = {
        "hold.virtsync.dev/b": "why",
        "hold.virtsync.dev/a": "",
        "virtsync.dev/confirmed-off": "old",
        "x": "",
    }
    vm = parse(
        {
            "metadata": {**METADATA, "annotations": annotations, "generation": 3, "deletionTimestamp": "2026-01-02"},
            "spec": {
                "nodeName": "a",
                "domain": {"uuid": str(UUID(int=7))},
                "powerState": "Paused",
                "restartPolicy": "Never",
                "shutdown": {"mode": "Graceful", "gracePeriodSeconds": 7},
                "restartRequestTime": "2026-01-01T00:00:00Z",
            },
        }
    )
    assert vm.holds == (("a", ""), ("b", "why"))
    assert (vm.confirmed_off, vm.deleting, vm.generation, vm.domain_uuid) == ("old", True, 3, UUID(int=7))
    assert (vm.desired, vm.restart_policy) == (DesiredPowerState.PAUSED, RestartPolicy.NEVER)
    assert vm.shutdown == Shutdown(ShutdownMode.GRACEFUL, 7)
    assert vm.restart_request == datetime(2026, 1, 1, tzinfo=UTC)

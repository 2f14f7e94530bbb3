"""The report survives the way to the API and back, and a damaged one heals."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.codec import parse, parse_status, render_status, status_patch
from controller.api.virtualmachine import (
    BEYOND,
    Backoff,
    Condition,
    DesiredPowerState,
    DomainRecord,
    Hold,
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
    VirtualMachine,
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
    host_uuid=st.none() | st.uuids(),
    power_state_transition_time=st.none() | TIMES,
    run_transition_time=st.none() | TIMES,
    decided_reason=WORDS,
    decided_transition_time=st.none() | TIMES,
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
        st.builds(
            Condition,
            st.sampled_from(["Ready", "Reconciling", "Stalled"]),
            WORDS,
            st.sampled_from(Reason).map(str),
            WORDS,
            TIMES,
            st.integers(0, 9),
        ),
        max_size=2,
        unique_by=lambda condition: condition.type,
    ).map(tuple),
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=[]))
    | st.sampled_from(["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-01T00:00:00Z", "Running"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def like(shape: Any) -> st.SearchStrategy[Any]:
    """JSON of this shape, of which any part may be something else."""
    if isinstance(shape, dict):
        known = st.fixed_dictionaries({}, optional={key: like(value) for key, value in shape.items()})
        return known | ANYTHING
    if isinstance(shape, list):
        return st.lists(like(shape[0]), max_size=3) | ANYTHING
    return st.just(shape) | ANYTHING


A_STATUS = {
    "observedGeneration": 1,
    "nodeName": "a",
    "nodeBootID": "b",
    "hostUUID": str(UUID(int=1)),
    "desiredPowerState": "Running",
    "powerState": "Running",
    "powerStateTransitionTime": "2026-01-01T00:00:00Z",
    "runTransitionTime": "2026-01-01T00:00:00Z",
    "decidedReason": "InSync",
    "decidedTransitionTime": "2026-01-01T00:00:00Z",
    "libvirt": {"state": "RUNNING", "reason": "BOOTED"},
    "domain": {"name": "w", "uuid": str(UUID(int=2)), "boundBy": "w", "id": 1, "persistent": True, "autostart": False},
    "lastStop": {"cause": "Guest", "time": "2026-01-01T00:00:00Z", "message": "?"},
    "completionTime": "2026-01-01T00:00:00Z",
    "restartCount": 1,
    "lastRestartTime": "2026-01-01T00:00:00Z",
    "operation": {
        "type": "Stop",
        "startTime": "2026-01-01T00:00:00Z",
        "deadline": "2026-01-01T00:00:00Z",
        "domainID": 1,
        "attempt": 1,
    },
    "backoff": {"failures": 1, "nextAttemptTime": "2026-01-01T00:00:00Z"},
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "InSync",
            "message": "?",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
    ],
}
A_SPEC = {
    "nodeName": "a",
    "domain": {"name": "w", "uuid": str(UUID(int=2))},
    "powerState": "Running",
    "restartPolicy": "Always",
    "shutdown": {"mode": "Force", "gracePeriodSeconds": 1},
    "restartRequestTime": "2026-01-01T00:00:00Z",
}
FIXED = settings(derandomize=True, database=None)


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


def test_keys_of_others_are_left_alone_at_each_level() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    stop = LastStop(StopCause.GUEST, start, "?")
    old = Status(node_name="a", last_stop=stop, completion_time=start)
    raw = render_status(old) | {"newer": {"by": "somebody"}}
    raw["lastStop"]["newer"] = [1]
    assert status_patch(raw, old) is None
    new = replace(old, node_name="b", last_stop=replace(stop, message="!"), completion_time=None)
    patch = status_patch(raw, new)
    assert patch == {"nodeName": "b", "lastStop": {"message": "!"}, "completionTime": None}
    assert merged(raw, patch) == render_status(new) | {
        "newer": {"by": "somebody"},
        "lastStop": {"cause": "Guest", "time": "2026-01-01T00:00:00Z", "message": "!", "newer": [1]},
    }


def test_a_map_of_ours_that_ended_goes_as_a_whole() -> None:
    raw = {"operation": {"type": "Stop", "newer": 1}, "libvirt": {"state": "SHUTOFF"}, "conditions": []}
    assert status_patch(raw, parse_status({"powerState": "Unknown"})) == {
        "operation": None,
        "libvirt": None,
        "observedGeneration": -1,
        "powerState": "Unknown",
        "restartCount": 0,
    }


THEIRS = {"type": "fleet.example/Placed", "status": "True", "reason": "Ok", "message": "", "severity": "Info"}


def condition(kind: str, reason: str) -> Condition:
    return Condition(kind, "True", reason, "?", datetime(2026, 1, 1, tzinfo=UTC), 1)


@pytest.mark.parametrize("place", [0, 1])
def test_conditions_of_others_are_carried_over(place: int) -> None:
    status = Status(conditions=(condition("Ready", "InSync"),))
    raw = render_status(status)
    raw["conditions"].insert(place, THEIRS)
    assert parse_status(raw) == status
    assert status_patch(raw, status) is None
    new = Status(conditions=(condition("Ready", "Starting"), condition("Reconciling", "Starting")))
    assert status_patch(raw, new) == {"conditions": [*render_status(new)["conditions"], THEIRS]}
    assert status_patch(merged(raw, status_patch(raw, new)), status) == {
        "conditions": [*render_status(status)["conditions"], THEIRS]
    }


def test_ours_have_room_among_the_conditions() -> None:
    raw = {"conditions": [THEIRS | {"type": f"T{number}"} for number in range(16)]}
    patch = status_patch(raw, Status(conditions=(condition("Ready", "InSync"),)))
    assert patch
    assert [c["type"] for c in patch["conditions"]] == ["Ready", *(f"T{number}" for number in range(15))]


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
        ({"conditions": ["Ready"]}, "conditions"),
        ({"completionTime": "9999-12-31T23:59:59-23:59"}, "completion_time"),
        ({"completionTime": "0001-01-01T00:00:00+23:59"}, "completion_time"),
        ({"completionTime": "9001-01-01T00:00:00Z"}, "completion_time"),
        ({"restartCount": -1}, "restart_count"),
        ({"restartCount": 2**31}, "restart_count"),
        ({"restartCount": True}, "restart_count"),
        ({"observedGeneration": -2}, "observed_generation"),
        ({"domain": ["web"]}, "domain"),
    ],
)
def test_what_cannot_be_read_is_not_there(damage: dict[str, Any], field: str) -> None:
    assert field in {f.name for f in fields(Status)}
    assert getattr(parse_status(damage), field) == getattr(Status(), field)
    healed = merged(damage, status_patch(damage, parse_status(damage)) or {})
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


@FIXED
@given(like(A_STATUS))
def test_no_status_is_too_strange_to_be_read_and_written(raw: Any) -> None:
    status = parse_status(raw)
    written = render_status(status)
    assert parse_status(written) == status
    old = raw if isinstance(raw, dict) else {}
    patch = status_patch(old, status) or {}
    assert set(patch) <= {*A_STATUS}
    assert status_patch(merged(old, patch), status) is None


@pytest.mark.parametrize("absurd", ["9999-12-31T23:59:59-23:59", "9500-01-01T00:00:00Z", "2026-01-01T00:00:00+99:99"])
def test_a_last_restart_that_cannot_be_read_is_later_than_any_request(absurd: str) -> None:
    status = parse_status({"lastRestartTime": absurd})
    assert status.last_restart_time == BEYOND
    assert parse_status(render_status(status)).last_restart_time == BEYOND


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
    assert vm.holds == (Hold("a"), Hold("b", "why"))
    assert (vm.confirmed_off, vm.deleting, vm.generation, vm.domain_uuid) == ("old", True, 3, UUID(int=7))
    assert (vm.desired, vm.restart_policy) == (DesiredPowerState.PAUSED, RestartPolicy.NEVER)
    assert vm.shutdown == Shutdown(ShutdownMode.GRACEFUL, 7)
    assert vm.restart_request == datetime(2026, 1, 1, tzinfo=UTC)


@FIXED
@given(like(A_SPEC), like({"hold.virtsync.dev/a": "?"}))
def test_no_spec_of_a_newer_version_is_too_strange_to_be_read(spec: Any, annotations: Any) -> None:
    vm = parse({"metadata": {**METADATA, "annotations": annotations}, "spec": spec})
    assert vm.key.name == "web"
    assert len(vm.misunderstood.splitlines()) <= 1


@pytest.mark.parametrize(
    ("spec", "phrase"),
    [
        ({"powerState": "Hibernated"}, 'spec.powerState "Hibernated"'),
        ({"powerState": ["Running"]}, 'spec.powerState ["Running"]'),
        ({"restartPolicy": "Sometimes"}, 'spec.restartPolicy "Sometimes"'),
        ({"shutdown": {"mode": "Nicely"}}, 'spec.shutdown.mode "Nicely"'),
        ({"shutdown": {"gracePeriodSeconds": "5m"}}, 'spec.shutdown.gracePeriodSeconds "5m"'),
        ({"shutdown": {"gracePeriodSeconds": 0}}, "spec.shutdown.gracePeriodSeconds 0"),
        ({"shutdown": "never"}, 'spec.shutdown "never"'),
        ({"domain": {"title": "web"}}, 'spec.domain {"title": "web"}'),
        ({"domain": {"uuid": "web"}}, 'spec.domain.uuid "web"'),
        ({"domain": {"name": 7}}, "spec.domain.name 7"),
        ({"restartRequestTime": "@daily"}, 'spec.restartRequestTime "@daily"'),
        (
            {"powerState": "Hibernated", "restartPolicy": "Sometimes"},
            'spec.powerState "Hibernated" and spec.restartPolicy "Sometimes"',
        ),
        ({"powerState": "a\n\x1b[1mb"}, 'spec.powerState "a\\n\\u001b[1mb"'),
    ],
)
def test_what_is_not_understood_is_told(spec: dict[str, Any], phrase: str) -> None:
    assert parse({"metadata": METADATA, "spec": {"nodeName": "a", **spec}}).misunderstood == phrase


def test_the_rest_of_a_spec_that_is_not_understood_is_read() -> None:
    spec = {"nodeName": "a", "powerState": "Hibernated", "restartPolicy": "Never", "domain": {"name": "w"}}
    status = {"nodeName": "a", "restartCount": 3}
    vm = parse({"metadata": METADATA, "spec": spec, "status": status})
    assert (vm.desired, vm.restart_policy, vm.domain_name) == (None, RestartPolicy.NEVER, "w")
    assert vm.status.restart_count == 3


def test_a_new_key_of_a_newer_version_is_ignored() -> None:
    spec = {"nodeName": "a", "domain": {"name": "w", "pool": "p"}, "shutdown": {"signal": "x"}, "newer": {"a": 1}}
    assert not parse({"metadata": METADATA, "spec": spec}).misunderstood


def held(**metadata: dict[str, str]) -> VirtualMachine:
    return parse({"metadata": METADATA | metadata, "spec": {"nodeName": "a"}})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("hold.virtsync.dev", "nobody named; write it as the annotation hold.virtsync.dev/<your name>"),
        ("virtsync.dev/hold", "nobody named; write it as the annotation hold.virtsync.dev/<your name>"),
        ("HOLD.VIRTSYNC.DEV", "nobody named; write it as the annotation hold.virtsync.dev/<your name>"),
        ("Hold.virtsync.dev/ann", "ann; write it as the annotation hold.virtsync.dev/ann"),
        ("holds.virtsync.dev/ann", "ann; write it as the annotation hold.virtsync.dev/ann"),
        ("hold.virtsync.dev.ann", "ann; write it as the annotation hold.virtsync.dev/ann"),
        ("hold.virtsync.dev-ann", "ann; write it as the annotation hold.virtsync.dev/ann"),
        ("virtsync.dev/hold-ann", "ann; write it as the annotation hold.virtsync.dev/ann"),
    ],
)
def test_a_misspelt_hold_is_a_hold_and_says_how_it_is_spelt(key: str, text: str) -> None:
    (hold,) = held(annotations={key: "backup"}).holds
    assert str(hold) == f"{text} (backup)"
    assert (hold.key, hold.is_label) == (key, False)


def test_a_label_that_means_a_hold_is_one() -> None:
    (hold,) = held(labels={"hold.virtsync.dev/ann": "backup"}).holds
    assert str(hold) == "ann; write it as the annotation hold.virtsync.dev/ann (backup)"
    assert (hold.key, hold.is_label) == ("hold.virtsync.dev/ann", True)


@pytest.mark.parametrize("key", ["virtsync.dev/confirmed-off", "virtsync.dev/holdover", "hold.example.com/ann", "hold"])
def test_what_does_not_mean_a_hold_is_none(key: str) -> None:
    assert held(annotations={key: "x"}).holds == ()


@pytest.mark.parametrize("time", [None, "soon", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_start_on_record_is_a_fact_whatever_its_time_says(time: str | None) -> None:
    operation = parse_status({"operation": {"type": "Start", "startTime": time}}).operation
    assert operation
    assert operation.starts

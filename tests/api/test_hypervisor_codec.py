"""A Hypervisor is read whatever its JSON is, and an agent writes its own part of the status alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.hypervisor import (
    Capacity,
    DomainCounts,
    HypervisorReason,
    HypervisorStatus,
    Maintenance,
    MaintenanceMode,
    MaintenanceProgress,
    RunsElsewhere,
    Unmanaged,
    UnmanagedDomain,
    VmCounts,
)
from controller.api.hypervisor_codec import hypervisor_status_patch, parse_hypervisor, parse_hypervisor_status
from controller.api.virtualmachine import Condition, PowerState
from tests.api.test_codec import FIXED, THEIRS, TIMES, WORDS, like, merged

METADATA = {"name": "node-a", "uid": "u", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z"}
COUNTS = st.integers(0, 9)
STATUSES = st.builds(
    HypervisorStatus,
    observed_generation=st.integers(-1, 9),
    lease_namespace=WORDS,
    node_boot_id=WORDS,
    agent_version=WORDS,
    libvirt_version=WORDS,
    qemu_version=WORDS,
    capacity=st.none() | st.builds(Capacity, COUNTS, COUNTS),
    domains=st.none() | st.builds(DomainCounts, COUNTS, COUNTS),
    virtual_machines=st.none() | st.builds(VmCounts, COUNTS, COUNTS, COUNTS),
    unmanaged=st.none()
    | st.builds(
        Unmanaged,
        COUNTS,
        COUNTS,
        st.booleans(),
        st.lists(
            st.builds(UnmanagedDomain, st.uuids(), WORDS, st.sampled_from(PowerState), st.just("") | WORDS),
            max_size=2,
        ).map(tuple),
    ),
    maintenance=st.none() | st.builds(MaintenanceProgress, TIMES, COUNTS),
    conditions=st.lists(
        st.builds(
            Condition,
            st.sampled_from(["Ready", "Quiesced"]),
            WORDS,
            st.sampled_from(HypervisorReason).map(str),
            WORDS,
            TIMES,
            COUNTS,
        ),
        max_size=2,
        unique_by=lambda condition: condition.type,
    ).map(tuple),
)
A_STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "leaseNamespace": "virtsync",
    "nodeBootID": "b",
    "agentVersion": "1",
    "libvirtVersion": "9.0.0",
    "qemuVersion": "7.2.0",
    "capacity": {"cpus": 8, "memoryMiB": 4096},
    "domains": {"total": 3, "running": 2},
    "virtualMachines": {"total": 2, "running": 1, "notReady": 1},
    "unmanaged": {
        "total": 1,
        "running": 1,
        "truncated": False,
        "domains": [
            {
                "uuid": str(UUID(int=1)),
                "name": "w",
                "powerState": "Running",
                "reason": "BOOTED",
                "transient": False,
            }
        ],
    },
    "maintenance": {"startTime": "2026-01-01T00:00:00Z", "remaining": 1},
    "runsElsewhere": [{"uuid": str(UUID(int=2)), "nodeName": "node-b", "since": "2026-01-01T00:00:00Z"}],
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Active",
            "message": "?",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
    ],
}
AGENT_KEYS = {*A_STATUS} - {"runsElsewhere"}


@FIXED
@given(STATUSES, STATUSES)
def test_a_patch_leads_from_any_report_to_any_other(old: HypervisorStatus, new: HypervisorStatus) -> None:
    before = merged({}, hypervisor_status_patch({}, old) or {})
    assert parse_hypervisor_status(before) == old
    patch = hypervisor_status_patch(before, new)
    assert (patch is None) == (old == new)
    assert parse_hypervisor_status(merged(before, patch or {})) == new


@FIXED
@given(like(A_STATUS))
def test_no_status_is_too_strange_to_be_read_and_written(raw: Any) -> None:
    status = parse_hypervisor_status(raw)
    old = raw if isinstance(raw, dict) else {}
    patch = hypervisor_status_patch(old, status) or {}
    assert set(patch) <= AGENT_KEYS
    assert hypervisor_status_patch(merged(old, patch), status) is None
    assert parse_hypervisor_status(merged(old, patch)) == status


def test_a_complete_status_is_read() -> None:
    noon = datetime(2026, 1, 1, tzinfo=UTC)
    status = parse_hypervisor_status(A_STATUS)
    assert status.capacity == Capacity(8, 4096)
    assert status.unmanaged
    assert status.unmanaged.domains == (
        UnmanagedDomain(UUID(int=1), "w", PowerState.RUNNING, "BOOTED", transient=False),
    )
    assert status.runs_elsewhere == (RunsElsewhere(UUID(int=2), "node-b", noon),)
    assert (status.ready, status.reason) == (True, HypervisorReason.ACTIVE)
    assert hypervisor_status_patch(A_STATUS, status) is None


def test_the_list_of_the_manager_is_never_in_the_patch_of_an_agent() -> None:
    patch = hypervisor_status_patch(A_STATUS, HypervisorStatus())
    assert patch
    assert set(patch) == AGENT_KEYS
    assert hypervisor_status_patch({}, parse_hypervisor_status(A_STATUS)) == {
        key: value for key, value in A_STATUS.items() if key in AGENT_KEYS
    }


def test_an_entry_of_the_manager_counts_although_its_time_cannot_be_read() -> None:
    (entry,) = parse_hypervisor_status({"runsElsewhere": [{"uuid": str(UUID(int=2)), "since": "soon"}]}).runs_elsewhere
    assert entry.uuid == UUID(int=2)


def test_a_condition_of_another_writer_is_kept_and_quiesced_ends_with_the_maintenance() -> None:
    ready = A_STATUS["conditions"][0]
    raw = {"conditions": [THEIRS, ready | {"type": "Quiesced"}, ready]}
    status = parse_hypervisor_status({"conditions": [ready]})
    patch = hypervisor_status_patch(raw, status)
    assert patch
    assert patch["conditions"] == [ready, THEIRS]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ({"observedGeneration": -2}, "observed_generation"),
        ({"leaseNamespace": 1}, "lease_namespace"),
        ({"capacity": [8]}, "capacity"),
        ({"domains": {}}, "domains"),
        ({"unmanaged": "some"}, "unmanaged"),
        ({"maintenance": {"startTime": "soon", "remaining": 1}}, "maintenance"),
        ({"runsElsewhere": [{"uuid": "web"}, "web"]}, "runs_elsewhere"),
        ({"conditions": [{"type": "Stalled", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}, "conditions"),
    ],
)
def test_a_status_field_that_cannot_be_read_is_absent(damage: dict[str, Any], field: str) -> None:
    assert getattr(parse_hypervisor_status(damage), field) == getattr(HypervisorStatus(), field)


def test_a_bare_object_declares_nothing() -> None:
    hypervisor = parse_hypervisor({"metadata": METADATA})
    assert (hypervisor.name, hypervisor.maintenance, hypervisor.misunderstood) == ("node-a", None, "")
    assert (hypervisor.status, hypervisor.status.reason) == (HypervisorStatus(), HypervisorReason.PENDING)


@pytest.mark.parametrize("mode", MaintenanceMode)
def test_a_maintenance_is_read(mode: MaintenanceMode) -> None:
    spec = {"maintenance": {"mode": str(mode), "reason": "new RAM"}}
    hypervisor = parse_hypervisor({"metadata": METADATA, "spec": spec})
    assert (hypervisor.maintenance, hypervisor.misunderstood) == (Maintenance(mode, "new RAM"), "")


def test_a_maintenance_without_a_reason_is_one() -> None:
    hypervisor = parse_hypervisor({"spec": {"maintenance": {"mode": "Hold", "reason": None}}})
    assert (hypervisor.maintenance, hypervisor.misunderstood) == (Maintenance(MaintenanceMode.HOLD, ""), "")


@pytest.mark.parametrize(
    ("spec", "phrase"),
    [
        ({"maintenance": {"mode": "Freeze", "reason": "?"}}, 'spec.maintenance {"mode": "Freeze", "reason": "?"}'),
        ({"maintenance": {"mode": ["Hold"]}}, 'spec.maintenance {"mode": ["Hold"]}'),
        ({"maintenance": {"reason": "?"}}, 'spec.maintenance {"reason": "?"}'),
        ({"maintenance": {"mode": ""}}, 'spec.maintenance {"mode": ""}'),
        ({"maintenance": {}}, "spec.maintenance {}"),
        ({"maintenance": ""}, 'spec.maintenance ""'),
        ({"maintenance": "Hold"}, 'spec.maintenance "Hold"'),
        ({"maintenance": False}, "spec.maintenance false"),
        ({"fenced": {"bootID": "b"}}, 'spec.fenced {"bootID": "b"}'),
        ("Hold", 'spec "Hold"'),
    ],
)
def test_what_is_not_understood_does_not_look_like_no_maintenance(spec: object, phrase: str) -> None:
    hypervisor = parse_hypervisor({"metadata": METADATA, "spec": spec})
    assert (hypervisor.maintenance, hypervisor.misunderstood) == (None, phrase)


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"reason": 7}, "spec.maintenance.reason 7"),
        ({"reason": "?", "until": "noon"}, 'spec.maintenance.until "noon"'),
    ],
)
def test_a_mode_that_is_understood_counts_whatever_the_rest_is(fields: dict[str, Any], phrase: str) -> None:
    hypervisor = parse_hypervisor({"spec": {"maintenance": {"mode": "Hold", **fields}}})
    assert hypervisor.maintenance
    assert (hypervisor.maintenance.mode, hypervisor.misunderstood) == (MaintenanceMode.HOLD, phrase)


A_SPEC = {"maintenance": {"mode": "Hold", "reason": "new RAM"}, "fenced": {"bootID": "b"}}


@FIXED
@given(like(A_SPEC))
def test_a_declared_maintenance_is_obeyed_or_named(spec: Any) -> None:
    hypervisor = parse_hypervisor({"metadata": METADATA, "spec": spec})
    declared = spec.get("maintenance") if isinstance(spec, dict) else None
    if declared is not None:
        assert hypervisor.maintenance or "spec.maintenance" in hypervisor.misunderstood
    assert len(hypervisor.misunderstood.splitlines()) <= 1

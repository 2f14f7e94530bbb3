"""What is read from a Lease, whoever has written it."""

from typing import Any

import pytest

from controller.kube.lease_fields import LOCK, LeaseFields, lease_fields

EMPTY = LeaseFields(holder="", renewed="", duration_s=None, lock="")


def test_the_fields_that_the_holder_writes_are_read() -> None:
    spec = {"holderIdentity": "pod-1", "leaseDurationSeconds": 40, "renewTime": "2026-11-27T08:00:00.000000Z"}
    raw = {"metadata": {"annotations": {LOCK: "pod-1 boot 8:1"}}, "spec": spec}
    assert lease_fields(raw) == LeaseFields("pod-1", "2026-11-27T08:00:00.000000Z", 40, "boot 8:1")


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"metadata": None, "spec": None},
        {"metadata": {"annotations": None}, "spec": {"holderIdentity": 1, "leaseDurationSeconds": "40"}},
        {"spec": {"holderIdentity": None, "leaseDurationSeconds": 0, "renewTime": None}},
    ],
)
def test_a_field_that_cannot_be_read_is_missing(raw: dict[str, Any]) -> None:
    assert lease_fields(raw) == EMPTY


@pytest.mark.parametrize("annotation", ["pod-0 boot 8:1", "pod-1", ""])
def test_the_lock_of_another_holder_or_none_is_not_known(annotation: str) -> None:
    raw = {"metadata": {"annotations": {LOCK: annotation}}, "spec": {"holderIdentity": "pod-1"}}
    assert lease_fields(raw).lock == ""

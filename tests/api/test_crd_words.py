"""The agent, the schema and the reference for users speak of the same things in the same words."""

import re
from enum import StrEnum
from typing import Any

import pytest

from controller.api import codec, hypervisor_codec
from controller.api.hypervisor import LISTED_LIMIT, HypervisorReason, MaintenanceMode
from controller.api.merge_patch import CONDITIONS_LIMIT
from controller.api.names import (
    GROUP,
    HYPERVISOR_KIND,
    HYPERVISOR_PLURAL,
    KIND,
    PLURAL,
    VERSION,
    HypervisorConditionType,
)
from controller.api.virtualmachine import (
    DesiredPowerState,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    ShutdownMode,
    StopCause,
)
from tests.api.documents import CRD, HYPERVISOR_CRD, REFERENCE, rows, words_of
from tests.api.test_codec import A_STATUS
from tests.api.test_hypervisor_codec import A_STATUS as A_HYPERVISOR_STATUS

Json = dict[str, Any]

WORDS = [
    ("spec.powerState", DesiredPowerState),
    ("spec.restartPolicy", RestartPolicy),
    ("spec.shutdown.mode", ShutdownMode),
    ("status.powerState", PowerState),
    ("status.lastStop.cause", StopCause),
    ("status.operation.type", OperationType),
]


@pytest.mark.parametrize(("path", "words"), WORDS, ids=[path for path, _ in WORDS])
def test_the_schema_has_the_words_of_the_agent(path: str, words: type[StrEnum]) -> None:
    assert sorted(words_of(path)) == sorted(words)


def test_the_schema_has_the_modes_of_a_maintenance() -> None:
    assert words_of("spec.maintenance.mode", HYPERVISOR_CRD) == list(MaintenanceMode)


@pytest.mark.parametrize(
    ("crd", "plural", "kind"),
    [(CRD, PLURAL, KIND), (HYPERVISOR_CRD, HYPERVISOR_PLURAL, HYPERVISOR_KIND)],
    ids=[KIND, HYPERVISOR_KIND],
)
def test_the_schema_has_the_name_that_the_agent_asks_for(crd: Json, plural: str, kind: str) -> None:
    spec = crd["spec"]
    assert (spec["group"], spec["versions"][0]["name"]) == (GROUP, VERSION)
    assert (spec["names"]["plural"], spec["names"]["kind"]) == (plural, kind)


@pytest.mark.parametrize(
    ("crd", "written"),
    [
        (CRD, codec.STATUS.write(codec.parse_status(A_STATUS))),
        (
            HYPERVISOR_CRD,
            hypervisor_codec.STATUS.write(hypervisor_codec.parse_hypervisor_status(A_HYPERVISOR_STATUS)),
        ),
    ],
    ids=[KIND, HYPERVISOR_KIND],
)
def test_the_schema_has_the_fields_of_the_status_that_the_codec_writes(crd: Json, written: Json) -> None:
    assert keys(written) == keys_of_schema(_status(crd))


def keys(value: Json, path: str = "") -> set[str]:
    """The paths of all keys, also of those in the maps of a list."""
    found = set()
    for key, item in value.items():
        found.add(f"{path}.{key}")
        for inner in item if isinstance(item, list) else [item]:
            found |= keys(inner, f"{path}.{key}") if isinstance(inner, dict) else set()
    return found


def keys_of_schema(schema: Json, path: str = "") -> set[str]:
    found = set()
    for key, field in schema.get("properties", {}).items():
        found |= {f"{path}.{key}", *keys_of_schema(field.get("items", field), f"{path}.{key}")}
    return found


def test_the_schema_has_the_limits_of_the_lists() -> None:
    status = _status(HYPERVISOR_CRD)["properties"]
    lists = status["unmanaged"]["properties"]["domains"], status["runsElsewhere"]
    assert [found["maxItems"] for found in lists] == [LISTED_LIMIT, LISTED_LIMIT]
    limits = {_status(crd)["properties"]["conditions"]["maxItems"] for crd in (CRD, HYPERVISOR_CRD)}
    assert limits == {CONDITIONS_LIMIT}


def test_the_schema_and_the_reference_have_the_reasons_and_conditions_of_a_hypervisor() -> None:
    described = _status(HYPERVISOR_CRD)["properties"]["conditions"]["description"]
    reference = REFERENCE.partition("\n## status of a Hypervisor\n")[2]
    for kind in HypervisorConditionType:
        assert kind in described
    tables = re.findall(r"^\| (?:True|False|Unknown) \| `(\w+)` \|", reference, re.MULTILINE)
    assert sorted(tables) == sorted(HypervisorReason)


def _status(crd: Json) -> Json:
    status: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return status


def test_the_reference_explains_each_reason_once() -> None:
    explained = [word for row in rows("## Ready, and why") for word in re.findall(r"`(\w+)`", row[1])]
    assert sorted(explained) == sorted(Reason)

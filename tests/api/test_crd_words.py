"""The agent, the schema and the reference for users speak of the same things in the same words."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.names import GROUP, KIND, PLURAL, VERSION
from controller.api.virtualmachine import (
    DesiredPowerState,
    OperationType,
    PowerState,
    Reason,
    RestartPolicy,
    ShutdownMode,
    StopCause,
)

ROOT = Path(__file__).parents[2]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crds/virtsync.dev_virtualmachines.yaml").read_text())
REFERENCE = (ROOT / "docs/api.md").read_text()

WORDS = [
    ("spec.powerState", DesiredPowerState),
    ("spec.restartPolicy", RestartPolicy),
    ("spec.shutdown.mode", ShutdownMode),
    ("status.powerState", PowerState),
    ("status.lastStop.cause", StopCause),
    ("status.operation.type", OperationType),
]


def words_of(path: str) -> list[str]:
    """The values of a field: its enum, or for the open ones of the status those that its description counts up."""
    field = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path.split("."):
        field = field["properties"][name]
    if "enum" in field:
        return list(field["enum"])
    counted = re.search(r"One of: ([\w, ]+)\.", field["description"])
    assert counted, f"{path} does not count up its values"
    return counted[1].split(", ")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the reference, without its header."""
    section = REFERENCE.partition(f"\n{heading}\n")[2]
    table = re.search(r"(^\|.*\n)+", section, re.MULTILINE)
    assert table, f"no table below {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


@pytest.mark.parametrize(("path", "words"), WORDS, ids=[path for path, _ in WORDS])
def test_the_schema_has_the_words_of_the_agent(path: str, words: type[StrEnum]) -> None:
    assert sorted(words_of(path)) == sorted(words)


def test_the_schema_has_the_name_that_the_agent_asks_for() -> None:
    spec = CRD["spec"]
    assert (spec["group"], spec["versions"][0]["name"]) == (GROUP, VERSION)
    assert (spec["names"]["plural"], spec["names"]["kind"]) == (PLURAL, KIND)


def test_the_reference_explains_each_reason_once() -> None:
    explained = [word for row in rows("## Ready, and why") for word in re.findall(r"`(\w+)`", row[1])]
    assert sorted(explained) == sorted(Reason)

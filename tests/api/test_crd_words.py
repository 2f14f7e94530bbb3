"""The agent, the schema and the reference for users speak of the same things in the same words."""

import re
from enum import StrEnum

import pytest

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
from tests.api.documents import CRD, rows, words_of

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


def test_the_schema_has_the_name_that_the_agent_asks_for() -> None:
    spec = CRD["spec"]
    assert (spec["group"], spec["versions"][0]["name"]) == (GROUP, VERSION)
    assert (spec["names"]["plural"], spec["names"]["kind"]) == (PLURAL, KIND)


def test_the_reference_explains_each_reason_once() -> None:
    explained = [word for row in rows("## Ready, and why") for word in re.findall(r"`(\w+)`", row[1])]
    assert sorted(explained) == sorted(Reason)

"""The reference for users names what the schema has: every field, every value."""

import re
from typing import Any

import pytest

from tests.api.documents import CRD, HYPERVISOR_CRD, REFERENCE, leaves, rows, words_of


def test_the_reference_explains_each_value() -> None:
    spec = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows("## spec: what you want")}
    for field in ("powerState", "restartPolicy", "shutdown.mode"):
        assert spec[field] == words_of(f"spec.{field}")
    states = rows(
        "`powerState` is one of these. More values may be added: treat a value that you do not know as `Unknown`."
    )
    assert sorted(word for row in states for word in re.findall(r"`(\w+)`", row[0])) == sorted(
        words_of("status.powerState")
    )
    causes = REFERENCE.partition("`lastStop.cause` is ")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", causes)) == sorted(words_of("status.lastStop.cause"))


@pytest.mark.parametrize(
    ("crd", "headings"),
    [
        (CRD, ("## spec: what you want", "## status: what is")),
        (HYPERVISOR_CRD, ("## spec of a Hypervisor", "## status of a Hypervisor")),
    ],
    ids=["VirtualMachine", "Hypervisor"],
)
def test_the_reference_names_each_field(crd: dict[str, Any], headings: tuple[str, ...]) -> None:
    named = {word for heading in headings for row in rows(heading) for word in re.findall(r"`([\w.]+)`", row[0])}
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert named == {name for part in schema.values() for name in leaves(part)}


def test_the_reference_names_each_field_of_the_lists_of_a_hypervisor() -> None:
    status = HYPERVISOR_CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    explained = {row[0].strip("`"): row[1] for row in rows("## status of a Hypervisor")}
    for path, field in (
        ("unmanaged.domains", status["unmanaged"]["properties"]["domains"]),
        ("runsElsewhere", status["runsElsewhere"]),
    ):
        assert {*field["items"]["properties"]} <= {*re.findall(r"`(\w+)`", explained[path])}


def test_the_reference_explains_each_mode_of_a_maintenance() -> None:
    [mode] = [row[1] for row in rows("## spec of a Hypervisor") if row[0] == "`maintenance.mode`"]
    assert re.findall(r"`(\w+)`", mode) == words_of("spec.maintenance.mode", HYPERVISOR_CRD)

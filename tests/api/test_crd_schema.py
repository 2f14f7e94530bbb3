"""What every field of the schemas owes its readers and the API server that must pay for checking it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.documents import CRD, HYPERVISOR_CRD

Json = dict[str, Any]

VERSIONS: list[Json] = [CRD["spec"]["versions"][0], HYPERVISOR_CRD["spec"]["versions"][0]]
KINDS = ["VirtualMachine", "Hypervisor"]
SCHEMA: Json = VERSIONS[0]["schema"]["openAPIV3Schema"]


@pytest.fixture(params=VERSIONS, ids=KINDS)
def version(request: pytest.FixtureRequest) -> Json:
    found: Json = request.param
    return found


@pytest.fixture
def schema(version: Json) -> Json:
    found: Json = version["schema"]["openAPIV3Schema"]
    return found


def fields(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every field below a schema with its path."""
    for name, field in schema["properties"].items():
        yield f"{path}.{name}", field
        below = field.get("items", field)
        if "properties" in below:
            yield from fields(below, f"{path}.{name}")


def _unbounded(field: Json) -> bool:
    match field["type"]:
        case "string":
            return "enum" not in field and "maxLength" not in field
        case "integer":
            # The API server's own generation is bounded by its format.
            return "minimum" not in field or ("maximum" not in field and field["format"] != "int64")
        case "array":
            return "maxItems" not in field
        case "object":
            return "properties" not in field
        case "boolean":
            return False
        case unexpected:
            raise AssertionError(unexpected)


def test_everything_has_a_bound(schema: Json) -> None:
    assert [path for path, field in fields(schema) if _unbounded(field)] == []


def test_no_default_inside_a_list_item(schema: Json) -> None:
    lists = [(path, field) for path, field in fields(schema) if "items" in field]
    assert [below for path, field in lists for below, item in fields(field["items"], path) if "default" in item] == []


def test_every_rule_says_what_must_be() -> None:
    rules = [rule for _, field in fields(SCHEMA) for rule in field.get("x-kubernetes-validations", [])]
    assert rules
    assert [rule for rule in rules if not rule["message"].startswith("must ") or "reason" not in rule] == []


def test_no_wrong_spec_is_answered_with_a_pattern(schema: Json) -> None:
    spec = schema["properties"]["spec"]
    # `must be of type date-time` says no more than a pattern does.
    assert [path for path, field in fields(spec) if "pattern" in field or field.get("format") == "date-time"] == []


def test_every_column_has_a_description(version: Json) -> None:
    columns = version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("description")] == []


def test_every_field_has_a_description(schema: Json) -> None:
    described = [schema, *(field for _, field in fields(schema))]
    assert [field for field in described if not field.get("description", "").rstrip().endswith(".")] == []

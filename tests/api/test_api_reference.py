"""The reference for users names what the schema has: every field, every value."""

import re
from typing import Any

from tests.api.documents import CRD, REFERENCE, rows, words_of


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


def test_the_reference_names_each_field() -> None:
    named = {
        word
        for heading in ("## spec: what you want", "## status: what is")
        for row in rows(heading)
        for word in re.findall(r"`([\w.]+)`", row[0])
    }
    schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert named == {name for part in schema.values() for name in _leaves(part)}


def _leaves(field: dict[str, Any], path: str = "") -> list[str]:
    """The fields below this one that hold a value, or a list."""
    below = field.get("properties", {})
    if not below:
        return [path.removeprefix(".")]
    return [leaf for name, child in below.items() for leaf in _leaves(child, f"{path}.{name}")]

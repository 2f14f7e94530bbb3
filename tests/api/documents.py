"""The schema of VirtualMachine and its reference for users, and what they list."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crds/virtsync.dev_virtualmachines.yaml").read_text())
REFERENCE = (ROOT / "docs/api.md").read_text()


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

"""The schemas of VirtualMachine and Hypervisor and their reference for users, and what they list."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crds/virtsync.dev_virtualmachines.yaml").read_text())
HYPERVISOR_CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crds/virtsync.dev_hypervisors.yaml").read_text())
REFERENCE = (ROOT / "docs/api.md").read_text()


def words_of(path: str, crd: dict[str, Any] = CRD) -> list[str]:
    """The values of a field: its enum, or for the open ones of the status those that its description counts up."""
    field = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path.split("."):
        field = field["properties"][name]
    if "enum" in field:
        return list(field["enum"])
    counted = re.search(r"One of: ([\w, ]+)\.", field["description"])
    assert counted, f"{path} does not count up its values"
    return counted[1].split(", ")


def leaves(field: dict[str, Any], path: str = "") -> list[str]:
    """The fields below this one that hold a value, or a list."""
    below = field.get("properties", {})
    if not below:
        return [path.removeprefix(".")]
    return [leaf for name, child in below.items() for leaf in leaves(child, f"{path}.{name}")]


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the reference, without its header."""
    section = REFERENCE.partition(f"\n{heading}\n")[2]
    table = re.search(r"(^\|.*\n)+", section, re.MULTILINE)
    assert table, f"no table below {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]

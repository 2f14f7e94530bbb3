"""Manifests as YAML text: reads documents, and writes objects and kustomizations in a way that people can review."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from controller.api.json_mapping import Json
from controller.runtime.errors import Rejected

PLAIN = re.compile(r"(?![yYnN]$)[A-Za-z].*|.+\.yaml|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The texts for which PyYAML decides whether they need quotes. The others get quotes, because Kubernetes reads texts as
numbers, booleans or times that PyYAML does not, such as 1e3, y and 2026-1-1."""
KUSTOMIZATION = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes texts in a way that PyYAML and Kubernetes read alike."""


def _represent_text(dumper: Any, text: str) -> Any:
    style = None if PLAIN.fullmatch(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def documents(text: str) -> list[object]:
    """Return the documents of a YAML text. Raises Rejected with a message."""
    try:
        return list(yaml.load_all(text, Loader))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a time such as 2026-99-99
        raise Rejected(f"it is not valid YAML: {_reason(error)}") from error


def document(manifest: Json, *, above: Iterable[str] = (), below: Iterable[str] = ()) -> str:
    """Return the object as YAML. The comments `above` come first; those `below` end the last field of the object."""
    body = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1000)
    return "".join(f"# {line}\n" for line in above) + body + "".join(f"  # {line}\n" for line in below)


def kustomization(resources: Iterable[str]) -> str:
    """Return a new kustomization with these resources."""
    return KUSTOMIZATION + "".join(f"- {_scalar(entry)}\n" for entry in resources)


def with_resources(text: str, resources: Iterable[str]) -> str:
    """Return a kustomization with these resources added, unless it lists them. All other lines stay as they are.

    Each entry is inserted before the first entry that sorts after it. Raises Rejected with a message if the text has
    another form than a list with one resource on each line.
    """
    before = _kustomization(text)
    missing = sorted(set(resources) - set(map(_plain, before["resources"])))
    for entry in missing:
        text = _inserted(text, entry)
    after = _kustomization(text)
    if after != before | {"resources": after["resources"]} or sorted(after["resources"]) != sorted(
        [*before["resources"], *missing]
    ):
        raise Rejected("its resources are not a list with one entry on each line")
    return text


def _kustomization(text: str) -> Json:
    """Parse a kustomization. Raises Rejected."""
    found = documents(text)
    parsed: Json = found[0] if len(found) == 1 and isinstance(found[0], dict) else {}
    resources = parsed.get("resources")
    if not isinstance(resources, list) or not resources or not all(isinstance(entry, str) for entry in resources):
        raise Rejected("it has no list of resources")
    return parsed


def _inserted(text: str, entry: str) -> str:
    """Return the kustomization with one more entry, before the first one that sorts after it. Raises Rejected."""
    root: Any = yaml.compose(text, Loader)
    items = next(value.value for key, value in root.value if key.value == "resources")
    lines = text.splitlines(keepends=True)
    lines[-1] = lines[-1].removesuffix("\n") + "\n"
    first = lines[items[0].start_mark.line]
    indent = re.match(r"\s*-\s+", first)
    if not indent:
        raise Rejected("its resources are not a list with one entry on each line")
    place = next((item.start_mark.line for item in items if _plain(item.value) > entry), items[-1].end_mark.line + 1)
    place = min(place, len(lines))
    while lines[place - 1].lstrip().startswith("#"):  # the comment is about the entry below it
        place -= 1
    lines.insert(place, f"{indent[0]}{_scalar(entry)}\n")
    return "".join(lines)


def _plain(entry: str) -> str:
    """Return a path in its shortest form: `./web-1.yaml` as `web-1.yaml`."""
    return entry.removeprefix("./").rstrip("/")


def _scalar(text: str) -> str:
    return str(yaml.dump(text, Dumper=_Dumper)).splitlines()[0]


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return (str(error).splitlines() or [type(error).__name__])[0]

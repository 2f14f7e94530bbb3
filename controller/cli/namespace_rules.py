"""Reads the file with the rules that choose the namespace of each imported domain."""

from __future__ import annotations

import re
from pathlib import Path

from controller.fleet.import_plan import Rule
from controller.kube import manifests
from controller.runtime.errors import Rejected
from controller.runtime.settings import namespace

FORM = "a list of rules, each with the fields match and namespace"


def read_rules(file: str) -> tuple[Rule, ...]:
    """Return the rules in a YAML file. Raises ValueError with a message."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    try:
        found = manifests.documents(text)
    except Rejected as error:
        raise ValueError(f"{file} has no rules: {error}") from error
    rules = found[0] if len(found) == 1 else None
    if not isinstance(rules, list) or not rules:
        raise ValueError(f"{file} must have {FORM}.")
    return tuple(_rule(f"{file}, rule {number}", raw) for number, raw in enumerate(rules, 1))


def _rule(place: str, raw: object) -> Rule:
    match raw:
        case {"match": str() as pattern, "namespace": str() as name, **rest} if not rest:
            try:
                return Rule(re.compile(pattern), namespace(name))
            except re.error as error:
                raise ValueError(f"{place}: {pattern!r} is not a regular expression: {error}.") from error
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
    raise ValueError(f"{place} must have the fields match and namespace, both strings, and no other.")

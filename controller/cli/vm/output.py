"""Prints what a command has found: lines for people, or objects for programs."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from controller.api.json_mapping import Json, as_map
from controller.api.names import GROUP

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("json", "yaml", "name")


def with_output(*formats: str) -> Callable[[F], F]:
    """Return a decorator that adds the option -o, with these formats."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats or FORMATS),
        help="Print this for programs.  [default: text for people]",
    )


def show(lines: Iterable[str]) -> None:
    """Print lines for people. The colors are left out if stdout is no terminal, or NO_COLOR is set."""
    # https://no-color.org; None: click decides by whether stdout is a terminal
    color = False if os.environ.get("NO_COLOR") else None
    for line in lines:
        click.echo(line, color=color)


def show_objects(objects: Sequence[Json], output: str, *, single: bool = False) -> None:
    """Print objects of Kubernetes. `single`: the only object itself, as kubectl does for one name."""
    if output == "name":
        for raw in objects:
            click.echo(f"{str(raw.get('kind', '')).lower()}.{GROUP}/{as_map(raw.get('metadata')).get('name')}")
        return
    show_data(
        objects[0] if single and len(objects) == 1 else {"apiVersion": "v1", "kind": "List", "items": list(objects)},
        output,
    )


def show_data(data: Json, output: str) -> None:
    """Print data as JSON or YAML."""
    if output == "json":
        # JSON is UTF-8. In another encoding of stdout, only ASCII means the same.
        is_utf_8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        click.echo(json.dumps(data, indent=2, ensure_ascii=not is_utf_8))
        return
    from controller.kube.manifests import document  # noqa: PLC0415 - only YAML needs it

    click.echo(document(data), nl=False)

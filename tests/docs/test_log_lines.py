"""docs/operations.md explains the lines that the agent logs, in the words in which it logs them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
OURS = "internal error "
"""Begins the event of each fault of ours: one row explains them all."""


def test_each_problem_that_is_logged_is_explained() -> None:
    events = set(_logged("warning", "error", "exception"))
    assert "could not list VirtualMachines" in events  # that the search finds any

    assert [event for event in sorted(events) if not event.startswith(OURS) and event not in OPERATIONS] == []


def test_each_line_that_is_explained_is_logged() -> None:
    events = tuple(_logged("info", "warning", "error", "exception"))
    lines = list(_explained())
    assert len(lines) > 20

    assert [line for line in lines if not line.startswith(events)] == []


def _logged(*levels: str) -> Iterator[str]:
    """The constant event of each call of a logger in the product."""
    for path in (ROOT / "controller").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("log"), attr=level), args=[ast.Constant(str() as event), *_]
                ) if level in levels:
                    yield event


def _explained() -> Iterator[str]:
    """The line that each row of the tables of log lines begins with, without the VM that it is about."""
    for table in OPERATIONS.split("\n| the log has | ")[1:]:
        for row in table.partition("\n\n")[0].splitlines()[2:]:
            if line := re.match(r"\| `([^`]+)`", row):
                yield line[1].removeprefix("vms/web-1: ")

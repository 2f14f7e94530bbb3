"""The flags of a command as Markdown, as docs/configuration.md has them between its marks.

`.venv/bin/python -m tests.cli.reference` prints what the documentation should have.
"""

import re
from itertools import groupby
from pathlib import Path

import click

from controller.cli.agent import agent
from controller.cli.manager import manager
from controller.cli.options import Option

CONFIGURATION = Path(__file__).parents[2] / "docs" / "configuration.md"


def documented_flags(mark: str) -> str:
    """What the documentation has between the marks of this name."""
    documented = re.search(rf"<!-- {mark} -->\n(.*)<!-- /{mark} -->", CONFIGURATION.read_text(), re.DOTALL)
    assert documented, mark
    return documented[1]


def reference(command: click.Command) -> str:
    """The flags of the command as Markdown."""
    options = [option for option in command.params if isinstance(option, Option)]
    with click.Context(command) as context:
        return "".join(
            f"\n### {heading}\n\n| Flag | Environment | Default | |\n|---|---|---|---|\n"
            + "".join(_row(option, context) for option in found)
            for heading, found in groupby(options, lambda option: option.section)
        )


def _row(option: Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    default = "required" if option.required else option.get_help_extra(context).get("default", "off")
    flag = f"{option.opts[0]}{value}".replace("|", "\\|")
    return f"| `{flag}` | `{option.envvar}` | {default.strip('()').replace('*', '`*`')} | {option.help} |\n"


if __name__ == "__main__":
    for one in (agent, manager):
        print(reference(one))  # noqa: T201

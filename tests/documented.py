"""The commands of docs/operations.md, for tests that type them."""

import re
from pathlib import Path

OPERATIONS = (Path(__file__).parents[1] / "docs/operations.md").read_text()


def commands(heading: str) -> list[str]:
    """What is typed in the blocks of a section, each command with its further lines."""
    section = OPERATIONS.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    assert blocks, heading
    return [command for block in blocks for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]

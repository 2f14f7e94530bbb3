"""The unit of the agent as a file; tests/e2e/test_systemd_unit.py runs it."""

import re
import subprocess

from controller.cli import main
from tests.deploy.callers import REPOSITORY

UNIT = REPOSITORY / "deploy/systemd/virtsync-agent.service"


def test_its_exposure_is_the_one_in_the_docs() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    rated = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for \S+: (\S+)", rated)
    assert found
    assert f"rates its exposure {found[1]} of 10" in (REPOSITORY / "docs/security.md").read_text()


def test_every_variable_of_the_unit_is_one_that_the_agent_knows() -> None:
    known = {option.envvar for option in main.commands["agent"].params}
    lines = re.findall(r"^Environment=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert {word.partition("=")[0] for line in lines for word in line.split()} <= known

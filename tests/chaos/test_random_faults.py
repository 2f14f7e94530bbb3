"""Random faults on a whole node: nothing is lost and nothing is wrongly switched; and who would switch is found out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def chaos(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chaos", *options],
        env=os.environ | {"PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(400)
def test_all_is_right_after_random_faults() -> None:
    done = chaos("--seed=3", "--minutes=0.5", "--qemu-vms=4", "--moving-vms=4", "--test-vms=40")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^unjustified: 0$", done.stdout, re.MULTILINE)
    assert re.search(r"^unjustified writes of managers: 0$", done.stdout, re.MULTILINE)
    assert re.search(r"^double runs: 0 begun by agents", done.stdout, re.MULTILINE)
    assert int(re.findall(r"START (\d+)", done.stdout)[0]) >= 48
    assert re.search(r"^virsh destroy +[1-9]", done.stdout, re.MULTILINE)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_agent_that_acts_without_asking_is_found_out() -> None:
    done = chaos("--seed=1", "--minutes=10", "--agent=chaos.reckless", "--until-found")
    assert done.returncode == 1
    assert "unjustified: 0" not in done.stdout
    assert re.search(r"^unjustified: .*: its object was (last|never) asked for", done.stdout, re.MULTILINE), done.stdout
    assert "again: make chaos SEED=1 MINUTES=10" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_agent_that_forgets_its_starts_is_found_out() -> None:
    done = chaos("--seed=1", "--minutes=10", "--agent=chaos.forgetful", "--until-found")
    assert done.returncode == 1
    assert "double runs: 0 begun by agents" not in done.stdout
    assert re.search(r"^double run: START of moving-\d", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_agent_that_obeys_no_maintenance_is_found_out() -> None:
    faults = ("--only=maintenance: Hold", "--only=maintenance: Shutdown")
    done = chaos("--seed=1", "--minutes=10", "--agent=chaos.deaf", "--until-found", *faults)
    assert done.returncode == 1
    pattern = r"^unjustified: .*: its node was (in a maintenance|quiesced)"
    assert re.search(pattern, done.stdout, re.MULTILINE), done.stdout


def test_a_fault_that_does_not_exist_is_refused() -> None:
    done = chaos("--without=rain")
    assert done.returncode == 2
    assert "rain; faults are: libvirtd killed;" in done.stderr

"""A run of tests in several processes ends also when one of them dies."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests.workers import SchedulingByFile

def pytest_xdist_make_scheduler(config, log):
    return SchedulingByFile(config, log)
"""
PASSES = "def test_{}(): pass\n"
DIES = "import os\ndef test_dies(): os._exit(1)\n"
DIES_AFTER = "import os, time\ndef test_dies(): time.sleep({}); os._exit(1)\n"
MANY = {f"z{n}": "".join(map(PASSES.format, range(3))) for n in range(6)} | {
    "slow": f"import time\ntime.sleep(2)\n{PASSES.format(1)}"
}
"""More files than the workers get before the first of them dies. It takes them 2 s to find these tests."""


def ran(folder: Path, processes: int, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the tests of this folder in a Python of their own, which first executes `before`."""
    words = ["-c", "/dev/null", f"--rootdir={folder}", "-p", "no:cacheprovider", f"--numprocesses={processes}"]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"{before}import pytest\nraise SystemExit(pytest.main({[*words, *options, str(folder)]!r}))",
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("files", "passed", "failed"),
    [
        pytest.param({"a": PASSES.format(1) + DIES + PASSES.format(2), "b": PASSES.format(3)}, 3, 1, id="middle"),
        pytest.param({"a": PASSES.format(1), "b": PASSES.format(2), "c": PASSES.format(3), "d": DIES}, 3, 1, id="last"),
        pytest.param({"a": DIES, "b": PASSES.format(1)}, 1, 1, id="first"),
        pytest.param({"a": DIES, "b": DIES, "c": DIES + PASSES.format(1)}, 1, 3, id="several"),
        pytest.param({"a": PASSES.format(1) + PASSES.format(2) + DIES}, 2, 1, id="alone"),
        pytest.param(
            {"a": DIES_AFTER.format(0.3), "b": DIES_AFTER.format(2), **MANY},
            19,
            2,
            id="second-while-the-first-is-replaced",
        ),
        pytest.param({"a": DIES, "b": DIES, **MANY}, 19, 2, id="both-at-once"),
    ],
)
def test_each_test_runs_once_when_workers_die(
    files: dict[str, str], passed: int, failed: int, processes: int, tmp_path: Path
) -> None:
    """A test that ends its process is reported once, all others run, and the run ends."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    run = ran(tmp_path, processes, "--dist=loadfile", "--no-loadscope-reorder")
    counted = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed)", run.stdout.splitlines()[-1])}
    assert counted == {"passed": passed, "failed": failed}, run.stdout


IGNORED = "import signal\nfor number in (1, 2, 3, 15, 20): signal.signal(number, signal.SIG_IGN)\n"
SEES_SIGNALS = """
import signal

def test_no_signal_is_ignored():
    ignored = {one for one in signal.Signals if signal.getsignal(one) is signal.SIG_IGN}
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}
"""


@pytest.mark.parametrize("processes", [0, 1])
def test_tests_in_the_background_ignore_no_signal(processes: int, tmp_path: Path) -> None:
    """As after nohup: a program that tests start would ignore what they send."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    (tmp_path / "test_signals.py").write_text(SEES_SIGNALS)
    run = ran(tmp_path, processes, before=IGNORED)
    assert run.returncode == 0, run.stdout

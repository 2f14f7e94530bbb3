"""`virtsync check` as people meet it: its help, its wrong options, its table and its JSON."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.agent.settings import Settings
from controller.cli import main
from controller.cli.check import as_json, as_table
from controller.cli.options import options_of
from controller.runtime.checks import missing, not_visible, ok

FINDINGS = {
    "libvirt": ok("libvirt 9.0.0"),
    "host lock": missing("process 7 holds it", "kill 7"),
    "Lease": not_visible("this needs: API server"),
}


def test_the_table_has_a_line_for_each_thing_and_one_for_the_command_that_fixes_it() -> None:
    assert list(as_table(FINDINGS)) == [
        "CHECK       STATE                   DETAIL",
        "libvirt     ok                      libvirt 9.0.0",
        "host lock   missing                 process 7 holds it",
        "                                    fix: kill 7",
        "Lease       not visible from here   this needs: API server",
    ]


def test_the_json_has_the_same_facts() -> None:
    assert as_json(FINDINGS) == [
        {"name": "libvirt", "state": "ok", "detail": "libvirt 9.0.0"},
        {"name": "host lock", "state": "missing", "detail": "process 7 holds it", "fix": "kill 7"},
        {"name": "Lease", "state": "not visible from here", "detail": "this needs: API server"},
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Missing option '--node-name' (env var: 'NODE_NAME')."),
        ("--node-name Node_1", "'Node_1' cannot be the name of a Node"),
        ("--node-name a --kubeconfig /nonexistent", "File '/nonexistent'"),
        ("--node-name a --output yaml", "'yaml' is not one of 'table', 'json'."),
        ("--node-name a --settle-power 5s", "No such option '--settle-power'"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_exit_2(words: str, told: str) -> None:
    known = {option.envvar for option in options_of(Settings)}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    command = [sys.executable, "-m", "controller", "check", *words.split()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in " ".join(ended.stderr.splitlines()[-1:])


def test_an_output_that_cannot_be_written_is_an_error_and_nothing_is_missing() -> None:
    command = [sys.executable, "-m", "controller", "check", "--node-name", "a", "--timeout", "0.1s"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    told = "Error: the output cannot be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (2, told)


def test_help_teaches() -> None:
    told = " ".join(CliRunner().invoke(main, ["check", "--help"]).output.split())
    for sentence in (
        "Nothing is written",
        "Exit code: 0: nothing is missing; 1: something is missing; 2: wrong usage, or an error.",
        "kubectl -n virtsync-system exec ds/virtsync-agent -- virtsync check",
        "virtsync check --node-name node-a --kubeconfig FILE",
    ):
        assert sentence in told


def test_help_and_wrong_values_answer_before_anything_heavy_is_loaded() -> None:
    program = """
import sys
from click.testing import CliRunner
before = set(sys.modules)  # since Python 3.14 pdb, which CliRunner needs, loads asyncio
from controller.cli import main
assert CliRunner().invoke(main, ["check", "--help"]).exit_code == 0
assert CliRunner().invoke(main, ["check", "--node-name", "A"]).exit_code == 2
loaded = set(sys.modules) - before
print(sorted({"asyncio", "kopf", "kubernetes", "libvirt", "prometheus_client", "structlog"} & loaded))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"

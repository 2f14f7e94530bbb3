"""The command as its users meet it: it teaches, and says in one sentence what is wrong."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller import __version__
from controller.cli import main
from controller.cli.agent import agent
from controller.cli.options import Option
from tests.cli.reference import documented_flags, reference

NOWHERE = """
apiVersion: v1
kind: Config
current-context: nowhere
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
clusters: [{name: nowhere, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: nobody, user: {token: none}}]
"""


def settings() -> list[Option]:
    found = [option for option in agent.params if isinstance(option, Option)]
    assert found == agent.params
    return found


def virtsync(*words: str, hang_s: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    known = {str(option.envvar) for option in settings()}
    environment = {name: value for name, value in os.environ.items() if name not in known} | variables
    command = [sys.executable, "-m", "controller", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=hang_s, env=environment, check=False)


def refusal(*words: str) -> str:
    """The one sentence that the command ends with; nothing but the hint at --help may stand before it."""
    ended = virtsync("agent", *words)
    assert ended.returncode == 2
    assert ended.stdout == ""
    *hints, sentence = ended.stderr.strip().splitlines()
    assert [hint for hint in hints if hint and not hint.startswith(("Usage: ", "Try "))] == []
    assert sentence.startswith("Error: ")
    return sentence


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Missing option '--node-name' (env var: 'NODE_NAME')."),
        ("--node-name Node_1", "'Node_1' cannot be the name of a Node"),
        (f"--node-name {'a' * 254}", "at most 253"),
        ("--node-name a..b", "'a..b' cannot be the name of a Node"),
        ("--node-name virtsync-manager", "the Lease of the manager's leader has this name."),
        ("--node-name a --ignore-domains a(", "'a(' is not a regular expression: missing ), unterminated subpattern"),
        ("--node-name a --report-unmanaged maybe", "'maybe' is not a valid boolean."),
        ("--node-name a --vm-metrics few", "'few' is not one of 'all', 'drift', 'off'."),
        ("--node-name a --libvirt-uri qemu", "'qemu' is not the URI of a libvirt on this machine like qemu:///system."),
        ("--node-name a --libvirt-uri qemu+ssh://other/system", "is not the URI of a libvirt on this machine"),
        ("--node-name a --kubeconfig /nonexistent", "'--kubeconfig' (env var: 'KUBECONFIG'): File '/nonexistent'"),
        ("--node-name a --settle-power soon", "'soon' is not a duration like 500ms, 10s, 15m or 1h."),
        ("--node-name a --settle-pause soon", "'soon' is not a duration like 500ms, 10s, 15m or 1h, or never."),
        ("--node-name a --resync-libvirt 0", "'0' is out of bounds: it must be between 1s and 8760h."),
        ("--node-name a --start-parallel 5", "5 is not in the range 1<=x<=4."),
        ("--node-name a --workers 9", "'--workers' (env var: 'VIRTSYNC_WORKERS'): 9 is not in the range 1<=x<=8."),
        ("--node-name a --http-address here", "'here' is not an IPv4 or IPv6 address. To use all addresses, set *."),
        ("--node-name a --http-port 65536", "65536 is not in the range 0<=x<=65535."),
        ("--node-name a --log-format xml", "'xml' is not one of 'text', 'json'."),
        ("--node-name a --lease-namespace a.b", "'a.b' cannot be the name of a namespace"),
        ("--node-name a --identity ü", "'ü' must be 1 to 128 printable ASCII characters without spaces."),
        ("--node-name a --lease-duration 1s", "'1s' is out of bounds: it must be between 2s and 300s."),
        ("--node-name a --brake-count 1", "1 is not in the range 2<=x<=1000."),
        ("--node-name a --backoff-first 1h", "--backoff-first must not be longer than --backoff-max."),
    ],
)
def test_a_wrong_value_is_one_sentence_and_exit_2(words: str, told: str) -> None:
    assert told in refusal(*words.split())


def test_a_kubeconfig_that_is_none_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("this is: [not, yaml")
    assert str(kubeconfig) in refusal("--node-name", "a", "--kubeconfig", str(kubeconfig))


def test_a_port_that_is_taken_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(NOWHERE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--node-name", "a", "--libvirt-uri", "test:///default", "--kubeconfig", str(kubeconfig)]
        told = refusal(*flags, "--observe-only", "--http-address", "127.0.0.1", "--http-port", port)
    assert told == f"Error: Cannot serve health and metrics on port {port} of 127.0.0.1: Address already in use."


def test_misspelt_variables_are_one_line_before_anything_else(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(NOWHERE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ["--node-name", "a", "--libvirt-uri", "test:///default", "--kubeconfig", str(kubeconfig)]
        flags += ["--observe-only", "--http-address", "127.0.0.1", "--http-port", str(taken.getsockname()[1])]
        ended = virtsync("agent", *flags, VIRTSYNC_SETLE_POWER="5s", VIRTSYNC_XYZZY="1")
    warning, *rest = ended.stderr.splitlines()
    told = (
        "unknown environment variable: VIRTSYNC_SETLE_POWER has no effect: did you mean VIRTSYNC_SETTLE_POWER?"
        " VIRTSYNC_XYZZY has no effect: virtsync agent --help lists the valid ones."
    )
    assert re.fullmatch(rf"\S+ \[warning +\] {re.escape(told)}", warning)
    assert "VIRTSYNC_SETLE_POWER" not in "".join(rest)


def test_the_version_is_the_packages() -> None:
    ended = virtsync("--version")
    assert (ended.returncode, ended.stdout) == (0, f"virtsync, version {__version__}\n")


def test_help_tells_of_each_flag_its_variable_and_its_default() -> None:
    told = CliRunner().invoke(main, ["agent", "--help"]).output
    words = " ".join(told.split())
    for option in settings():
        assert f"\n  {option.opts[0]} " in told
        assert f"env var: {option.envvar}" in words
        assert re.fullmatch(r"[^A-Z]*[A-Z].*\.", option.help or ""), "help is a sentence"
    assert words.count("default: ") == len(settings()) - 2, "all but --node-name and --observe-only have one"


def test_help_and_wrong_values_answer_before_anything_heavy_is_loaded() -> None:
    program = """
import sys
from click.testing import CliRunner
before = set(sys.modules)  # since Python 3.14 pdb, which CliRunner needs, loads asyncio
from controller.cli import main
assert CliRunner().invoke(main, ["agent", "--help"]).exit_code == 0
assert CliRunner().invoke(main, ["agent", "--node-name", "A"]).exit_code == 2
loaded = set(sys.modules) - before
print(sorted({"asyncio", "kopf", "kubernetes", "libvirt", "prometheus_client", "structlog"} & loaded))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"


def test_the_documented_flags_are_the_commands() -> None:
    assert documented_flags("flags") == reference(agent)

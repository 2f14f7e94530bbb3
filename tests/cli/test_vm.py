"""`virtsync vm` and `kubectl virtsync` as programs, as far as they need no API server."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from controller.cli import main
from controller.cli.plugin import plugin
from controller.cli.vm import vm
from controller.cli.vm.cluster import Cluster, with_cluster
from controller.cli.vm.output import show, show_objects
from controller.runtime.errors import Rejected

OBJECT = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "web-1"}}
SHOW_RED = "import click; from controller.cli.vm.output import show; show([click.style('StartFailed', fg='red')])"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["vm", *words])


def test_the_plugin_has_the_commands_of_the_group() -> None:
    assert {name: one for name, one in plugin.commands.items() if name != "completion"} == vm.commands
    assert main.commands["vm"] is vm


@pytest.mark.parametrize(
    "words",
    [
        ("status", "web-1", "-A"),
        ("status", "web-1", "-l", "app=web"),
        ("drift", "-A", "-n", "shop"),
        ("drift", "-n", "Not A Namespace"),
        ("status", "web_1"),
        ("status", "-o", "xml"),
        ("history",),
        ("history", "web-1", "-o", "name"),
        ("hosts", "-n", "shop"),
        ("hosts", "--kubeconfig", "/nonexistent"),
    ],
)
def test_wrong_usage_ends_with_2_and_sends_nothing(words: tuple[str, ...]) -> None:
    ended = run(*words)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Usage: ")


def test_no_kubeconfig_is_an_error_and_no_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    ended = run("drift")
    assert ended.exit_code == 2
    assert ended.stderr == f"Error: there is no kubeconfig: looked for {tmp_path}/missing.\n"


def test_a_command_that_needs_the_option_as_can_rename_impersonation() -> None:
    got: list[Any] = []

    @click.command
    @click.option("--as", "who")
    @with_cluster(as_user="--as-user")
    def hold(*, cluster: Cluster, who: str) -> None:
        got.append((cluster.user, cluster.groups, cluster.namespace, who))

    words = ["--as", "backup", "--as-user", "eve", "--as-group", "a", "--as-group", "b", "-n", "shop"]
    assert CliRunner().invoke(hold, words).exit_code == 0
    assert got == [("eve", ("a", "b"), "shop", "backup")]


@pytest.mark.parametrize(("environ", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colors_unless_it_wants_none(environ: dict[str, str], *, colored: bool) -> None:
    master, terminal = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        subprocess.run([sys.executable, "-c", SHOW_RED], stdout=terminal, env=kept | environ, check=True, timeout=60)
        shown = os.read(master, 1000).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert click.unstyle(shown).strip() == "StartFailed"
    assert (shown != click.unstyle(shown)) is colored


def test_a_pipe_gets_no_colors(capfd: pytest.CaptureFixture[str]) -> None:
    show([click.style("StartFailed", fg="red")])
    assert capfd.readouterr().out == "StartFailed\n"


def test_one_name_is_one_object_and_many_are_a_list(capfd: pytest.CaptureFixture[str]) -> None:
    show_objects([OBJECT], "json", single=True)
    assert json.loads(capfd.readouterr().out) == OBJECT
    show_objects([OBJECT], "json")
    assert json.loads(capfd.readouterr().out) == {"apiVersion": "v1", "kind": "List", "items": [OBJECT]}
    show_objects([OBJECT, OBJECT], "name")
    assert capfd.readouterr().out == "virtualmachine.virtsync.dev/web-1\n" * 2


class Interrupting:
    """An API server during whose answer Ctrl-C is pressed, or that shows a mistake of ours."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("a mistake"), 2)])
def test_what_nobody_expects_does_not_look_like_drift(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.kube.user_kubeconfig.connect", Interrupting(error))
    assert run("drift", "-n", "shop").exit_code == code


def test_an_error_cannot_move_the_cursor() -> None:
    @click.command
    @with_cluster()
    def fails(*, cluster: Cluster) -> None:
        raise Rejected(f"\x1b[2Jbad{cluster.namespace}")

    ended = CliRunner().invoke(fails, ["-n", "shop"], color=True)
    assert (ended.exit_code, ended.stderr) == (2, "Error: badshop.\n")

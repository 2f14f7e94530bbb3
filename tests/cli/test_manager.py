"""`virtsync manager` as its users meet it: it teaches, and says in one sentence what is wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli import main
from controller.cli.manager import manager
from controller.cli.options import Option, build
from controller.manager.settings import Settings
from tests.cli.reference import documented_flags, reference

SETTINGS = [option for option in manager.params if isinstance(option, Option)]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in SETTINGS:
        monkeypatch.delenv(str(option.envvar), raising=False)


def test_each_flag_sets_its_own_field(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()
    words = f"""
        --kubeconfig {kubeconfig} --namespace agents --identity pod-1 --http-address ::1 --http-port 0
        --log-format json --log-level error --page-port 9000
    """
    assert {option.opts[0] for option in manager.params} <= set(words.split())
    with manager.make_context("manager", words.split()) as context:
        assert build(Settings, dict(context.params)) == Settings(
            kubeconfig=kubeconfig,
            namespace="agents",
            identity="pod-1",
            http_address="::1",
            http_port=0,
            log_format="json",
            log_level="error",
            page_port=9000,
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Missing option '--namespace' (env var: 'POD_NAMESPACE')."),
        ("--namespace a.b", "'a.b' cannot be the name of a namespace"),
        ("--namespace a --identity ü", "'ü' must be 1 to 128 printable ASCII characters without spaces."),
        ("--namespace a --kubeconfig {folder}/none", "does not exist"),
        ("--namespace a --page-port no", "'no' is not a port between 0 and 65535, and not off."),
        ("--namespace a --page-port 65536", "'65536' is not a port between 0 and 65535, and not off."),
        ("--namespace a --page-port -1", "'-1' is not a port between 0 and 65535, and not off."),
    ],
)
def test_a_wrong_value_is_one_sentence_and_exit_2(words: str, told: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["manager", *words.format(folder=tmp_path).split()])
    assert ended.exit_code == 2
    assert told in " ".join(ended.output.split())


def test_the_page_can_be_switched_off() -> None:
    with manager.make_context("manager", ["--namespace", "a", "--page-port", "off"]) as context:
        assert build(Settings, dict(context.params)).page_port is None


def test_help_tells_of_each_flag_its_variable() -> None:
    told = CliRunner().invoke(main, ["manager", "--help"]).output
    words = " ".join(told.split())
    for option in SETTINGS:
        assert f"\n  {option.opts[0]} " in told
        assert f"env var: {option.envvar}" in words
        assert re.fullmatch(r"[^A-Z]*[A-Z].*\.", option.help or ""), "help is a sentence"


def test_a_manager_never_loads_libvirt_or_the_watch() -> None:
    program = """
import sys
from controller.cli import main
import controller.manager.app
print(sorted({"libvirt", "kopf"} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"


def test_a_variable_that_is_misspelled_is_named(tmp_path: Path) -> None:
    environment = os.environ | {"VIRTSYNC_LOG_FORMATT": "json"}
    words = ["--namespace", "a", "--kubeconfig", str(tmp_path / "none")]
    (tmp_path / "none").write_text("no kubeconfig")
    ended = subprocess.run(
        [sys.executable, "-m", "controller", "manager", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert ended.returncode == 2
    assert "VIRTSYNC_LOG_FORMATT has no effect: did you mean VIRTSYNC_LOG_FORMAT?" in ended.stderr


def test_the_documented_flags_are_the_commands() -> None:
    assert documented_flags("manager flags") == reference(manager)

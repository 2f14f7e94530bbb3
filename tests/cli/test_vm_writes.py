"""The commands that change VMs and hosts, without a cluster: values that are refused before any request."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli import main

VALID = {
    "start": ["web-1", "-n", "shop"],
    "stop": ["web-1", "-n", "shop"],
    "pause": ["web-1", "-n", "shop"],
    "restart": ["web-1", "-n", "shop"],
    "hold": ["web-1", "-n", "shop", "--as", "ann", "--because", "backup"],
    "release": ["web-1", "-n", "shop", "--as", "ann"],
}


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["vm", *words])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", VALID)
def test_a_command_names_the_kubeconfig_that_it_cannot_use(command: str, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("{}")
    code, said = run(command, *VALID[command], "--kubeconfig", str(kubeconfig))
    assert code == 2
    assert f"the kubeconfig {kubeconfig} is not usable" in said


@pytest.mark.parametrize("command", VALID)
@pytest.mark.parametrize("name", ["web-1/", "web_1", "..", "WEB", ""])
def test_a_name_that_would_lead_to_another_path_is_refused(command: str, name: str) -> None:
    code, said = run(command, name, *VALID[command][1:])
    assert (code, "cannot be the name of a VirtualMachine" in said) == (2, True)


@pytest.mark.parametrize("command", VALID)
@pytest.mark.parametrize("name", ["shop/web-1", "node/web-1", "kvmhost/web-1", "pod/kvm/web-1"])
def test_a_namespace_or_another_kind_in_front_of_the_name_is_refused(command: str, name: str) -> None:
    """The output of the commands has `shop/web-1`: pasted, it must not change the VM of another namespace."""
    code, said = run(command, name, *VALID[command][1:])
    assert (code, "The namespace is the option -n" in said) == (2, True)


@pytest.mark.parametrize("command", VALID)
@pytest.mark.parametrize("choice", [(), ("-A",), ("web-1", "-l", "app=web"), ("web-1", "-A")])
def test_a_command_changes_only_vms_that_are_chosen(command: str, choice: tuple[str, ...]) -> None:
    others = VALID[command][3:] if choice else VALID[command][1:]
    code, said = run(command, *choice, *others)
    assert (code, said.startswith("Usage: ")) == (2, True)


@pytest.mark.parametrize("time", ["22:00", "2026-12-01", "2026-12-01T22:00:00", "tomorrow", ""])
def test_a_time_without_a_utc_offset_is_refused(time: str) -> None:
    code, said = run("restart", *VALID["restart"], "--at", time)
    assert (code, "is not a time with a UTC offset" in said) == (2, True)


def test_a_hold_needs_a_holder_and_a_reason() -> None:
    assert run("hold", "web-1", "-n", "shop", "--as", "ann")[0] == 2
    assert run("hold", "web-1", "-n", "shop", "--because", "backup")[0] == 2
    assert run("hold", "web-1", "-n", "shop", "--as", "a/b", "--because", "backup")[0] == 2
    assert run("hold", "web-1", "-n", "shop", "--as", "ann", "--because", " ")[0] == 2


def test_a_maintenance_needs_a_reason_and_a_known_mode() -> None:
    assert run("maintenance", "start", "node-a")[0] == 2
    assert run("maintenance", "start", "node-a", "--because", "new RAM", "--mode", "Evacuate")[0] == 2

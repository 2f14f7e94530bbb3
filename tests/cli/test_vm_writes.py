"""The commands that change VMs and hosts, without a cluster: what they refuse, and what they say of an answer."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from controller.cli import main
from controller.cli.vm import changing
from controller.kube import client
from tests.kube.server import Request, kubeconfig_of, serving

VALID = {
    "start": ["web-1", "-n", "shop"],
    "stop": ["web-1", "-n", "shop"],
    "pause": ["web-1", "-n", "shop"],
    "restart": ["web-1", "-n", "shop"],
    "hold": ["web-1", "-n", "shop", "--as", "ann", "--because", "backup"],
    "release": ["web-1", "-n", "shop", "--as", "ann"],
}


class Server:
    """An API server with one VM, which runs. `answers` answers each request."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {"name": "web-1", "namespace": "default"}
        self.metadata |= {"generation": 1, "resourceVersion": "7"}
        self.spec: dict[str, Any] = {"nodeName": "node-a", "powerState": "Running"}
        self.status: dict[str, Any] = {"nodeName": "node-a", "powerState": "Running"}
        self.report("InSync")
        self.answers: Callable[[Request], None] = self.reply
        self.asked: list[str] = []

    def report(self, reason: str, message: str = "") -> None:
        """Report as the agent does, about the newest spec."""
        generation = self.metadata["generation"]
        ready = {"type": "Ready", "status": "True", "reason": reason, "message": message}
        ready |= {"observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        self.status |= {"observedGeneration": generation, "conditions": [ready]}

    def reply(self, request: Request) -> None:
        if request.command == "PATCH":
            self.change()
        request.reply(self.vm())

    def change(self) -> None:
        """Stop the VM, as far as the spec goes."""
        self.metadata |= {"generation": 2, "resourceVersion": "8"}
        self.spec["powerState"] = "Stopped"

    def vm(self) -> dict[str, Any]:
        return {
            "apiVersion": "virtsync.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": self.metadata,
            "spec": self.spec,
            "status": self.status,
        }

    def run(self, folder: Path, *words: str) -> tuple[int, str]:
        """Run a command about it. Return the exit code and what was said."""

        def answer(request: Request) -> None:
            self.asked.append(request.command)
            self.answers(request)

        with serving(answer) as url:
            return run(*words, "--kubeconfig", str(kubeconfig_of(url, folder)))


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


@pytest.mark.parametrize("command", VALID)
@pytest.mark.parametrize("choice", [(), ("web-1",), ("-A",)])
@pytest.mark.parametrize("selector", ["", " ", "\t\n"])
def test_a_blank_selector_chooses_no_vm(command: str, choice: tuple[str, ...], selector: str) -> None:
    code, said = run(command, *choice, "-l", selector, *VALID[command][3:])
    assert (code, "it is blank, so it would choose every VM. Nothing was changed." in said) == (2, True)


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


def test_wait_sees_the_end_when_the_api_server_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its circuit has opened by then, and the command alone can find that the API server answers."""
    monkeypatch.setattr(changing, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(client, "HALF_OPEN_EVERY_S", 0.05)
    server, left = Server(), 2 * client.CIRCUIT_OPENS_AFTER

    def answer_again_later(request: Request) -> None:
        nonlocal left
        if "PATCH" not in server.asked or request.command == "PATCH":
            server.reply(request)
        elif left:
            left -= 1
            request.hang_up()
        else:
            server.status["powerState"] = "Stopped"
            server.report("InSync", "The VM is stopped.")
            server.reply(request)

    server.answers = answer_again_later
    code, said = server.run(tmp_path, "stop", "web-1", "--wait", "--timeout", "60s")
    assert (code, left) == (0, 0)
    assert "the API server does not answer" in said
    assert said.endswith("default/web-1: InSync: The VM is stopped.\n")


@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_start_of_a_vm_that_its_restart_policy_leaves_off_is_an_error(wait: tuple[str, ...], tmp_path: Path) -> None:
    server = Server()
    server.spec["restartPolicy"] = "Never"
    server.status |= {"powerState": "Stopped", "completionTime": "2026-01-01T00:00:00Z"}
    server.report("Completed", "The guest powered itself off. spec.restartPolicy Never leaves the VM off.")
    told = "powerState is Running already, and its restartPolicy leaves it off: `restart` starts it."
    assert server.run(tmp_path, "start", "web-1", *wait) == (2, f"default/web-1: {told}\n")
    assert "PATCH" not in server.asked


def hang(_request: Request) -> None:
    time.sleep(0.5)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (hang, "Read timed out"),
        (Request.hang_up, "the API server does not answer"),
        (lambda request: request.reply({}, 500), "the API server answered 500"),
        (lambda request: request.reply({}, 504), "the API server answered 504"),
        (Request.reply_in_prose, "the API server answered something that is not JSON"),
    ],
)
def test_a_change_that_may_have_been_made_is_told(
    answer: Callable[[Request], None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", (3.0, 0.2))
    server = Server()

    def lose_the_answer(request: Request) -> None:
        if request.command == "PATCH":
            server.change()
            answer(request)
        else:
            server.reply(request)

    server.answers = lose_the_answer
    code, said = server.run(tmp_path, "stop", "web-1")
    assert (code, told in said) == (2, True)
    assert "it may have been changed all the same: " in said
    server.answers = server.reply
    assert server.run(tmp_path, "stop", "web-1") == (0, "default/web-1: powerState is Stopped already.\n")


@pytest.mark.parametrize(("refused", "status"), [("GET", 500), ("PATCH", 403), ("PATCH", 422), ("PATCH", 429)])
def test_a_change_that_was_not_made_is_told_as_such(refused: str, status: int, tmp_path: Path) -> None:
    server = Server()
    server.answers = lambda request: request.reply({}, status) if request.command == refused else server.reply(request)
    code, said = server.run(tmp_path, "stop", "web-1")
    assert (code, "may have been changed" in said) == (2, False)

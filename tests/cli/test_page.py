"""`kubectl virtsync page`, as far as it needs no Pod: which manager it chooses, and what it says if there is none."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from controller.cli import main
from controller.cli.options import INSTALLED_IN
from controller.cli.program import Failure
from controller.cli.vm import page
from controller.cli.vm.cluster import Cluster
from controller.cli.vm.forwarding import Forward, Target
from controller.cli.vm.page import PORT_NAME, manager_of
from controller.kube import client
from lab.world import until
from tests.kube.server import Request, kubeconfig_of, serving

VIRTSYNC = "from controller.cli import main; main()"
TARGET = Target("agents", "manager-a", 8081)


def pod(name: str, *, ready: bool = True, port: int | None = 8081, leaving: bool = False) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8080}]
    ports += [{"name": PORT_NAME, "containerPort": port}] if port else []
    return {
        "metadata": {"name": name} | ({"deletionTimestamp": "2026-11-27T12:00:00Z"} if leaving else {}),
        "spec": {"containers": [{"name": "manager", "ports": ports}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def test_the_first_manager_that_is_ready_is_chosen() -> None:
    pods = [pod("d"), pod("c", port=9000), pod("b", leaving=True), pod("a", ready=False)]
    assert manager_of(pods, INSTALLED_IN) == Target(INSTALLED_IN, "c", 9000)


def test_a_manager_that_serves_no_page_is_passed_over() -> None:
    assert manager_of([pod("a", port=None), pod("b")], INSTALLED_IN).pod == "b"


@pytest.mark.parametrize(
    ("pods", "told"),
    [
        ([], "there is no manager in the namespace virtsync-system. With -n, you can name another one."),
        (
            [pod("b", ready=False), pod("a", leaving=True)],
            "no manager in the namespace virtsync-system is ready: a, b.",
        ),
        ([{"metadata": {"name": "a"}}], "no manager in the namespace virtsync-system is ready: a."),
        ([pod("a", port=None)], "a has no port with the name page: it is older than this command."),
    ],
)
def test_without_a_manager_that_serves_the_page_it_says_what_is_missing(pods: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(Failure) as failure:
        manager_of(pods, INSTALLED_IN)
    assert failure.value.message == told


def test_the_choice_of_a_cluster_is_passed_on_to_kubectl() -> None:
    cluster = Cluster(Path("/k"), "prod", "eve", ("a", "b"))
    assert cluster.options == ["--kubeconfig=/k", "--context=prod", "--as=eve", "--as-group=a", "--as-group=b"]
    assert Cluster().options == []


def test_without_kubectl_it_says_what_it_needs_it_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="kubectl was not found"), Forward(Cluster(), TARGET, local_port=0):
        pass


def kubectl(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this shell script as the program kubectl."""
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_page_connects_again_when_the_api_server_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its circuit has opened by then, and the command alone can find that the API server answers."""
    monkeypatch.setattr(page, "AGAIN_S", 0.01)
    monkeypatch.setattr(client, "HALF_OPEN_EVERY_S", 0.05)
    found = {"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [pod("manager-a")]}
    away = [None] * 2 * client.CIRCUIT_OPENS_AFTER

    def answers() -> Iterator[object]:
        yield from [found, *away, found]
        while True:
            yield {"kind": "Status", "message": "enough"}

    coming = answers()

    def answer(request: Request) -> None:
        if request.path == "/":
            request.reply({})  # the page
        elif (body := next(coming)) is None:
            request.hang_up()
        else:
            request.reply(body, 200 if body is found else 400)

    with serving(answer) as url:
        kubectl(tmp_path, f"echo 'Forwarding from {url.removeprefix('http://')} -> 8081'", monkeypatch)
        words = ["vm", "page", "--no-browser", "--kubeconfig", str(kubeconfig_of(url, tmp_path))]
        ended = CliRunner().invoke(main, words)
    assert (ended.exit_code, ended.stdout.count("is the page of manager-a")) == (2, 2)
    assert ended.stderr.endswith("Error: enough.\n")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("forwards", [False, True])
def test_a_signal_ends_kubectl_too(
    ending: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, forwards: bool
) -> None:
    pid = tmp_path / "pid"
    found = {"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [pod("manager-a")]}
    with serving(lambda request: request.reply(found)) as url:
        forwarding = f"echo 'Forwarding from {url.removeprefix('http://')} -> 8081'" if forwards else ":"
        kubectl(tmp_path, f"{forwarding}\necho $$ > {pid}.new && mv {pid}.new {pid}\nexec sleep 60", monkeypatch)
        words = ["vm", "page", "--no-browser", "--kubeconfig", str(kubeconfig_of(url, tmp_path))]
        with subprocess.Popen([sys.executable, "-c", VIRTSYNC, *words], stdout=subprocess.PIPE, text=True) as command:
            until(pid.exists, "kubectl was not started")
            if forwards:
                assert command.stdout
                assert command.stdout.readline().endswith("is the page of manager-a, until Ctrl-C.\n")
            command.send_signal(ending)
            try:
                assert command.wait(timeout=60) == 128 + ending
            finally:
                command.kill()  # else a command that ignores the signal is waited for
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize("words", [("--port", "65536"), ("--port", "x"), ("-n", "Not A Namespace"), ("web-1",)])
def test_wrong_usage_ends_with_2(words: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(main, ["vm", "page", *words])
    assert ended.exit_code == 2
    assert ended.stderr.startswith("Usage: ")

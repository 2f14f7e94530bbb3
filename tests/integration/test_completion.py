"""Completion as people have it: the tab key in real shells, with names from a real API server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from tests.terminal import Terminal

PROGRAMS = Path(sys.executable).parent
NAMESPACE = "completion-shop"
NODE = "completion-node"
PROMPT = "ready> "
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
PREPARED = {
    "bash": f"PS1='{PROMPT}'; . /usr/share/bash-completion/bash_completion",
    "zsh": f"PS1='{PROMPT}'; autoload -U compinit; compinit -D -u",
    "fish": f"function fish_prompt; echo -n '{PROMPT}'; end; set -g fish_greeting",
}
LOADED = {
    "bash": "source <({} completion bash)",
    "zsh": "source <({} completion zsh)",
    "fish": "{} completion fish | source",
}


@pytest.fixture(scope="module")
def server(crd: ControlPlane) -> Iterator[ControlPlane]:
    """An API server with two VMs and a host whose names can be completed."""
    crd.kubectl("create", "namespace", NAMESPACE)
    kinds = {"VirtualMachine": [("completed-web", NAMESPACE), ("other-db", NAMESPACE)], "Hypervisor": [(NODE, "")]}
    objects = [
        {"apiVersion": "virtsync.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
        for kind, those in kinds.items()
        for name, namespace in those
    ]
    for one in objects:
        crd.kubectl("apply", "-f", "-", input=json.dumps(one | {"spec": {}}))
    yield crd
    crd.kubectl("delete", "kvm", "--all", "-n", NAMESPACE)
    crd.kubectl("delete", "kvmhost", NODE)
    crd.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def environment(server: ControlPlane) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    path = f"{server.assets}:{PROGRAMS}:{os.environ['PATH']}"
    return inherited | {"PATH": path, "KUBECONFIG": str(server.kubeconfig)}


LINES = [
    ("stat", "status"),
    (f"status -n {NAMESPACE} comp", f"status -n {NAMESPACE} completed-web"),
    ("status -n completion-s", f"status -n {NAMESPACE}"),
    ("maintenance start completion-n", f"maintenance start {NODE}"),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "whole"), LINES)
@pytest.mark.parametrize(
    ("program", "typed"), [("kubectl-virtsync", "kubectl-virtsync"), ("kubectl", "kubectl virtsync")]
)
def test_the_tab_key_completes_commands_vms_namespaces_and_nodes(
    server: ControlPlane, tmp_path: Path, shell: str, program: str, typed: str, line: str, whole: str
) -> None:
    """`program completion` is the script; kubectl completes the plugin by kubectl_complete-virtsync."""
    env = environment(server) | {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    with Terminal(SHELLS[shell], columns=160, env=env) as terminal:
        terminal.press(f"{PREPARED[shell]}\n")
        terminal.until(lambda screen: any(line.startswith(PROMPT.rstrip()) for line in screen.splitlines()))
        terminal.press(f"{LOADED[shell].format(program)}; clear\n")
        terminal.until(lambda screen: screen.startswith(PROMPT.rstrip()))
        terminal.press(f"{typed} {line}\t")
        terminal.until(lambda screen: f"{PROMPT}{typed} {whole}" in screen)


def test_the_script_for_kubectl_is_all_that_kubectl_needs(server: ControlPlane, tmp_path: Path) -> None:
    """A plugin that Krew has installed comes without the second program."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl-virtsync").symlink_to(PROGRAMS / "kubectl-virtsync")
    words = [str(programs / "kubectl-virtsync"), "completion", "kubectl"]
    script = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    env = environment(server) | {"PATH": f"{programs}:{server.assets}:/usr/bin:/bin"}
    asked = ["kubectl", "__complete", "virtsync", "status", "-n", NAMESPACE]

    def answer(begun: str) -> str:
        return subprocess.run([*asked, begun], capture_output=True, text=True, check=False, env=env).stdout

    assert "--context" not in answer("--conte")
    (programs / "kubectl_complete-virtsync").write_text(script)
    (programs / "kubectl_complete-virtsync").chmod(0o755)
    assert answer("--conte").startswith("--context\t")
    assert answer("oth").splitlines()[0] == "other-db"
    assert "--selector" in answer("--")


def what_follows(server: ControlPlane, *words: str, **environ: str) -> list[str]:
    program = [str(PROGRAMS / "kubectl-virtsync"), "__complete", *words]
    ended = subprocess.run(program, capture_output=True, text=True, check=True, env=environment(server) | environ)
    assert ended.stderr == ""
    *names, directive = ended.stdout.splitlines()
    return names if directive == ":4" else [directive]


def test_a_name_that_the_line_has_already_is_not_completed_again(server: ControlPlane) -> None:
    assert what_follows(server, "stop", "-n", NAMESPACE, "") == ["completed-web", "other-db"]
    assert what_follows(server, "stop", "-n", NAMESPACE, "other-db", "") == ["completed-web"]


def test_contexts_come_from_the_kubeconfig_and_files_from_the_shell(server: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(json.dumps({"contexts": [{"name": "prod", "context": {}}, {"name": "test", "context": {}}]}))
    assert what_follows(server, "status", "--context", "", KUBECONFIG=str(file)) == ["prod", "test"]
    assert what_follows(server, "status", "--kubeconfig", "/e") == [":0"]


def test_a_cluster_that_cannot_be_reached_completes_to_nothing(server: ControlPlane, tmp_path: Path) -> None:
    assert what_follows(server, "status", "", KUBECONFIG=str(tmp_path / "missing")) == []
    assert what_follows(server, "status", "--as", "nobody", "") == []

"""docs/tutorial.md as written: its commands are typed on a real cluster, the last part with the real Flux."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from lab.guest import Guest
from tests.e2e.agents import REPOSITORY, Agents

pytestmark = pytest.mark.e2e

DOCUMENT = (REPOSITORY / "docs" / "tutorial.md").read_text()
GIT = "7. Let Git decide"
NODE = "node-a"
AGE = re.compile(r"(\d+[smhd])+")


def sections() -> dict[str, list[tuple[str, str]]]:
    """What is typed in each section, and what it prints, as far as the page shows it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        texts = [text for block in blocks for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
        found[section.partition("\n")[0]] = [_command(text) for text in texts]
    return found


def _command(text: str) -> tuple[str, str]:
    """A command with its here-document, and what it prints."""
    if "<<END\n" in text:
        body, _, shown = text.partition("\nEND\n")
        return f"{body}\nEND\n", shown
    command, _, shown = text.partition("\n")
    return command, shown


class Terminal:
    """The second terminal of the page, in the checkout."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        people = {
            f"GIT_{who}_{what}": "me@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        self.env = (
            os.environ
            | people
            | {
                "KUBECONFIG": str(cluster.kubeconfig),
                "KUBECACHEDIR": str(folder / "kubectl-cache"),
                "LIBVIRT_DEFAULT_URI": cluster.nodes[NODE].libvirtd.uri,
                "PATH": f"{Path(sys.executable).parent}:{cluster.controlplane.assets}:{os.environ['PATH']}",
            }
        )

    def type(self, command: str) -> str:
        """What a command prints."""
        shell = ["bash", "-ec", command]
        done = subprocess.run(shell, cwd=REPOSITORY, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def follow(self, *titles: str) -> None:
        """Type the commands of these sections, and compare what they print with what the page shows."""
        for title in titles:
            for command, shown in sections()[title]:
                told = self.type(command)
                if shown.strip():
                    assert _without_ages(told) == _without_ages(shown), command


def _without_ages(text: str) -> list[list[str]]:
    return [[word for word in line.split() if not AGE.fullmatch(word)] for line in text.splitlines() if line.strip()]


@pytest.fixture
def terminal(agents: Agents, cluster: Cluster, tmp_path: Path) -> Iterator[Terminal]:
    """The page begins with a VM `demo` on each node; what it leaves behind is removed."""
    guests: list[Guest] = [node.define("demo") for node in cluster.nodes.values()]
    assert agents.nodes == tuple(cluster.nodes)
    yield Terminal(cluster, tmp_path)
    cluster.kubectl("delete", "kvm", "--all", "-n", "shop", "--ignore-not-found")
    cluster.kubectl("delete", "namespace", "shop", "--ignore-not-found")
    for guest in guests:
        guest.remove()


def test_commands_are_found_in_every_section_but_the_last() -> None:
    counts = {title: len(found) for title, found in sections().items()}
    assert [title for title, count in counts.items() if not count] == ["8. The end"]
    assert sum(counts.values()) > 40


def test_the_tutorial_works_as_written_up_to_git(terminal: Terminal) -> None:
    terminal.follow(*(title for title in sections() if title < GIT))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_tutorial_works_as_written_with_git(terminal: Terminal, cluster: Cluster, tmp_path: Path) -> None:
    terminal.follow(*(title for title in sections() if title < GIT))
    words = [sys.executable, "-m", "gitops", "beside", str(cluster.folder), str(tmp_path / "flux")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as flux:
        try:
            assert flux.stdout
            assert flux.stderr
            assert flux.stdout.readline() == "ready\n", flux.stderr.read()
            told = flux.stderr.readline()
            terminal.env |= dict(word.split("=", 1) for word in told.removeprefix("export ").split())
            terminal.follow(GIT)
        finally:
            for kind in ("kustomization", "gitrepository"):
                cluster.kubectl("-n", "flux-system", "delete", kind, "--all", "--wait=false", check=False)
            flux.terminate()

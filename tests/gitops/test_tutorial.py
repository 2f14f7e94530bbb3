"""The parts of docs/tutorial.md that need no kubelet, as written: an agent, a VM, and Flux beside an API server."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitops.beside import flux_beside
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from tests.tutorial import Terminal, sections


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """The page after its second part: an API server with the definitions, and node-a with an agent and a VM."""
    with (
        ControlPlane(tmp_path / "controlplane") as controlplane,
        tempfile.TemporaryDirectory(prefix="virtsync-") as short,
        Libvirtd(Path(short)) as libvirtd,
    ):
        controlplane.install_crds()
        guest = libvirtd.define("demo")
        agent = Agent(controlplane, libvirtd.uri, "node-a", log=tmp_path / "agent.log")
        agent.start()
        try:
            yield Terminal(controlplane.kubeconfig, controlplane.assets, libvirtd.uri, tmp_path)
        finally:
            agent.stop()
            guest.remove()


def test_commands_are_found_in_every_section_but_the_last() -> None:
    counts = {title: len(found) for title, found in sections().items()}
    assert [title for title, count in counts.items() if not count] == ["8. The end"]
    assert sum(counts.values()) > 40


@pytest.mark.timeout(900)
def test_the_tutorial_works_as_written_from_its_third_part_on(terminal: Terminal, tmp_path: Path) -> None:
    *switching, git = [title for title in sections() if title.startswith(("3.", "4.", "5.", "6.", "7."))]
    for title in switching:
        terminal.follow(title)
    with flux_beside(tmp_path, tmp_path / "flux") as line:
        terminal.paste(line)
        terminal.follow(git)

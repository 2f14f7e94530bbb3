"""docs/gitops.md as written: its commands are typed for each engine, with an agent and real VMs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitops.git import GitServer, Repository
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import until
from tests.gitops.fleet.parts import ROOT, Engine, host_of

DOCUMENT = (ROOT / "docs" / "gitops.md").read_text()
VMS = ("legacy-1", "web-1", "web-test")


@pytest.fixture
def host(crd: ControlPlane, tmp_path: Path) -> Iterator[Libvirtd]:
    """The host node-a of the document."""
    with host_of(crd, "node-a", VMS, tmp_path / "agent.log") as libvirtd:
        yield libvirtd


@pytest.mark.timeout(600)
def test_the_document_works_as_written(
    engine: Engine, host: Libvirtd, crd: ControlPlane, git_server: tuple[GitServer, Path], tmp_path: Path
) -> None:
    server, folder = git_server
    repository = Repository(folder / f"fleet-{engine.name}")
    repository.commit({"README.md": "Empty.\n"})
    # The document pushes to the repository, and this server only lets read from it.
    terminal = Terminal(crd, tmp_path, url=server.url_of(repository), push=repository.folder)
    subprocess.run(["git", "config", "receive.denyCurrentBranch", "updateInstead"], cwd=repository.folder, check=True)
    before = {name: host.virsh("domid", name).stdout for name in VMS}
    for command, shown in _typed(engine):
        told = terminal.type(command)
        if shown:
            assert [*map(_without_ages, told.splitlines())] == [*map(_without_ages, shown.splitlines())], command
    after = {name: host.virsh("domid", name).stdout for name in VMS}
    # Only web-test was switched: off for the night, and on again.
    assert [name for name in VMS if before[name] != after[name]] == ["web-test"]
    _remove(engine, crd)
    assert {name: host.virsh("domid", name).stdout for name in VMS} == after


class Terminal:
    """Types commands of the document in the folder in which the one before has left the user."""

    def __init__(self, controlplane: ControlPlane, folder: Path, *, url: str, push: Path) -> None:
        self._folder = folder
        self._url = url
        self._env = os.environ | {
            "KUBECONFIG": str(controlplane.kubeconfig),
            "KUBECACHEDIR": str(folder / "cache"),
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{controlplane.assets}:{os.environ['PATH']}",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{push}.pushInsteadOf",
            "GIT_CONFIG_VALUE_0": url,
            **{f"GIT_{who}_{what}": "me@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        (folder / "virtsync").symlink_to(ROOT)

    def type(self, command: str) -> str:
        """What the command prints; those of virtsync say to people on stderr what they do."""
        typed = command.replace(
            "git clone --quiet https://git.example.com/fleet.git", f"git clone -q {self._url} fleet"
        )
        shell = ["bash", "-ec", typed]
        done = subprocess.run(shell, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "cd fleet" in typed:
            self._folder /= "fleet"
        return done.stderr if command.startswith("virtsync") else done.stdout


def _typed(engine: Engine) -> Iterator[tuple[str, str]]:
    """The commands that a user of this engine types, and what each one prints, if the document shows it.

    After a push, the command of the document lets the engine look at Git at once.
    """
    sections = [it for it in re.split(r"^##+ ", DOCUMENT, flags=re.MULTILINE) if engine.reads(it)]
    blocks = [block for it in sections for block in re.findall(r"```console\n(.*?)```", it, re.DOTALL)]
    texts = [text for block in blocks for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    commands = [text.partition("\n")[::2] for text in texts]
    mine = [(command, shown) for command, shown in commands if engine.types(command)]
    (refresh,) = [
        command for command, _ in mine if "reconcile.fluxcd.io" in command or "argocd.argoproj.io/" in command
    ]
    assert len(mine) > 30
    refreshes = False
    for command, shown in mine:
        yield command, shown
        refreshes |= command == refresh
        if "git push" in command and refreshes:
            yield refresh, ""


def _without_ages(line: str) -> list[str]:
    return [word for word in line.split() if not re.fullmatch(r"(\d+[smhd])+", word)]


def _remove(engine: Engine, controlplane: ControlPlane) -> None:
    """Stop using the engine, as the document says; the objects stay."""
    (command,) = re.findall(rf"`(kubectl -n {engine.namespace} delete [^`]+)`", DOCUMENT)
    controlplane.kubectl(*command.split()[1:])
    until(lambda: not engine.has_objects(controlplane), f"{engine.name} still has some of the fleet.")
    kept = controlplane.kubectl("get", "kvm", "-n", "shop", "-o", "name").stdout.split()
    assert kept == [f"virtualmachine.virtsync.dev/{name}" for name in VMS]
    controlplane.kubectl("delete", "namespace", "shop")

"""The plugin as people get it from Krew: built by make, installed by the real Krew, run by the real kubectl."""

import json
import os
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from krew import tool
from krew.archive import LAUNCHER
from lab.controlplane import ControlPlane
from tests.terminal import Terminal

ROOT = Path(__file__).parents[2]
NAMESPACE = "krew-shop"


@dataclass(frozen=True)
class Installation:
    """A home folder in which Krew has installed the plugin. Only the programs of the machine and Krew's are there."""

    env: dict[str, str]
    home: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *words], capture_output=True, text=True, check=False, timeout=120, env=self.env
        )

    def ok(self, *words: str) -> str:
        ended = self.run(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


def built(folder: Path) -> Path:
    subprocess.run(["make", "-s", "krew", f"FOLDER={folder}"], cwd=ROOT, check=True, capture_output=True, text=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("krew"))


def index_of(archive: Path, folder: Path) -> Path:
    """Make an index of Krew, which is a Git repository of manifests, with this plugin."""
    (folder / "plugins").mkdir()
    manifest = archive.with_name("virtsync.yaml").read_bytes()
    (folder / "plugins" / "virtsync.yaml").write_bytes(manifest)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "plugins: add virtsync")):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


@pytest.fixture(scope="module")
def installed(crd: ControlPlane, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("home")
    assert (tool.MODULE.commands / "kubectl-krew").exists(), "Krew is not built: run `make setup`."
    path = f"{home}/.krew/bin:{tool.MODULE.commands}:{crd.assets}:/usr/bin:/bin"
    env = {"HOME": str(home), "PATH": path, "KUBECONFIG": str(crd.kubeconfig), "KREW_NO_UPGRADE_CHECK": "1"}
    found = Installation(env, home)
    found.ok("krew", "index", "add", "default", f"file://{index_of(archive, tmp_path_factory.mktemp('index'))}")
    found.ok("krew", "install", f"--manifest={archive.with_name('virtsync.yaml')}", f"--archive={archive}")
    crd.kubectl("create", "namespace", NAMESPACE)
    for name in ("web-1", "db-1"):
        vm = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "spec": {"powerState": "Running"}}
        crd.kubectl("apply", "-f", "-", input=json.dumps(vm | {"metadata": {"name": name, "namespace": NAMESPACE}}))
    yield found
    crd.kubectl("delete", "kvm", "--all", "-n", NAMESPACE)
    crd.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_krew_lists_the_plugin_and_kubectl_finds_it(installed: Installation) -> None:
    assert installed.ok("krew", "list").split() == ["detached/virtsync"]
    assert "Starts, stops, restarts and holds VMs" in installed.ok("krew", "info", "virtsync")
    assert f"{installed.home}/.krew/bin/kubectl-virtsync" in installed.ok("plugin", "list")
    assert installed.ok("virtsync", "--version").startswith("kubectl-virtsync, version ")


def test_the_commands_work_as_from_a_checkout(installed: Installation) -> None:
    assert "2 VMs are as wanted" in installed.ok("virtsync", "status", "-n", NAMESPACE)
    assert installed.run("virtsync", "drift", "-n", NAMESPACE).returncode == 1
    installed.ok("virtsync", "hold", "web-1", "-n", NAMESPACE, "--as", "ann", "--because", "backup")
    held = installed.ok("virtsync", "status", "web-1", "-n", NAMESPACE, "-o", "yaml")
    assert "hold.virtsync.dev/ann: backup" in held
    assert "VirtualMachine was created" in installed.ok("virtsync", "history", "web-1", "-n", NAMESPACE)
    assert "not found" in installed.run("virtsync", "maintenance", "start", "nowhere", "--because", "x").stderr
    assert installed.run("virtsync", "status", "-n", NAMESPACE, "--as", "nobody").returncode == 2


def test_top_draws_with_the_packages_of_the_archive(installed: Installation) -> None:
    with Terminal(["kubectl", "virtsync", "top", "-n", NAMESPACE], env=installed.env) as terminal:
        terminal.until(lambda screen: "web-1" in screen and "db-1" in screen)
        installed.ok("delete", "kvm", "db-1", "-n", NAMESPACE)
        terminal.until(lambda screen: "db-1" not in screen)
        terminal.press("q")
        assert terminal.ended() == 0


def test_what_krew_says_after_the_installation_makes_kubectl_complete(installed: Installation, archive: Path) -> None:
    manifest = archive.with_name("virtsync.yaml").read_text()
    said = [line.strip() for line in manifest.splitlines() if "kubectl_complete-virtsync" in line]
    (installed.home / ".local" / "bin").mkdir(parents=True)
    env = installed.env | {"PATH": f"{installed.home}/.local/bin:{installed.env['PATH']}"}
    subprocess.run(["sh", "-ec", "\n".join(said)], env=env, check=True)
    asked = ["kubectl", "__complete", "virtsync", "status", "-n", NAMESPACE, "web"]
    assert subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout.startswith("web-1\n")


def test_two_builds_are_equal(archive: Path, tmp_path: Path) -> None:
    again = built(tmp_path / "again")
    assert again.read_bytes() == archive.read_bytes()
    assert again.with_name("virtsync.yaml").read_bytes() == archive.with_name("virtsync.yaml").read_bytes()


def test_the_archive_has_no_machine_code_and_each_license(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        assert not [name for name in names if name.endswith((".so", ".pyc"))]
        first = {name: tar.extractfile(name) for name in names}
        assert not [name for name, file in first.items() if file and file.read(4) == b"\x7fELF"]
    packages = {name.split("/")[1] for name in names if ".dist-info/" in name}
    licensed = {name.split("/")[1] for name in names if ".dist-info/" in name and "LICEN" in name.upper()}
    assert packages == licensed
    assert "LICENSE" in names


def test_a_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(os.fspath(LAUNCHER), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == ("kubectl virtsync needs Python 3.11 or newer as python3; this is Python 3.9.\n")


def test_nothing_is_left_after_krew_has_uninstalled_it(installed: Installation) -> None:
    installed.ok("krew", "uninstall", "virtsync")
    assert installed.run("virtsync", "status").returncode != 0
    assert not [*(installed.home / ".krew" / "store").glob("virtsync*/**/*.py*")]

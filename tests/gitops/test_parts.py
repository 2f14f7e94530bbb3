"""The parts that the tests of this folder stand on."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gitops.argocd import ArgoCD
from gitops.flux import Flux
from gitops.git import GitServer, Repository
from gitops.ledger import Ledger
from gitops.playground import STARTERS
from lab.controlplane import ControlPlane

TOOLS = Path(__file__).parents[2] / "tools"
ENDS = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 0}
"""How a service manager and Ctrl-C end a program, and its exit code then."""


def test_a_commit_is_served_at_once(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "served" / "team" / "fleet")
    first = repository.commit({"vms/web.yaml": {"kind": "VirtualMachine"}, "README.md": "Ours.\n"})
    with GitServer(tmp_path / "served") as server:
        url = server.url_of(repository)
        assert cloned(url, tmp_path / "a") == first
        assert (tmp_path / "a/vms/web.yaml").read_text() == "kind: VirtualMachine\n"
        second = repository.commit({"README.md": None})
        assert cloned(url, tmp_path / "b") == second
        assert not (tmp_path / "b/README.md").exists()
        assert cloned(url, tmp_path / "c", "--depth=1", "--no-local") == second


def test_a_revert_is_a_commit_with_the_files_of_before(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "fleet")
    first = repository.commit({"web.yaml": "powerState: Running\n"})
    changed = repository.commit({"web.yaml": "powerState: Stopped\n"})
    reverted = repository.revert()
    assert len({first, changed, reverted, repository.head()}) == 3
    assert (repository.folder / "web.yaml").read_text() == "powerState: Running\n"


def test_nobody_can_push(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "fleet")
    first = repository.commit({"web.yaml": "powerState: Running\n"})
    with GitServer(tmp_path) as server:
        cloned(server.url_of(repository), tmp_path / "a")
        done = subprocess.run(["git", "push", "origin", "HEAD:other"], cwd=tmp_path / "a", check=False)
    assert done.returncode
    assert repository.head() == first


def test_the_table_has_a_row_for_each_deed() -> None:
    ledger = Ledger()
    told = ledger.row("argocd", "a commit")
    told.engine_did("healthy")
    told.vm_did("off")
    ledger.row("argocd", "a revert")
    *head, first, second = ledger.table().splitlines()
    assert head == ["| engine | done | the engine | the VM |", "|---|---|---|---|"]
    assert first == "| argocd | a commit | healthy: 0.0 s | off: 0.0 s |"
    assert second == "| argocd | a revert |  |  |"


@pytest.mark.usefixtures("argocd")
def test_a_second_argo_cd_in_the_same_cluster_leaves_nothing_behind(crd: ControlPlane) -> None:
    with tempfile.TemporaryDirectory(prefix="virtsync-argocd-") as folder:
        for _ in range(2):
            with ArgoCD(crd, Path(folder)):
                assert len(naming(folder)) == 4
            assert not naming(folder)


def test_flux_leaves_no_process_behind(crd: ControlPlane, tmp_path: Path) -> None:
    with Flux(crd, tmp_path) as flux:
        flux.shard("other")
        assert len(naming(str(tmp_path))) == 3
    assert not naming(str(tmp_path))


@pytest.mark.parametrize(
    ("engine", "end"), [pytest.param(*one, id=one[0]) for one in zip(sorted(STARTERS), ENDS, strict=True)]
)
def test_the_playground_does_what_it_prints_until_it_is_asked_to_end(
    engine: str, end: signal.Signals, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with told.open("w") as errors:
        running = subprocess.Popen(
            [sys.executable, "-m", "gitops", "run", engine, str(tmp_path / "folder")],
            env=os.environ | {"PYTHONPATH": str(TOOLS)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with running:
        try:
            assert running.stdout
            assert running.stdout.readline() == "ready\n", told.read_text()
            lines = [line for line in told.read_text().splitlines() if re.match("export|cd|sed", line)]
            assert len(lines) == 4
            for power in ("Running", "Stopped"):
                wait = f"kubectl wait kvm/web-1 --for=jsonpath='{{.status.powerState}}'={power} --timeout=60s"
                script = [wait] if power == "Running" else [*lines[2:], wait]
                subprocess.run(["bash", "-ec", "\n".join(lines[:2] + script)], check=True)
        finally:
            running.send_signal(end)
    assert running.returncode == ENDS[end]
    assert not naming(str(tmp_path))


def naming(folder: str) -> list[str]:
    """The command lines of the processes that name a folder there or in the environment, as those of an engine do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, settings = (
                (process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")
            )
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if folder in words or folder in settings:
            found.append(words)
    return found


def cloned(url: str, folder: Path, *options: str) -> str:
    subprocess.run(["git", "clone", "--quiet", *options, url, folder], check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()

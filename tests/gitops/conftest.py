"""The engines, a Git server and a folder of Git for each test."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops.application import Application
from gitops.argocd import ArgoCD
from gitops.collector import Collector
from gitops.engine import Delivery
from gitops.flux import Flux
from gitops.git import GitServer, Repository
from gitops.kustomization import Kustomization
from gitops.ledger import Ledger, Row
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.world import World

Json = dict[str, Any]
LEDGER = pytest.StashKey[Ledger]()
FOLDER = "vms"
TABLE = Path(__file__).parents[2] / "build" / "gitops.md"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, which need engines that not everybody has built."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gitops)


@pytest.fixture(scope="session")
def git_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GitServer, Path]]:
    """A Git server of the whole run, and the folder of its repositories."""
    folder = tmp_path_factory.mktemp("git")
    with GitServer(folder) as running:
        yield running, folder


@pytest.fixture(scope="session")
def collector(crd: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What deletes objects and namespaces in a cluster."""
    with Collector(crd, tmp_path_factory.mktemp("collector")):
        yield


@pytest.fixture(scope="session")
def argocd(crd: ControlPlane, collector: None) -> Iterator[ArgoCD]:  # noqa: ARG001 - it must run
    """Argo CD of the whole run, with deploy/argocd."""
    # The folders of pytest are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="virtsync-argocd-") as folder, ArgoCD(crd, Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def flux(crd: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flux]:
    """Flux of the whole run; its kustomize-controller has the flag that deploy/flux recommends."""
    with Flux(crd, tmp_path_factory.mktemp("flux")) as running:
        yield running


class Git:
    """The repository of a test, with one manifest for each VM in the folder that an engine applies."""

    def __init__(self, world: World, repository: Repository, url: str) -> None:
        self._world = world
        self._repository = repository
        self.url = url
        self.folder = repository.folder

    def commit(self, files: dict[str, Any] | None = None) -> str:
        """Commit these files of the folder, as `Repository.commit` does."""
        return self._repository.commit({f"{FOLDER}/{name}": content for name, content in (files or {}).items()})

    def vm(self, guest: Guest, *, annotations: dict[str, str] | None = None, **spec: Any) -> str:
        """Commit the manifest of a guest with this spec, bound to the node of the test."""
        manifest = self._world.manifest(guest, **spec)
        if annotations:
            manifest["metadata"]["annotations"] = annotations
        return self.commit({f"{guest.name}.yaml": manifest})

    def remove(self, guest: Guest) -> str:
        """Remove the manifest of a guest, and commit that."""
        return self.commit({f"{guest.name}.yaml": None})

    def revert(self) -> str:
        """Revert the last commit."""
        return self._repository.revert()


@pytest.fixture
def git(world: World, git_server: tuple[GitServer, Path]) -> Git:
    """A repository of the test's own."""
    server, folder = git_server
    # Two tests in different files can have the same name.
    repository = Repository(Path(tempfile.mkdtemp(prefix=f"{world.name}-", dir=folder)) / FOLDER)
    return Git(world, repository, server.url_of(repository))


@pytest.fixture
def app(argocd: ArgoCD, world: World, git: Git) -> Iterator[Application]:
    """An Application that is not created yet, of the test's repository."""
    with Application(argocd, world.name, url=git.url, folder=FOLDER, namespace=world.name) as made:
        yield made


@pytest.fixture
def ks(flux: Flux, world: World, git: Git) -> Iterator[Kustomization]:
    """A Kustomization as deploy/flux has it that is not created yet, of the test's repository."""
    with Kustomization(flux, world.name, url=git.url, folder=FOLDER, namespace=world.name) as made:
        yield made


@pytest.fixture(params=["argocd", "flux"])
def delivery(request: pytest.FixtureRequest) -> Delivery:
    """What applies the test's repository, once for each engine; not created yet."""
    fixture: Delivery = request.getfixturevalue({"argocd": "app", "flux": "ks"}[request.param])
    return fixture


@pytest.fixture
def row(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Callable[[str], Row]:
    """Begins a row of the table that the run prints at its end."""
    ledger = pytestconfig.stash.setdefault(LEDGER, Ledger())
    callspec = getattr(request.node, "callspec", None)
    own = "flux" if "flux" in request.fixturenames else "argocd"
    engine = callspec.params.get("delivery", own) if callspec else own
    return lambda done: ledger.row(engine, done)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it to a file."""
    if ledger := config.stash.get(LEDGER, None):
        terminalreporter.write_line(ledger.table())
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(ledger.table() + "\n")

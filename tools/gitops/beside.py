"""Flux and an empty Git repository beside a cluster that runs, to play with."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gitops.flux import Flux
from gitops.git import GitServer, Repository
from lab.controlplane import ControlPlane
from lab.processes import sole_owner


@contextmanager
def flux_beside(cluster: Path, folder: Path) -> Iterator[str]:
    """Run Flux on the cluster in the folder `cluster`; what to paste into a shell to use its repository.

    The repository is in `folder`, which nobody else uses, and is new each time. Flux's objects stay in the cluster.
    """
    controlplane = ControlPlane(cluster / "controlplane")
    with sole_owner(folder), tempfile.TemporaryDirectory(prefix="virtsync-flux-") as short:
        git = folder / "git"
        shutil.rmtree(git, ignore_errors=True)
        repository = Repository(git / "fleet")
        repository.commit({"README.md": "The VMs of this fleet.\n"}, message="Begin")
        with GitServer(git) as server, Flux(controlplane, Path(short)):
            yield f"export FLEET={repository.folder} URL={server.url_of(repository)}"

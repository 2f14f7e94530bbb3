"""Everything that GitOps needs, to play with: an API server, three VMs and their agent, Git, and one engine."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitops.application import Application
from gitops.argocd import ArgoCD
from gitops.collector import Collector
from gitops.flux import Flux
from gitops.git import GitServer, Repository
from gitops.kustomization import Kustomization
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.processes import sole_owner

EXAMPLE = Path(__file__).parents[2] / "examples" / "git"
NODE = "node-a"
NAMESPACE = "default"
RUNNING = ("db-1", "legacy-1")
"""The VMs that run before the engine starts; web-1 is off, and Git wants it on."""


@dataclass(frozen=True)
class Playground:
    """The parts that run."""

    controlplane: ControlPlane
    libvirtd: Libvirtd
    repository: Repository
    url: str
    engine_url: str

    def what_to_try(self) -> str:
        """How to use it, as lines for a shell."""
        return f"""\
export KUBECONFIG={self.controlplane.kubeconfig} PATH={self.controlplane.assets}:$PATH
export LIBVIRT_DEFAULT_URI='{self.libvirtd.uri}'
kubectl get kvm --watch
virsh list --all

# Git; a commit is enough, there is nothing to push:
cd {self.repository.folder}
sed -i 's/powerState: Running/powerState: Stopped/' vms/web-1.yaml && git commit -am 'web-1 off'
git revert --no-edit HEAD
{self.engine_url}
# Ctrl-C ends everything, also the VMs.
"""


Starter = Callable[[ExitStack, ControlPlane, Path, str], str]


def start_argo(ends: ExitStack, controlplane: ControlPlane, folder: Path, url: str) -> str:
    """Start Argo CD with one Application; what to try with it."""
    ends.enter_context(Collector(controlplane, folder))
    argocd = ends.enter_context(ArgoCD(controlplane, folder / "argocd"))
    app = ends.enter_context(Application(argocd, "vms", url=url, folder="vms", namespace=NAMESPACE))
    app.create()
    app.until_health("Healthy")
    return f"""
# Argo CD; its API server, which has no pages here, is {argocd.url}
kubectl -n argocd get application vms --watch
kubectl -n argocd get application vms -o jsonpath='{{.status.resources}}'
"""


def start_flux(ends: ExitStack, controlplane: ControlPlane, folder: Path, url: str) -> str:
    """Start Flux with one Kustomization; what to try with it."""
    flux = ends.enter_context(Flux(controlplane, folder / "flux"))
    ks = ends.enter_context(Kustomization(flux, "vms", url=url, folder="vms", namespace=NAMESPACE))
    ks.create()
    ks.until_ready()
    return """
# Flux; it fetches Git every 2 s:
kubectl -n flux-system get gitrepository,kustomization
kubectl -n flux-system get kustomization vms --watch
# as `flux reconcile`, `flux suspend` and `flux resume` do:
kubectl -n flux-system annotate --overwrite kustomization vms reconcile.fluxcd.io/requestedAt="$(date +%s)"
kubectl -n flux-system patch kustomization vms --type merge -p '{"spec":{"suspend":true}}'
kubectl -n flux-system patch kustomization vms --type merge -p '{"spec":{"suspend":false}}'
"""


STARTERS: dict[str, Starter] = {"argo": start_argo, "flux": start_flux}


@contextmanager
def playground(engine: str, folder: Path) -> Iterator[Playground]:
    """Start everything in a folder, which nobody else uses; it ends with the block, and the folder stays."""
    with sole_owner(folder), tempfile.TemporaryDirectory(prefix="virtsync-gitops-") as short, ExitStack() as ends:
        controlplane = ends.enter_context(ControlPlane(folder / "controlplane"))
        controlplane.install_crds()
        # The sockets of libvirtd and Redis need a short path.
        libvirtd = ends.enter_context(Libvirtd(Path(short) / "kvm"))
        for file in sorted(EXAMPLE.glob("*.yaml")):
            guest = libvirtd.define(file.stem)
            if file.stem in RUNNING:
                guest.start()
        agent = Agent(controlplane, libvirtd.uri, NODE, log=folder / "agent.log", settings={"settle-power": "5s"})
        ends.callback(agent.stop)
        agent.start()
        shutil.rmtree(folder / "git", ignore_errors=True)
        repository = Repository(folder / "git" / "fleet")
        repository.commit(
            {f"vms/{file.name}": file.read_text() for file in EXAMPLE.glob("*.yaml")}, message="Three VMs"
        )
        url = ends.enter_context(GitServer(folder / "git")).url_of(repository)
        told = STARTERS[engine](ends, controlplane, Path(short), url)
        yield Playground(controlplane, libvirtd, repository, url, told)

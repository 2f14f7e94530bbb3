"""Argo CD as processes on a control plane of the lab.

These are the parts of its own manifests, without those that nobody needs here: dex, ApplicationSets, notifications.
Its API server has no pages, because the Go module lacks them.
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from gitops.parts import built, free_ports, listens, run, until_served
from gitops.redis import Redis
from lab.controlplane import ControlPlane
from lab.gomodule import GoModule
from lab.processes import Process

Json = dict[str, Any]

NAMESPACE = "argocd"
CUSTOMIZATIONS = Path(__file__).parents[2] / "deploy" / "argocd" / "argocd-cm.yaml"
"""The file that users copy."""
API = "argoproj.io/v1alpha1"
KINDS = ("applications", "applicationsets", "appprojects")
RESYNC_S = 3
"""How often Argo CD looks at Git. Its default is 120 s and up to 60 s more."""
UPSTREAM = "github.com/argoproj/argo-cd/v3"
MODULE = GoModule(
    Path(__file__).parent / "engines" / "argocd",
    "Argo CD",
    UPSTREAM,
    name="argocd",
    copied={"crds": (UPSTREAM, "manifests/crds")},
)


class ArgoCD:
    """Redis, repo-server, application-controller and API server in a folder; use it as a context manager.

    Its binaries must be built. The health checks and actions are those of deploy/argocd. `url` is the API server's,
    known after the start; it asks for no password. Without a garbage collector (`Collector`), what it prunes stays.
    """

    def __init__(self, controlplane: ControlPlane, folder: Path) -> None:
        self.controlplane = controlplane
        self.folder = folder.resolve()
        self.url = ""
        self._binaries = built(MODULE)
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._install()
        with ExitStack() as ends:
            self._start(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def log(self, name: str) -> Path:
        """The log of one of its processes."""
        return self.folder / f"{name}.log"

    def _install(self) -> None:
        """Create what its processes read, and wait until it is served."""
        kubectl = self.controlplane.kubectl
        # The definition of Applications does not fit into the annotation of a client-side apply.
        kubectl("apply", "--server-side", "-k", str(self._binaries / "crds"))
        until_served(self.controlplane, *(f"{API}/{kind}" for kind in KINDS))
        kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": _objects()}))
        # The command of deploy/argocd/README.md.
        kubectl("patch", "configmap", "argocd-cm", "-n", NAMESPACE, "--patch-file", str(CUSTOMIZATIONS))

    def _start(self, ends: ExitStack) -> None:
        for name in ("tls", "ssh", "plugins", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "ssh" / "ssh_known_hosts").touch()
        redis = Redis(self.folder)
        run(ends, redis, redis.ready)
        repo_port, metrics_port, port = free_ports(3)
        cache = f"--redis={redis.socket}"
        repo_server = [f"--repo-server=127.0.0.1:{repo_port}", "--repo-server-plaintext", f"--namespace={NAMESPACE}"]
        self._part(
            ends,
            "argocd-repo-server",
            [cache, *_addresses(repo_port), "--disable-tls", f"--revision-cache-expiration={RESYNC_S}s"],
            listens_on=repo_port,
        )
        self._part(
            ends,
            "argocd-application-controller",
            [
                cache,
                *repo_server,
                # It serves its metrics once it has listed the Applications.
                f"--metrics-port={metrics_port}",
                f"--app-resync={RESYNC_S}",
                "--app-resync-jitter=0",
                # Then the status of an Application has the health of each object.
                "--persist-resource-health",
            ],
            listens_on=metrics_port,
        )
        server = [cache, *repo_server, *_addresses(port), "--insecure", "--disable-auth"]
        self._part(ends, "argocd-server", server, listens_on=port)
        self.url = f"http://127.0.0.1:{port}"

    def _part(self, ends: ExitStack, name: str, words: list[str], *, listens_on: int) -> None:
        settings = os.environ | self._environment()
        process = Process(name, [self._binaries / name, *words], log=self.log(name), env=settings)
        run(ends, process, lambda: listens(listens_on))

    def _environment(self) -> dict[str, str]:
        return {
            "KUBECONFIG": str(self.controlplane.kubeconfig),
            # The cluster of this kubeconfig is https://kubernetes.default.svc, as if Argo CD ran in it.
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            # Otherwise it makes a keyring in /app.
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_TLS_DATA_PATH": str(self.folder / "tls"),
            "ARGOCD_SSH_DATA_PATH": str(self.folder / "ssh"),
            "ARGOCD_PLUGINSOCKFILEPATH": str(self.folder / "plugins"),
            "ARGOCD_ASK_PASS_SOCK": str(self.folder / "ask-pass.sock"),
            # It calls git and kustomize.
            "PATH": f"{self._binaries}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            # The clones of the repo-server.
            "TMPDIR": str(self.folder / "tmp"),
        }


def _addresses(port: int) -> list[str]:
    return ["--address=127.0.0.1", f"--port={port}", "--metrics-address=127.0.0.1", "--metrics-port=0"]


def _objects() -> list[Json]:
    """The objects of Argo CD's own manifests that its processes read."""
    meta = {"namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "argocd"}}
    names = ("cm", "cmd-params-cm", "gpg-keys-cm", "rbac-cm", "ssh-known-hosts-cm", "tls-certs-cm")
    anywhere = {
        "sourceRepos": ["*"],
        "destinations": [{"namespace": "*", "server": "*"}],
        "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta | {"name": f"argocd-{name}"}} for name in names),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": meta | {"name": "argocd-secret"},
            "stringData": {"server.secretkey": "lab"},
        },
        {
            "apiVersion": API,
            "kind": "AppProject",
            "metadata": meta | {"name": "default"},
            "spec": anywhere,
        },
    ]

"""A Kubernetes control plane on this machine: etcd and kube-apiserver as processes, kubectl beside them.

These are the real programs, without nodes and controllers: virtsync needs an API server that validates, authorizes,
stores and serves watches. All state is in one folder.
"""

import base64
import http.client
import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lab import LabError
from lab.binaries import find_assets
from lab.processes import Process, reserve_port, sole_owner

DEPLOY = Path(__file__).parents[2] / "deploy"
CRDS, MANIFESTS = DEPLOY / "crds", DEPLOY / "install.yaml"
READY_TIMEOUT_S = 120
POLL_INTERVAL_S = 0.05
COMPONENTS = ("etcd", "kube-apiserver")
AUDITED_VERBS = ["create", "delete", "get", "patch", "update"]


class ControlPlane:
    """etcd and kube-apiserver in one folder, on free ports of 127.0.0.1; use it as a context manager.

    The folder's kubeconfig has the rights of an administrator (group system:masters). `stop` ends the processes and
    keeps the folder. A component can be killed and started again alone; ports and data stay the same. With `audited`,
    `audit_log` has one line of JSON for every read and write of a single VirtualMachine or Hypervisor and for every
    write of a Lease, with the object in the answer.
    A client certificate of the authority `client_ca` authenticates the user and the group that it names.
    """

    def __init__(self, folder: Path, *, audited: bool = False, client_ca: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.audited = audited
        self.client_ca = client_ca
        self.audit_log = self.folder / "audit.log"
        self.assets = find_assets()
        self.kubeconfig = self.folder / "kubeconfig"
        self.ca = self.folder / "certs" / "apiserver.crt"
        self.token = secrets.token_urlsafe()
        self._etcd_data = self.folder / "etcd"
        self._holds = ExitStack()
        self._enter: list[str] = []
        self._components: dict[str, Process] = {}
        self._ports: dict[str, int] = {}
        self._readiness: dict[str, Callable[[], bool]] = {
            "etcd": self._etcd_ready,
            "kube-apiserver": self._apiserver_ready,
        }

    @property
    def url(self) -> str:
        """The URL of kube-apiserver; known after the start."""
        return f"https://127.0.0.1:{self._ports['kube-apiserver']}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *names: str) -> None:
        """Start the components (all unless named) and return when each is ready; running components are not touched.

        LabError with the end of the component's log if it does not become ready.
        """
        try:
            if not self._components:
                self._prepare()
            for name in names or self._components:
                self._components[name].start()
                self._components[name].wait_until(self._readiness[name], timeout_s=READY_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        # The first start of kube-apiserver makes the certificate that the kubeconfig trusts.
        self._write_kubeconfig(self.kubeconfig, self.token)

    def stop(self) -> None:
        """End all processes, the API server first; the folder and its data remain."""
        for component in reversed(self._components.values()):
            component.stop()
        self._components.clear()
        self._holds.close()

    def kill(self, name: str) -> None:
        """Kill one component with SIGKILL, like a crash; `start(name)` starts it again."""
        self._components[name].kill()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop both components, and start them again at the end, on the same ports."""
        for component in reversed(self._components.values()):
            component.stop()
        yield
        self.start()

    def back_up(self, folder: Path) -> None:
        """Copy etcd's data to a folder that does not exist yet; only while it is down."""
        shutil.copytree(self._etcd_data, folder)

    def restore(self, folder: Path) -> None:
        """Restore the copy of `back_up`, only while etcd is down: etcd then issues the same resource versions again."""
        shutil.rmtree(self._etcd_data)
        shutil.copytree(folder, self._etcd_data)

    def pid(self, name: str) -> int:
        """The process id of a component."""
        return self._components[name].pid

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002 - as subprocess.run has it
        """Run kubectl as the administrator; CalledProcessError with its output if it fails and `check` is set."""
        # kubectl caches discovery by host and port, and another control plane might have had this port before.
        env = os.environ | {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.folder / "kubectl-cache")}
        done = subprocess.run(
            [self.assets / "kubectl", *args], input=input, env=env, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done

    def install_crds(self) -> None:
        """Install the CRDs, and return when VirtualMachines and Hypervisors are served and explained."""
        self.kubectl("apply", "-f", str(CRDS))
        self.until_crds_served()

    def until_crds_served(self) -> None:
        """Return when VirtualMachines and Hypervisors are served and explained; somebody has installed the CRDs."""
        names = ("crd/virtualmachines.virtsync.dev", "crd/hypervisors.virtsync.dev")
        self.kubectl("wait", *names, "--for=condition=Established", "--timeout=60s")
        # Serving and explaining begin a moment after Established, and no condition reports when.
        deadline = time.monotonic() + READY_TIMEOUT_S
        for command in (("get", "kvm"), ("explain", "kvm"), ("get", "kvmhost"), ("explain", "kvmhost")):
            while self.kubectl(*command, check=False).returncode:
                if time.monotonic() > deadline:
                    raise LabError(f"kubectl {' '.join(command)} still fails.")
                time.sleep(POLL_INTERVAL_S)

    def install(self) -> None:
        """Install virtsync as the README says, in one go; nothing of it runs, because there is no node.

        Its policies then hold for everybody.
        """
        self.kubectl("apply", "-f", str(CRDS), "-f", str(MANIFESTS))
        self.install_crds()

    def service_account(self, namespace: str, name: str, *, cluster_role: str | None = None) -> Path:
        """A kubeconfig of a ServiceAccount, as a pod would use it; creates the account, and binds it to `cluster_role`.

        The role must exist. The built-in roles `view`, `edit` and `admin` are empty, because the controller that fills
        them does not run here.
        """
        objects: list[dict[str, object]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
        ]
        if cluster_role:
            objects.append(_binding(namespace, name, cluster_role))
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").stdout.strip()
        kubeconfig = self.folder / f"kubeconfig-{namespace}-{name}"
        self._write_kubeconfig(kubeconfig, token)
        return kubeconfig

    def _prepare(self) -> None:
        """Lock the folder, reserve the ports, write the files that the components read, and make their commands."""
        self._holds.enter_context(sole_owner(self.folder))
        self.kubeconfig.unlink(missing_ok=True)
        for name in ("etcd", "etcd-peer", "kube-apiserver"):
            self._ports[name] = self._holds.enter_context(reserve_port()).getsockname()[1]
        _write_secret(self.folder / "tokens.csv", self._tokens())
        key = self.folder / "service-accounts.key"
        if not key.exists():
            _write_secret(key, _new_private_key())
        for name, arguments in (("etcd", self._etcd_arguments()), ("kube-apiserver", self._apiserver_arguments(key))):
            self._add(name, arguments)

    def _add(self, name: str, arguments: list[str]) -> None:
        command: list[str | Path] = [*self._enter, self.assets / name, *arguments]
        self._components[name] = Process(name, command, log=self.folder / f"{name}.log")

    def _tokens(self) -> str:
        """The users and their bearer tokens: one line `token,user,uid,"groups"` each."""
        return f'{self.token},admin,admin,"system:masters"\n'

    def _etcd_arguments(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "etcd-peer"))
        return [
            f"--data-dir={self._etcd_data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--socket-reuse-port",
            # The lab's data need not survive a power failure.
            "--unsafe-no-fsync",
        ]

    def _apiserver_arguments(self, key: Path) -> list[str]:
        return [
            *(self._audit_arguments() if self.audited else ()),
            *((f"--client-ca-file={self.client_ca}",) if self.client_ca else ()),
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['kube-apiserver']}",
            "--permit-port-sharing",
            f"--cert-dir={self.ca.parent}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--allow-privileged=true",
            # No pod needs the API server's endpoint, and an endpoint must not be on the loopback interface.
            "--endpoint-reconciler-type=none",
        ]

    def _audit_arguments(self) -> list[str]:
        kinds = ("virtualmachines", "hypervisors")
        ours = {"group": "virtsync.dev", "resources": [*kinds, *(f"{kind}/status" for kind in kinds)]}
        leases = {"group": "coordination.k8s.io", "resources": ["leases"]}
        rules = [
            {"level": "RequestResponse", "resources": [ours], "verbs": AUDITED_VERBS},
            {"level": "RequestResponse", "resources": [leases], "verbs": ["create", "patch", "update"]},
        ]
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "omitManagedFields": True,
            "rules": [*rules, {"level": "None"}],
        }
        file = self.folder / "audit-policy.json"
        file.write_text(json.dumps(policy))
        # Blocking: a request is in the log a moment after its answer, also if kube-apiserver is killed then.
        return [
            f"--audit-policy-file={file}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking",
            "--audit-log-maxsize=100000",
        ]

    def _etcd_ready(self) -> bool:
        return _answers_ok(http.client.HTTPConnection("127.0.0.1", self._ports["etcd"], timeout=5))

    def _apiserver_ready(self) -> bool:
        if not self.ca.exists():
            return False
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:  # half written
            return False
        port = self._ports["kube-apiserver"]
        return _answers_ok(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=5), self.token)

    def _write_kubeconfig(self, path: Path, token: str, *, server: str = "") -> None:
        """Write a self-contained kubeconfig (JSON is YAML) that trusts this API server's certificate."""
        ca = base64.b64encode(self.ca.read_bytes()).decode()
        name = "virtsync-lab"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server or self.url, "certificate-authority-data": ca}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
        _write_secret(path, json.dumps(config, indent=2))


def _answers_ok(connection: http.client.HTTPConnection, token: str | None = None) -> bool:
    try:
        connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _binding(namespace: str, name: str, cluster_role: str) -> dict[str, object]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{namespace}-{name}-{cluster_role.replace(':', '-')}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": cluster_role},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
    }


def _new_private_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def _write_secret(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner can read it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)

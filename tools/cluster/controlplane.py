"""The control plane of a cluster: the lab's, with the controllers, in the network of the nodes."""

import secrets
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import lab.controlplane
from cluster.certificates import Authority
from cluster.namespaces import Network
from lab.binaries import find_assets
from lab.processes import Process

ADDRESS = "10.77.0.1"
SERVICE_ADDRESS = "10.96.0.1"
"""The IP address of the Service `kubernetes`: the first of the Service range in lab.controlplane."""
RELAY = Path(__file__).with_name("relay.py")
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
COMMANDS = (*lab.controlplane.COMPONENTS, *CONTROLLERS, "kubelet", "kube-proxy", "kubectl")
NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
USERS = {"kube-controller-manager": "system:kube-controller-manager", "kube-scheduler": "system:kube-scheduler"}


class ControlPlane(lab.controlplane.ControlPlane):
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler in their own network namespace.

    The API server has the same port there and on 127.0.0.1 of this machine, from which a relay leads to it.
    """

    def __init__(self, folder: Path, network: Network, authority: Authority, nodes: Iterable[str]) -> None:
        find_assets(COMMANDS)
        super().__init__(folder)
        self.ca = authority.certificate
        self._network = network
        self._authority = authority
        self._users = USERS | {"kube-proxy": "system:kube-proxy"} | {name: f"system:node:{name}" for name in nodes}
        self._user_tokens = {name: secrets.token_urlsafe() for name in self._users}
        # The controllers have no readiness check; tests notice by their effects whether they work.
        self._readiness |= dict.fromkeys(("etcd", "relay", *CONTROLLERS), lambda: True)

    def kubeconfig_of(self, user: str, folder: Path) -> Path:
        """A kubeconfig for use in the network, of a node (by its name) or of `kube-proxy`."""
        path = folder / f"{user}.kubeconfig"
        self._write_kubeconfig(path, self._user_tokens[user], server=f"https://{ADDRESS}:{self.port}")
        return path

    @property
    def port(self) -> int:
        """The port of kube-apiserver, in the network and on 127.0.0.1 of this machine."""
        return self._ports["kube-apiserver"]

    def stop(self) -> None:
        """Kill all processes: they have no state that must be saved."""
        for component in self._components.values():
            component.kill()
        super().stop()

    def _prepare(self) -> None:
        self._enter = self._network.enter
        super()._prepare()
        listener = self._holds.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(100)
        relay: list[str | Path] = [*self._enter, sys.executable, "-I", "-S", RELAY, ADDRESS, str(self.port)]
        log = self.folder / "relay.log"
        # The relay starts before kube-apiserver, whose readiness is checked through it.
        self._components = {"relay": Process("relay", relay, log=log, stdin=listener.fileno())} | self._components
        for name, arguments in self._controller_arguments().items():
            self._add(name, arguments)

    def _tokens(self) -> str:
        lines = [
            f'{self._user_tokens[name]},{user},{name},"{"system:nodes" if user.startswith("system:node:") else ""}"\n'
            for name, user in self._users.items()
        ]
        return super()._tokens() + "".join(lines)

    def _apiserver_arguments(self, key: Path) -> list[str]:
        hosts = (*NAMES, "localhost", ADDRESS, SERVICE_ADDRESS, "127.0.0.1")
        certificate, secret = self._authority.issue("apiserver", *hosts, common_name="kube-apiserver")
        client, client_secret = self._authority.issue(
            "apiserver-kubelet-client", common_name="kube-apiserver-kubelet-client", group="system:masters"
        )
        return [
            *super()._apiserver_arguments(key),
            # If an option is given twice, the last one counts.
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS}",
            "--endpoint-reconciler-type=lease",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={secret}",
            f"--kubelet-certificate-authority={self._authority.certificate}",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client_secret}",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-admission-plugins=NodeRestriction",
        ]

    def _controller_arguments(self) -> dict[str, list[str]]:
        arguments: dict[str, list[str]] = {}
        for name in CONTROLLERS:
            kubeconfig = self.kubeconfig_of(name, self.folder)
            arguments[name] = [
                *(f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-")),
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--cert-dir={self.folder / 'certs'}",
            ]
        arguments["kube-controller-manager"] += [
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self._authority.certificate}",
            "--use-service-account-credentials",
        ]
        return arguments

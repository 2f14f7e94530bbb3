"""What a kubeconfig and the environment say of the way to the API server holds for requests and for the watch alike.

Each case is tried with both on a real API server. What one of them does not do is refused: see
tests/kube/test_kubeconfig.py.
"""

import base64
import json
import queue
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cluster.certificates import Authority
from controller.kube import kubeconfig
from controller.kube.access import SOCKET_OPTIONS
from controller.kube.client import Api
from controller.kube.credentials import Credentials
from controller.kube.kubeconfig import Kubeconfig, of_pod
from controller.kube.paths import VIRTUAL_MACHINES
from controller.kube.watch import Watch
from controller.kube.watch_health import WatchHealth
from controller.kube.watched import virtual_machines
from controller.runtime.errors import Transient
from lab.connect import ConnectProxy
from lab.controlplane import ControlPlane
from lab.world import HANG_LIMIT_S, until
from tests.chaos.relay import Relay
from tests.integration.watching import running

Json = dict[str, Any]

NAMESPACE = "access"
NODE = "node-of-access"
NAME = "kubernetes.default.svc"
"""In the certificate of the API server; nothing on this machine resolves it."""


class Trusting(ControlPlane):
    """An API server that takes client certificates of an authority of ours."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self.authority = authority

    @property
    def port(self) -> int:
        """Where kube-apiserver listens on 127.0.0.1."""
        return self._ports["kube-apiserver"]

    def _apiserver_arguments(self, key: Path) -> list[str]:
        return [*super()._apiserver_arguments(key), f"--client-ca-file={self.authority.certificate}"]


class Hearing(Relay):
    """Keeps the headers of what it passes on, by whether that was the watch."""

    def __init__(self, controlplane: ControlPlane) -> None:
        super().__init__(controlplane)
        self.heard: dict[bool, dict[str, str]] = {}

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        self.heard["watch=true" in request.path] = {name.lower(): value for name, value in request.headers.items()}
        super()._handle(request)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    authority = Authority(tmp_path_factory.mktemp("authority") / "authority")
    authority.found()
    with Trusting(tmp_path_factory.mktemp("trusting"), authority) as running:
        running.install_crds()
        running.kubectl("create", "namespace", NAMESPACE)
        yield running


@pytest.fixture
def proxy(server: Trusting) -> Iterator[ConnectProxy]:
    with ConnectProxy(server.port) as running:
        yield running


class Case:
    """A kubeconfig in the making."""

    def __init__(self, server: Trusting, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.file = folder / "kubeconfig"
        self.environ: dict[str, str] = {}
        self.where: Json = {"server": server.url, "certificate-authority": str(server.ca)}
        self.who: Json = {"token": server.token}

    def write(self) -> Path:
        config = {
            "current-context": "any",
            "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
            "clusters": [{"name": "any", "cluster": self.where}],
            "users": [{"name": "any", "user": self.who}],
        }
        partial = self.file.with_name("partial")
        partial.write_text(json.dumps(config))
        partial.replace(self.file)
        return self.file

    def certificate(self, *, not_after: datetime | None = None) -> tuple[Path, Path]:
        """Of an administrator."""
        return self.server.authority.issue(
            f"admin-{secrets.token_hex(4)}", common_name="admin", group="system:masters", not_after=not_after
        )

    def plugin(self, **status: str) -> Json:
        """An exec plugin that gives this."""
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        (self.folder / "answer").write_text(json.dumps(answer))
        program = self.folder / "plugin"
        program.write_text('#!/bin/sh\ncat "$1/$ANSWER"\n')
        program.chmod(0o755)
        return {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "args": [str(self.folder)],
            "env": [{"name": "ANSWER", "value": "answer"}],
        }

    def api(self) -> Api:
        return Api(Credentials(Kubeconfig(self.write(), self.environ).read))


@pytest.fixture
def case(server: Trusting, tmp_path: Path) -> Case:
    return Case(server, tmp_path)


@contextmanager
def watching(api: Api) -> Iterator[tuple[Watch, WatchHealth, "queue.Queue[Json]"]]:
    """A watch that runs, its health, and what it tells."""
    seen: queue.Queue[Json] = queue.Queue()
    vms = virtual_machines(NODE, on_object=seen.put, on_gone=lambda _: None)
    watch = Watch(api, NODE, [vms])
    with running(watch):
        yield watch, vms.health, seen


def make(server: ControlPlane) -> str:
    """A new VirtualMachine of the node; its name."""
    name = f"vm-{secrets.token_hex(4)}"
    vm = {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"nodeName": NODE},
    }
    server.kubectl("apply", "-f", "-", input=json.dumps(vm))
    return name


def until_seen(seen: "queue.Queue[Json]", name: str) -> None:
    while seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] != name:
        pass


def reaches(case: Case) -> None:
    """Requests are answered, and the watch tells what is new."""
    api = case.api()
    api.request("GET", VIRTUAL_MACHINES)
    with watching(api) as (_, health, seen):
        until(lambda: health.open, "the watch does not begin")
        until_seen(seen, make(case.server))


def leads_nowhere(case: Case) -> None:
    """Neither has a good answer."""
    api = case.api()
    with pytest.raises(Transient):
        api.request("GET", VIRTUAL_MACHINES)
    with watching(api) as (_, health, seen):
        until(lambda: "no watch has been opened yet" not in str(health.unready()), "the watch has tried nothing")
        assert not health.open
        assert not health.listings
        assert seen.empty()


# --- the cluster


def ca_by_file(case: Case) -> None:
    shutil.copy(case.server.ca, case.folder / "ca.crt")
    case.where["certificate-authority"] = "ca.crt"


def ca_by_data(case: Case) -> None:
    case.where |= {"certificate-authority": "/nonexistent", "certificate-authority-data": encoded(case.server.ca)}


def insecure(case: Case) -> None:
    case.where = {"server": case.server.url, "insecure-skip-tls-verify": True}


def server_with_a_slash(case: Case) -> None:
    case.where["server"] += "/"


def tls_server_name(case: Case) -> None:
    case.where |= {"tls-server-name": NAME}


def uncompressed(case: Case) -> None:
    case.where |= {"disable-compression": True, "extensions": [{"name": "x", "extension": {}}]}


# --- the user


def token(case: Case) -> None:
    case.who = {"token": case.server.token, "extensions": []}


def token_file(case: Case) -> None:
    (case.folder / "token").write_text(f"{case.server.token}\n")
    case.who = {"tokenFile": "token", "token": "a file wins"}


def certificate_by_file(case: Case) -> None:
    certificate, key = case.certificate()
    case.who = {"client-certificate": str(certificate), "client-key": str(key)}


def certificate_by_data(case: Case) -> None:
    certificate, key = case.certificate()
    case.who = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}


def exec_token(case: Case) -> None:
    case.who = {"exec": case.plugin(token=case.server.token)}


def exec_certificate(case: Case) -> None:
    certificate, key = case.certificate()
    case.who = {"exec": case.plugin(clientCertificateData=certificate.read_text(), clientKeyData=key.read_text())}


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


HONOURED = [
    ca_by_file,
    ca_by_data,
    pytest.param(
        insecure,
        marks=pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
    ),
    server_with_a_slash,
    tls_server_name,
    uncompressed,
    token,
    token_file,
    certificate_by_file,
    certificate_by_data,
    exec_token,
    exec_certificate,
]


@pytest.mark.parametrize("given", HONOURED)
def test_it_holds_for_both(case: Case, given: Callable[[Case], None]) -> None:
    given(case)
    reaches(case)


def no_ca(case: Case) -> None:
    del case.where["certificate-authority"]


def other_ca(case: Case) -> None:
    case.where["certificate-authority"] = str(case.server.authority.certificate)


def other_name(case: Case) -> None:
    case.where["tls-server-name"] = "other.example"


def other_token(case: Case) -> None:
    case.who = {"token": "other"}


def nobody(case: Case) -> None:
    case.who = {}


@pytest.mark.parametrize("given", [no_ca, other_ca, other_name, other_token, nobody])
def test_what_is_wrong_is_wrong_for_both(case: Case, given: Callable[[Case], None]) -> None:
    """That the cases above are not answered whatever they say."""
    given(case)
    leads_nowhere(case)


def test_user_and_password_and_the_wish_for_plain_answers_are_told_alike(case: Case) -> None:
    """No API server of today takes a password; a proxy before one may."""
    with Hearing(case.server) as relay:
        case.where = json.loads(relay.kubeconfig().read_text())["clusters"][0]["cluster"]
        case.who = {"username": "ann", "password": "s3cret"}
        api = case.api()
        with pytest.raises(Transient):
            api.request("GET", f"{VIRTUAL_MACHINES}?watch=true")
        requests = relay.heard.pop(True)
        with watching(api):
            until(lambda: False in relay.heard, "the watch asks for nothing")
        for name in ("authorization", "accept-encoding", "user-agent"):
            assert requests[name] == relay.heard[False][name]
        assert requests["authorization"] == "Basic YW5uOnMzY3JldA=="
        assert requests["accept-encoding"] == "identity"


# --- proxies


@pytest.mark.parametrize("name", ["proxy-url", "HTTPS_PROXY", "https_proxy"])
def test_both_go_through_the_proxy(case: Case, proxy: ConnectProxy, name: str) -> None:
    """Nothing but the proxy knows where the server is."""
    case.where["server"] = f"https://{NAME}:{case.server.port}"
    if name == "proxy-url":
        case.where[name] = proxy.url
        case.environ = {"NO_PROXY": "*", "HTTPS_PROXY": "http://127.0.0.1:1"}
    else:
        case.environ = {name: proxy.url}
    reaches(case)
    # aiohttp says 1.1, and http.client of Python 3.11 says 1.0.
    versions = {"1.1"} if sys.version_info >= (3, 12) else {"1.0", "1.1"}
    assert set(proxy.asked) == {f"CONNECT {NAME}:{case.server.port} HTTP/{version}" for version in versions}
    assert len(proxy.asked) > 1


def test_both_log_in_to_the_proxy(case: Case, server: Trusting) -> None:
    with ConnectProxy(server.port, authorization="Basic YW5uOnMzOmNyZXQ=") as proxy:
        case.where |= {
            "server": f"https://{NAME}:{server.port}",
            "proxy-url": proxy.url.replace("//", "//ann:s3%3Acret@"),
        }
        reaches(case)


def test_both_keep_to_no_proxy(case: Case, proxy: ConnectProxy) -> None:
    case.where["server"] = f"https://{NAME}:{case.server.port}"
    case.environ = {"HTTPS_PROXY": proxy.url, "NO_PROXY": "10.0.0.0/8,.svc"}
    leads_nowhere(case)
    assert proxy.asked == []


def test_both_go_to_a_plain_server_through_the_proxy(case: Case) -> None:
    with Relay(case.server) as relay:
        port = urlsplit(json.loads(relay.kubeconfig().read_text())["clusters"][0]["cluster"]["server"]).port
        assert port
        with ConnectProxy(port) as proxy:
            case.where = {"server": "http://api.example"}
            case.environ = {"HTTP_PROXY": proxy.url}
            reaches(case)
            assert all(line.startswith("GET http://api.example/api") for line in proxy.asked)


def test_the_environment_of_the_process_is_read_by_nobody_else(
    case: Case, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each library would read it by rules of its own."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    case.where |= {"server": f"https://127.0.0.1:{case.server.port}"}
    reaches(case)
    assert proxy.asked == []


def test_a_pod_goes_through_the_proxy_too(server: Trusting, proxy: ConnectProxy, tmp_path: Path, case: Case) -> None:
    (tmp_path / "token").write_text(server.token)
    shutil.copy(server.ca, tmp_path / "ca.crt")
    environ = {
        "KUBERNETES_SERVICE_HOST": NAME,
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "HTTPS_PROXY": proxy.url,
    }
    api = Api(Credentials(lambda *, refused: of_pod(environ, tmp_path)))  # noqa: ARG005
    api.request("GET", VIRTUAL_MACHINES)
    with watching(api) as (_, _, seen):
        until_seen(seen, make(case.server))


# --- credentials that end


@pytest.fixture
def short_lived(case: Case) -> Callable[[float], tuple[Path, Path]]:
    """Makes certificates of an administrator that end in so many seconds."""
    return lambda seconds: case.certificate(not_after=datetime.now(UTC) + timedelta(seconds=seconds))


def by_file(case: Case, pair: tuple[Path, Path]) -> None:
    for source, name in zip(pair, ("admin.crt", "admin.key"), strict=True):
        shutil.copy(source, case.folder / name)
    case.who = {"client-certificate": "admin.crt", "client-key": "admin.key"}
    case.write()


def by_data(case: Case, pair: tuple[Path, Path]) -> None:
    case.who = {"client-certificate-data": encoded(pair[0]), "client-key-data": encoded(pair[1])}
    case.write()


def by_plugin(case: Case, pair: tuple[Path, Path]) -> None:
    case.who = {"exec": case.plugin(clientCertificateData=pair[0].read_text(), clientKeyData=pair[1].read_text())}
    case.write()


LIFE_S = 15.0


@pytest.mark.parametrize("give", [by_file, by_data, by_plugin])
def test_a_certificate_that_was_renewed_in_time_is_taken_up(
    case: Case,
    short_lived: Callable[[float], tuple[Path, Path]],
    give: Callable[[Case, tuple[Path, Path]], None],
) -> None:
    """The API server looks at that of a connection at each request, and connections outlive it."""
    ends_s = time.monotonic() + LIFE_S
    give(case, short_lived(LIFE_S))
    api = case.api()
    with watching(api) as (watch, health, seen):
        until_seen(seen, make(case.server))
        first = api.credentials.current()
        give(case, short_lived(3600))
        time.sleep(max(0.0, ends_s + 1 - time.monotonic()))
        for _ in range(3):
            api.request("GET", VIRTUAL_MACHINES)
        assert api.credentials.current() is not first
        assert not api.take_recovery(), "nobody else noticed"
        health.failed("this test ends it")
        _end_of_watch(watch)
        until_seen(seen, make(case.server))


def _end_of_watch(watch: Watch) -> None:
    """Have its server hang up, as it does after a while."""
    for session in watch._sessions:
        connector = session.connector
        assert connector
        for protocol in list(connector._acquired):
            if transport := protocol.transport:
                session._loop.call_soon_threadsafe(transport.abort)


# --- connections


def test_both_notice_the_end_of_their_peer(case: Case) -> None:
    """What the kernel knows of the sockets, of each connection to the API server."""
    api = case.api()
    api.request("GET", VIRTUAL_MACHINES)
    with watching(api) as (_, health, _):
        until(lambda: health.open, "the watch does not begin")
        found = _connections_to(case.server.port)
        assert len(found) >= 2
        for one in found:
            with one:
                for level, option, value in SOCKET_OPTIONS:
                    assert bool(one.getsockopt(level, option)) == bool(value)
                    if option != socket.SO_KEEPALIVE:
                        assert one.getsockopt(level, option) == value


def _connections_to(port: int) -> list[socket.socket]:
    """Copies of this process's own sockets that are connected to this port."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not str(link.readlink()).startswith("socket:"):
                continue
            one = socket.fromfd(int(link.name), socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            continue
        try:
            matches = one.getpeername()[1:2] == (port,)
        except OSError:
            matches = False
        if matches:
            found.append(one)
        else:
            one.close()
    return found


def test_every_field_is_here_or_refused() -> None:
    """Those of client-go's Cluster and AuthInfo."""
    here = Path(__file__).read_text() + Path(__file__).parents[1].joinpath("kube", "test_kubeconfig.py").read_text()
    fields = kubeconfig.CLUSTER | kubeconfig.USER | {*kubeconfig.IMPERSONATION, "auth-provider"}
    assert {field for field in fields if f'"{field}"' not in here} == set()

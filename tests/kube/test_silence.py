"""An API server that answers nobody is left in peace, and found again when it is back; a slow one is not away."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from controller import __version__
from controller.api.names import AGENT, MANAGER
from controller.kube import client
from controller.kube.client import CIRCUIT_OPENS_AFTER, HALF_OPEN_EVERY_S, Api
from controller.kube.watch import Watch
from controller.kube.watched import virtual_machines
from controller.runtime import retry
from controller.runtime.errors import CircuitOpen, Transient, Unserved
from lab.world import HANG_LIMIT_S, until
from tests.kube.server import kubeconfig_of

OBJECT = "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines/web"


class Answers(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]]
    agents: ClassVar[set[str]]
    status: ClassVar[int] = 200
    retry_after: ClassVar[str] = ""
    slow: ClassVar[threading.Event | None] = None

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.agents.add(self.headers["User-Agent"])
        if self.slow and self.path != "/version":
            self.slow.wait()
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        if self.retry_after:
            self.send_header("Retry-After", self.retry_after)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A port of our own where nobody listens yet."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held


@pytest.fixture
def api(port: socket.socket, tmp_path: Path) -> Api:
    """As the agent has it."""
    kubeconfig = kubeconfig_of(f"http://127.0.0.1:{port.getsockname()[1]}", tmp_path)
    return client.load(kubeconfig, scheduled_probes=True)


@pytest.fixture
def user_api(port: socket.socket, tmp_path: Path) -> Api:
    """As those have it who do not probe."""
    return client.load(kubeconfig_of(f"http://127.0.0.1:{port.getsockname()[1]}", tmp_path))


@contextmanager
def server_at(port: socket.socket, **how: Any) -> Iterator[type[Answers]]:
    """Somebody answers there, as `Answers` says with these changes."""
    handler = type("Handler", (Answers,), {"asked": [], "agents": set(), **how})
    port.listen()
    server = ThreadingHTTPServer(port.getsockname(), handler, bind_and_activate=False)
    server.daemon_threads = True
    server.socket.close()
    server.socket = port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler
    finally:
        server.shutdown()
        thread.join()


def fall_silent(api: Api) -> None:
    for _ in range(CIRCUIT_OPENS_AFTER):
        assert not api.circuit_open
        with pytest.raises(Transient) as raised:
            api.request("GET", OBJECT)
        assert not isinstance(raised.value, CircuitOpen)
    assert api.circuit_open


def test_who_answers_nobody_is_not_asked_and_the_reason_is_told_all_the_same(api: Api) -> None:
    fall_silent(api)
    assert not api.probe()
    with pytest.raises(CircuitOpen, match=r"does not answer: .*refused"):
        api.request("GET", OBJECT)


def test_only_a_knock_goes_through_and_finds_it_back(api: Api, port: socket.socket) -> None:
    fall_silent(api)
    with server_at(port) as server:
        with pytest.raises(CircuitOpen):
            api.request("GET", OBJECT)
        assert server.asked == []
        assert api.probe()
        assert not api.circuit_open
        assert api.request("GET", OBJECT) == {}
        assert server.asked == ["/version", OBJECT]


def test_who_does_not_probe_finds_it_back_with_a_request(
    user_api: Api, port: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now_s))
    fall_silent(user_api)
    with pytest.raises(CircuitOpen, match=r"does not answer: .*refused"):
        user_api.request("GET", OBJECT)
    now_s += HALF_OPEN_EVERY_S
    with pytest.raises(Transient) as tried:
        user_api.request("GET", OBJECT)
    assert not isinstance(tried.value, CircuitOpen)
    with server_at(port) as server:
        with pytest.raises(CircuitOpen):
            user_api.request("GET", OBJECT)
        assert server.asked == []
        now_s += HALF_OPEN_EVERY_S
        assert user_api.request("GET", OBJECT) == {}
        assert user_api.request("GET", OBJECT) == {}
        assert not user_api.circuit_open
        assert server.asked == [OBJECT, OBJECT]


def test_of_many_threads_that_ask_meanwhile_one_request_is_sent(
    user_api: Api, port: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now_s))
    fall_silent(user_api)
    now_s += HALF_OPEN_EVERY_S
    over = threading.Event()
    with server_at(port, slow=over) as server, ThreadPoolExecutor() as threads:
        first = threads.submit(user_api.request, "GET", OBJECT)
        until(lambda: server.asked == [OBJECT], "nothing was sent")
        for _ in range(10):
            with pytest.raises(CircuitOpen):
                user_api.request("GET", OBJECT)
        over.set()
        assert first.result() == {}
        assert server.asked == [OBJECT]


def test_answers_that_do_not_come_are_no_silence(
    api: Api, port: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", (3.0, 0.05))
    over = threading.Event()
    with server_at(port, slow=over) as server:
        for _ in range(2 * CIRCUIT_OPENS_AFTER):
            with pytest.raises(Transient, match=r"does not answer: .*Read timed out"):
                api.request("GET", OBJECT)
        assert not api.circuit_open
        # On a busy machine the server reads a request after the client has given it up.
        until(lambda: len(server.asked) == 2 * CIRCUIT_OPENS_AFTER, "not each request was read")
        assert not api.take_recovery()
        over.set()
        monkeypatch.setattr(client, "TIMEOUT_S", (3.0, 10.0))
        api.request("GET", OBJECT)
        assert api.take_recovery()


def test_a_handshake_that_does_not_end_is_silence(
    port: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with a process that is stopped: the kernel goes on taking connections."""
    monkeypatch.setattr(client, "TIMEOUT_S", (0.05, 10.0))
    port.listen()
    fall_silent(client.load(kubeconfig_of(f"https://127.0.0.1:{port.getsockname()[1]}", tmp_path)))


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_the_first_good_answer_after_trouble_is_told_once(api: Api, port: socket.socket, status: int) -> None:
    with server_at(port) as server:
        api.request("GET", OBJECT)
        assert not api.take_recovery(), "there was no trouble"
        server.status = status
        for _ in range(3):
            with pytest.raises(Transient):
                api.request("GET", OBJECT)
        assert api.probe(), "it is there"
        assert not api.take_recovery(), "that it is there does not mean that it works"
        server.status = 200
        api.request("GET", OBJECT)
        api.request("GET", OBJECT)
        assert api.take_recovery()
        assert not api.take_recovery()


@pytest.mark.parametrize(
    ("status", "retry_after", "wait_s"),
    [(429, "7", 7.0), (503, "2", 2.0), (500, "", 0.0), (429, "3600", 30.0), (429, "soon", 0.0), (429, "-1", 0.0)],
)
def test_who_asks_for_a_wait_is_not_asked_again_at_once(
    api: Api, port: socket.socket, status: int, retry_after: str, wait_s: float
) -> None:
    with server_at(port, status=status, retry_after=retry_after) as server:
        with pytest.raises(Transient) as raised:
            retry.call(api.request, "GET", OBJECT)
        assert raised.value.retry_after_s == wait_s
        assert len(server.asked) == (1 if wait_s else 3)


@pytest.mark.parametrize("status", [301, 304, 307])
def test_a_redirect_is_an_error(api: Api, port: socket.socket, status: int) -> None:
    """As that of a proxy. It must not count as an answer of the API server."""
    with server_at(port, status=status) as server:
        with pytest.raises(Transient, match=f"the API server answered {status}"):
            api.request("GET", OBJECT)
        with pytest.raises(Transient, match=f"the API server answered {status}"):
            api.stream(OBJECT, read_timeout_s=HANG_LIMIT_S)
        server.status = 200
        api.request("GET", OBJECT)
        assert api.take_recovery()


@pytest.mark.parametrize("program", [AGENT, MANAGER])
def test_the_api_server_is_told_which_program_asks(port: socket.socket, tmp_path: Path, program: str) -> None:
    api = client.load(kubeconfig_of(f"http://127.0.0.1:{port.getsockname()[1]}", tmp_path), program=program)
    with server_at(port) as server:
        api.request("GET", OBJECT)
        assert server.agents == {f"{program}/{__version__}"}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "the API server does not accept the credentials of virtsync-manager (401)"),
        (403, "virtsync-manager lacks a permission: "),
    ],
)
def test_an_error_names_the_program_whose_credentials_do_not_do(
    port: socket.socket, tmp_path: Path, status: int, told: str
) -> None:
    api = client.load(kubeconfig_of(f"http://127.0.0.1:{port.getsockname()[1]}", tmp_path), program=MANAGER)
    with server_at(port, status=status), pytest.raises(Transient) as raised:
        api.request("GET", OBJECT)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/apis/virtsync.dev/v1alpha1/virtualmachines", "VirtualMachine: install deploy/crds first"),
        ("/apis/virtsync.dev/v1alpha1/namespaces/vms/virtualmachines/web", "VirtualMachine: install deploy/crds first"),
        ("/apis/virtsync.dev/v1alpha1/hypervisors/node-a", "Hypervisor: install deploy/crds first"),
        ("/apis/coordination.k8s.io/v1/leases", "/apis/coordination.k8s.io/v1/leases"),
    ],
)
def test_an_error_names_the_kind_that_is_not_known(api: Api, port: socket.socket, path: str, told: str) -> None:
    with server_at(port, status=404), pytest.raises(Unserved) as raised:
        api.request("GET", path)
    assert str(raised.value) == f"the API server does not know {told}"


def test_each_answer_that_limits_the_rate_is_counted(port: socket.socket, tmp_path: Path) -> None:
    throttled: list[None] = []
    kubeconfig = kubeconfig_of(f"http://127.0.0.1:{port.getsockname()[1]}", tmp_path)
    api = client.load(kubeconfig, throttled=lambda: throttled.append(None))
    with server_at(port) as server:
        for server.status in (200, 429, 503, 429):
            with suppress(Transient):
                api.request("GET", OBJECT)
    assert len(throttled) == 2


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop in which no time passes while it is still, so no wait ends by its time limit."""

    still_s: float | None = None

    def time(self) -> float:
        return super().time() if self.still_s is None else self.still_s

    def go_on(self) -> None:
        self.still_s = None


def test_a_watch_that_is_ended_before_it_knows_the_kinds_ends_at_once(api: Api, port: socket.socket) -> None:
    """kopf alone waits 5 s for its requests, and the agent would act for so long."""
    watch = Watch(api, "a", [virtual_machines("a", on_object=lambda _: None, on_gone=lambda _: None)])
    loop = StillLoop()

    async def run() -> None:
        stop = asyncio.Event()
        ending = asyncio.create_task(watch.run(stop))
        while len(server.asked) < 2:
            await asyncio.sleep(0.01)
        loop.still_s = loop.time()
        stop.set()
        await ending

    def go_on() -> None:
        loop.call_soon_threadsafe(loop.go_on)

    limit = threading.Timer(HANG_LIMIT_S, go_on)
    limit.start()
    with server_at(port, status=503) as server, asyncio.Runner(loop_factory=lambda: loop) as runner:
        thread = threading.Thread(target=runner.run, args=(run(),))
        thread.start()
        thread.join()
    limit.cancel()
    assert loop.still_s is not None, "something waited until its time limit"

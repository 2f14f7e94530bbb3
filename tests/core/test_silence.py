"""An API server that answers nobody is left in peace, and found again when it is back."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from controller.errors import Transient, Unasked
from controller.kube import config
from controller.kube.config import SILENT_AFTER, Api

OBJECT = "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines/web"


class Answers(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
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
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"server": f"http://127.0.0.1:{port.getsockname()[1]}"}
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "any",
                "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
                "clusters": [{"name": "any", "cluster": cluster}],
                "users": [{"name": "any", "user": {"token": "any"}}],
            }
        )
    )
    return config.load(kubeconfig)


@contextmanager
def server_at(port: socket.socket) -> Iterator[list[str]]:
    """Somebody answers there; the paths that were asked for."""

    class Handler(Answers):
        asked: ClassVar[list[str]] = []

    port.listen()
    server = HTTPServer(port.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Handler.asked
    finally:
        server.shutdown()
        thread.join()


def fall_silent(api: Api) -> None:
    for _ in range(SILENT_AFTER):
        assert not api.silent
        with pytest.raises(Transient) as raised:
            api.request("GET", OBJECT)
        assert not isinstance(raised.value, Unasked)
    assert api.silent


def test_who_answers_nobody_is_not_asked_and_the_reason_is_told_all_the_same(api: Api) -> None:
    fall_silent(api)
    assert not api.knock()
    with pytest.raises(Unasked, match=r"does not answer: .*refused"):
        api.request("GET", OBJECT)


def test_only_a_knock_goes_through_and_finds_it_back(api: Api, port: socket.socket) -> None:
    fall_silent(api)
    with server_at(port) as asked:
        with pytest.raises(Unasked):
            api.request("GET", OBJECT)
        assert asked == []
        assert api.knock()
        assert not api.silent
        assert api.request("GET", OBJECT) == {}
        assert asked == ["/version", OBJECT]

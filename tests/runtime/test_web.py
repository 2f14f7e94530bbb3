"""Who gets an answer from a server on localhost, over a real socket."""

import errno
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from socketserver import TCPServer

import pytest

from controller.runtime import web
from controller.runtime.errors import Rejected
from controller.runtime.server import CONNECTIONS_LIMIT, NO_DESCRIPTOR_PAUSE_S
from controller.runtime.web import HEADERS, Exchange, LocalServer


def answer(exchange: Exchange) -> None:
    if exchange.path == "/broken":
        raise RuntimeError("on purpose")
    exchange.send(b"hello", "text/plain")


@pytest.fixture
def server() -> Iterator[LocalServer]:
    started = LocalServer(0, answer)
    started.start()
    yield started
    started.close()


def ask(server: LocalServer, method: str = "GET", path: str = "/", **headers: str) -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in ({"Host": f"127.0.0.1:{server.port}"} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        response.body = response.read()  # type: ignore[attr-defined]
        return response


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:65535", "[::1]:8081", "LOCALHOST:1"])
def test_a_tunnel_may_have_any_port(server: LocalServer, host: str) -> None:
    assert ask(server, Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8081",
        "127.0.0.2",
        "10.0.0.1",
        "",
        "localhost:x",
    ],
)
def test_another_name_for_this_address_is_refused(server: LocalServer, host: str) -> None:
    """As after DNS rebinding: the browser connects to localhost, and names the host of the other site."""
    response = ask(server, Host=host)
    assert response.status == 421
    assert response.body == b"The host of this page is localhost.\n"  # type: ignore[attr-defined]


def test_two_hosts_are_refused(server: LocalServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b" 421 " in client.recv(100)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "CONNECT"])
def test_only_get_is_answered(server: LocalServer, method: str) -> None:
    response = ask(server, method)
    assert (response.status, response.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("site", "mode", "destination", "status"),
    [
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
        ("cross-site", "navigate", "document", 200),  # a link in a runbook
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "no-cors", "script", 403),
        ("cross-site", "cors", "empty", 403),
        ("same-site", "cors", "empty", 403),  # another port of localhost
    ],
)
def test_another_site_can_only_open_the_page(
    server: LocalServer, site: str, mode: str, destination: str, status: int
) -> None:
    response = ask(server, Sec_Fetch_Site=site, Sec_Fetch_Mode=mode, Sec_Fetch_Dest=destination)
    assert response.status == status


def test_each_response_has_the_headers_that_confine_the_page(server: LocalServer) -> None:
    for response in (ask(server), ask(server, "POST"), ask(server, Host="evil.example")):
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
        assert response.headers["Set-Cookie"] is None
        assert response.headers["Access-Control-Allow-Origin"] is None
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_an_internal_error_ends_one_request_and_not_the_server(server: LocalServer) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server, path="/broken")
    assert ask(server).status == 200


def test_more_connections_than_the_limit_are_closed_and_room_comes_back(server: LocalServer) -> None:
    with ExitStack() as ends:
        for _ in range(CONNECTIONS_LIMIT):  # each one sends nothing, and keeps its thread
            ends.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as one_more:
            assert one_more.recv(1) == b""
    while True:  # the threads notice one after the other that their clients have gone
        try:
            assert ask(server).status == 200
        except (ConnectionError, http.client.RemoteDisconnected):
            continue
        break


def test_a_place_is_free_again_if_its_thread_could_not_be_started(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def refuses(thread: threading.Thread) -> None:
        if len(refused) < CONNECTIONS_LIMIT:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    for _ in range(CONNECTIONS_LIMIT):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            assert client.recv(1) == b""
    assert ask(server).status == 200


def test_a_server_without_a_file_descriptor_waits_before_it_tries_again(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, tried = TCPServer.get_request, threading.Semaphore(0)

    def refuses(_: object) -> tuple[socket.socket, object]:
        tried.release()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(TCPServer, "get_request", refuses)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60):
        for _ in range(4):
            assert tried.acquire(timeout=60)
        assert time.monotonic() - began >= 3 * NO_DESCRIPTOR_PAUSE_S
        monkeypatch.setattr(TCPServer, "get_request", accept)
        assert ask(server).status == 200


def test_a_client_that_sends_nothing_is_given_up(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.Exchange, "timeout", 0.1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"GET / HT")
        assert client.recv(1) == b""


def test_a_port_in_use_is_one_sentence(server: LocalServer) -> None:
    with pytest.raises(Rejected, match=f"cannot listen on port {server.port} of localhost: Address already in use"):
        LocalServer(server.port, answer)


def test_nobody_else_on_the_network_can_connect(server: LocalServer) -> None:
    assert server.server_address[0] == "127.0.0.1"

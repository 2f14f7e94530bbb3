"""The proxy passes bytes on, and can be told not to."""

import socket
import threading
from collections.abc import Iterator

import pytest

from lab.processes import reserve_port
from lab.proxy import Proxy

HANG_LIMIT_S = 60


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers with what it is told; its port."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(100):
                    client.sendall(data)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), HANG_LIMIT_S)


def answers(connection: socket.socket, word: bytes) -> bool:
    connection.sendall(word)
    return connection.recv(100) == word


def is_refused(proxy: Proxy) -> bool:
    """A connection is reset, before it is there or after."""
    try:
        with connected(proxy) as connection:
            return connection.recv(100) is None
    except ConnectionError:
        return True


def test_what_comes_is_passed_on_both_ways(proxy: Proxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        assert answers(one, b"one")
        assert answers(other, b"other")
        assert answers(one, b"again")
    assert proxy.accepted == 2


def test_a_cut_resets_what_is_open_and_what_comes(proxy: Proxy) -> None:
    with connected(proxy) as before:
        assert answers(before, b"before")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            before.recv(100)
    assert is_refused(proxy)
    proxy.pass_on()
    with connected(proxy) as after:
        assert answers(after, b"after")


def test_one_cut_resets_only_what_is_open(proxy: Proxy) -> None:
    with connected(proxy) as before:
        assert answers(before, b"before")
        proxy.cut_once()
        with pytest.raises(ConnectionResetError):
            before.recv(100)
    with connected(proxy) as after:
        assert answers(after, b"after")


def test_what_stalls_goes_on_where_it_stood(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert answers(connection, b"before")
        proxy.stall()
        connection.sendall(b"stalled")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        connection.settimeout(HANG_LIMIT_S)
        proxy.pass_on()
        assert connection.recv(100) == b"stalled"


def test_hanging_up_ends_every_new_connection_in_order(proxy: Proxy) -> None:
    proxy.hang_up()
    with connected(proxy) as connection:
        assert connection.recv(100) == b""


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with reserve_port() as held, Proxy(held.getsockname()[1]) as proxy:
        assert is_refused(proxy)


def test_its_end_ends_what_is_open(echo: int) -> None:
    with Proxy(echo) as proxy:
        connection = connected(proxy)
        assert answers(connection, b"before")
        proxy.stall()
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(100)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("proxy")]

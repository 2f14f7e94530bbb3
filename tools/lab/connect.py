"""A forward HTTP proxy, as in company networks: every request goes to one server on this machine."""

import socket
import threading
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 65536
HEAD_LIMIT_BYTES = 65536


class ConnectProxy:
    """Listens on a port of 127.0.0.1; use it as a context manager.

    It handles CONNECT, and requests with an absolute URL. `asked` has the request lines, in the order of arrival.
    """

    def __init__(self, port: int, *, authorization: str = "") -> None:
        """`port` is the server's port on 127.0.0.1; each client must send `authorization`, if it is given."""
        self._target, self._authorization = port, authorization
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, name="connect-proxy", daemon=True)
        self._open: set[socket.socket] = set()
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # the thread waits in accept, which this ends
        self._thread.join()
        self._listener.close()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """The proxy's URL, for a client's settings."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the end
                return
            threading.Thread(target=self._serve, args=(client,), name="connect", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self._open.add(client)
            head = _head(client)
            line, _, rest = head.decode("latin-1").partition("\r\n")
            self.asked.append(line)
            if self._authorization and f"proxy-authorization: {self._authorization}".lower() not in rest.lower():
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                if line.startswith("CONNECT "):
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    server.sendall(head)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
        self._open.discard(client)


def _head(client: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_LIMIT_BYTES:
        chunk = client.recv(CHUNK_BYTES)
        if not chunk:
            break
        head += chunk
    return head


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

"""The HTTP server of the agent, which serves /livez, /readyz and /metrics on one port.

/livez checks only the agent's own threads: if it also checked libvirt and the API server, an outage of the API server
would restart all agents at once. /readyz checks that the agent does its work; a rollout waits until it succeeds.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import structlog

from controller.runtime.errors import Rejected
from controller.runtime.exposition import Exposition
from controller.runtime.metrics import ProcessMetrics
from controller.runtime.server import CONNECTIONS_LIMIT, TEXT, Handler, Server, why_not_listening

EVERY_ADDRESS = "*"
REQUEST_TIMEOUT_S = 10.0
"""How long a connection may take as a whole, from its acceptance to the end of the response."""

log = structlog.get_logger()


class Health:
    """The agent's HTTP server. Register the checks, then call `start`.

    The checks run on the threads of the server and must not block.
    """

    def __init__(self, address: str, port: int, metrics: ProcessMetrics) -> None:
        self._address, self._port, self._metrics = address, port, metrics
        self._exposition = Exposition(metrics.registry)
        self._alive: dict[str, Callable[[], bool]] = {}
        self._ready: dict[str, Callable[[], str | None]] = {}
        self._server: _Server | None = None

    def alive(self, name: str, check: Callable[[], bool]) -> None:
        """Register a liveness check. It returns False if this part has died. Then the process must be restarted."""
        self._alive[name] = check

    def ready(self, name: str, check: Callable[[], str | None]) -> None:
        """Register a readiness check, and its metric. It returns a message if the agent is not ready, else None."""
        self._ready[name] = check
        self._metrics.readiness.watch(name, check)

    def start(self) -> int:
        """Start the server, and return its port. Raises Rejected if it cannot listen on the address and port."""
        try:
            self._server = _Server(self._address, self._port, self.answer)
        except OSError as error:
            where = "" if self._address == EVERY_ADDRESS else f" of {self._address}"
            why = why_not_listening(error)
            raise Rejected(f"Cannot serve health and metrics on port {self._port}{where}: {why}.") from error
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and release the port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def dead(self) -> list[str]:
        """Return the names of the parts whose liveness check fails. Thread-safe."""
        return [name for name, check in self._alive.items() if not check()]

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Return the status, content type and body of the response to a request for this path.

        `accept` is the Accept header of the request.
        """
        path, _, query = path.partition("?")
        match path:
            case "/livez":
                return _verdict([f"dead: {name}" for name in self.dead()])
            case "/readyz":
                return _verdict(list(self._unready()))
            case "/metrics":
                # As in prometheus_client's own server, a client can request some metrics only: each VM has a dozen
                # series.
                made = self._exposition.text(accept, parse_qs(query).get("name[]", []))
                if made is None:
                    return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, b"Too many clients ask for /metrics.\n"
                return HTTPStatus.OK, *made
            case _:
                return HTTPStatus.NOT_FOUND, TEXT, b"The paths are /livez, /readyz and /metrics.\n"

    def _unready(self) -> Iterator[str]:
        for name, check in self._ready.items():
            if why := check():
                yield f"{name}: {why}"


def _verdict(faults: list[str]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.INTERNAL_SERVER_ERROR if faults else HTTPStatus.OK
    return status, TEXT, ("\n".join(faults or ["ok"]) + "\n").encode()


class _Server(Server):
    """The server of `Health`.

    Clients that are slow, or many, cannot keep a probe of kubelet from its answer. A connection is closed after
    REQUEST_TIMEOUT_S, however many bytes it has sent. If there are CONNECTIONS_LIMIT connections, the oldest one is
    closed and the new one is served. If the new one was refused instead, idle connections would make /livez fail, and
    kubelet would restart the agent.
    """

    def __init__(self, address: str, port: int, answer: Callable[[str, str], tuple[HTTPStatus, str, bytes]]) -> None:
        self.answer = answer
        self._both = address == EVERY_ADDRESS and socket.has_dualstack_ipv6()
        if address == EVERY_ADDRESS:
            address = "::" if self._both else "0.0.0.0"  # noqa: S104 - kubelet and Prometheus are outside of the Pod
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # with the time of acceptance, in order of it
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Bind the socket, for IPv4 too if requested."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not self._both)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a new thread. If there are too many connections, close the oldest one."""
        with self._lock:
            if len(self._open) >= CONNECTIONS_LIMIT:
                self._end(next(iter(self._open)))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close the connections that have taken too long. `serve_forever` calls this at least every 0.5 s."""
        super().service_actions()
        before = time.monotonic() - REQUEST_TIMEOUT_S
        with self._lock:
            for request in [request for request, accepted_at in self._open.items() if accepted_at < before]:
                self._end(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def _end(self, request: socket.socket) -> None:
        """Let the thread of this connection end: what it reads or writes next fails. The caller holds the lock.

        Only `shutdown_request` closes the socket, after it has removed it from `_open`. Therefore the file descriptor
        cannot be that of another connection.
        """
        del self._open[request]
        with contextlib.suppress(OSError):  # the client has closed its connection already
            request.shutdown(socket.SHUT_RDWR)


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - http.server calls it by this name
        """Send the response to a GET request."""
        try:
            status, content_type, body = self.server.answer(self.path, self.headers.get("Accept", ""))
        except Exception:
            log.exception("internal error in an HTTP request", path=self.path)
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"internal error\n"
        self.send(body, content_type, status=status)

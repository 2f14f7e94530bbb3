"""/livez, /readyz and /metrics on one port.

Alive means that the agent's own threads live, whatever libvirt and the API server do: else an outage of either would
restart every agent at once. Ready means that the agent does its work, and gates rollouts.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import parse_qs

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from controller.runtime.errors import Rejected

EVERY_ADDRESS = "*"
TEXT = "text/plain; charset=utf-8"
CLIENT_TIMEOUT_S = 10.0
"""How long a client may take over its request: each has a thread."""

log = structlog.get_logger()


class Health:
    """The agent's HTTP server. Name the checks first, then `start`; they run in its threads and must not wait."""

    def __init__(self, address: str, port: int, registry: CollectorRegistry) -> None:
        self._address, self._port, self._registry = address, port, registry
        self._alive: dict[str, Callable[[], bool]] = {}
        self._ready: dict[str, Callable[[], str | None]] = {}
        self._server: _Server | None = None

    def alive(self, name: str, check: Callable[[], bool]) -> None:
        """Without this part the agent must be started anew; the check says whether it lives."""
        self._alive[name] = check

    def ready(self, name: str, check: Callable[[], str | None]) -> None:
        """Without this the agent is not ready; the check says None, or in a sentence why not."""
        self._ready[name] = check

    def start(self) -> int:
        """Serve, and return the port. Raises Rejected when address and port cannot be had."""
        try:
            self._server = _Server(self._address, self._port, self.answer)
        except OSError as error:
            where = "" if self._address == EVERY_ADDRESS else f" of {self._address}"
            why = os.strerror(error.errno) if error.errno else str(error)
            raise Rejected(f"Cannot serve health and metrics on port {self._port}{where}: {why}.") from error
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and give the port back."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def dead(self) -> list[str]:
        """The parts that the agent cannot go on without, and that no longer work."""
        return [name for name, check in self._alive.items() if not check()]

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path and the client's Accept header."""
        path, _, query = path.partition("?")
        match path:
            case "/livez":
                return _verdict([f"dead: {name}" for name in self.dead()])
            case "/readyz":
                return _verdict(list(self._unready()))
            case "/metrics":
                encode, content_type = choose_encoder(accept)
                # As prometheus_client's own server: those named, for each VM has a dozen of series.
                names = parse_qs(query).get("name[]")
                registry = self._registry.restricted_registry(names) if names else self._registry
                return HTTPStatus.OK, content_type, encode(registry)
            case _:
                return HTTPStatus.NOT_FOUND, TEXT, b"There are /livez, /readyz and /metrics.\n"

    def _unready(self) -> Iterator[str]:
        for name, check in self._ready.items():
            if why := check():
                yield f"{name}: {why}"


def _verdict(faults: list[str]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.INTERNAL_SERVER_ERROR if faults else HTTPStatus.OK
    return status, TEXT, ("\n".join(faults or ["ok"]) + "\n").encode()


class _Server(ThreadingHTTPServer):
    """Listens once it is built; raises OSError when it cannot."""

    daemon_threads = True
    # A port that somebody else listens on is never shared with them.
    allow_reuse_port = False

    def __init__(self, address: str, port: int, answer: Callable[[str, str], tuple[HTTPStatus, str, bytes]]) -> None:
        self.answer = answer
        self._both = address == EVERY_ADDRESS and socket.has_dualstack_ipv6()
        if address == EVERY_ADDRESS:
            address = "::" if self._both else "0.0.0.0"  # noqa: S104 - kubelet and Prometheus are outside of the Pod
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Bind, for IPv4 too where that was asked; without HTTPServer's look-up of the name in DNS, which may hang."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not self._both)
        TCPServer.server_bind(self)

    def handle_error(self, _request: object, client_address: object) -> None:
        """A client that went away in between is no news; faults of ours are told where they happen."""
        log.debug("HTTP request ended early", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT_S
    server_version, sys_version = "virtsync", ""

    def do_GET(self) -> None:
        """Answer one request."""
        try:
            status, content_type, body = self.server.answer(self.path, self.headers.get("Accept", ""))
        except Exception:
            log.exception("HTTP request failed inside virtsync", path=self.path)
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"a check failed inside virtsync\n"
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds: no news."""

"""/livez, /readyz and /metrics on one port.

Alive means that the agent's own threads live, whatever libvirt and the API server do: else an outage of either would
restart every agent at once. Ready means that libvirt is connected and everything has been reported once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from controller.errors import Rejected


class Health:
    """The agent's HTTP server. Checks must answer at once: they run in its threads."""

    def __init__(self, address: str, port: int, registry: CollectorRegistry) -> None:
        self._address, self._port, self._registry = address, port, registry
        self._alive: dict[str, Callable[[], bool]] = {}
        self._ready: dict[str, Callable[[], str | None]] = {}
        self._server: ThreadingHTTPServer | None = None

    def alive(self, name: str, check: Callable[[], bool]) -> None:
        """Count this part among those without which the agent must be started anew."""
        self._alive[name] = check

    def ready(self, name: str, check: Callable[[], str | None]) -> None:
        """Count this among what the agent must have; the check says None, or in a sentence what is missing."""
        self._ready[name] = check

    def start(self) -> int:
        """Serve; returns the port. Raises Rejected when it cannot be had."""
        health = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = health.answer(self.path, self.headers.get("Accept", ""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds; they are no news."""

        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if ":" in health._address else AF_INET
            daemon_threads = True

        try:
            self._server = Server((self._address, self._port), Handler)
        except OSError as error:
            raise Rejected(f"cannot listen on {self._address} port {self._port}: {error.strerror}") from error
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, path: str, accept: str = "") -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        match path.partition("?")[0]:
            case "/livez" | "/healthz":
                return _verdict([f"{name} is dead" for name, check in self._alive.items() if not check()])
            case "/readyz":
                return _verdict([why for check in self._ready.values() if (why := check())])
            case "/metrics":
                encode, kind = choose_encoder(accept)
                return 200, kind, encode(self._registry)
            case _:
                return 404, "text/plain; charset=utf-8", b"there is /livez, /readyz and /metrics\n"


def _verdict(faults: list[str]) -> tuple[int, str, bytes]:
    body = "\n".join(faults) if faults else "ok"
    return (503 if faults else 200), "text/plain; charset=utf-8", f"{body}\n".encode()

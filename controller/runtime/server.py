"""What virtsync's HTTP servers share."""

from __future__ import annotations

import errno
import os
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import structlog

TEXT = "text/plain; charset=utf-8"
CONNECTIONS_LIMIT = 64
"""How many connections a server has at a time, because each one occupies a thread and a file descriptor."""
NO_DESCRIPTOR_PAUSE_S = 0.1
"""How long a server waits if the process has no file descriptor left for a connection."""

log = structlog.get_logger()


class Server(ThreadingHTTPServer):
    """A server with a daemon thread for each connection. Its constructor begins to listen, or raises OSError.

    Its handler logs internal errors itself.
    """

    daemon_threads = True
    # While the queue is full, Linux drops a connection's first packet, and the client sends it again after 1 s.
    request_queue_size = 128
    # Do not share the port with another process that already listens on it.
    allow_reuse_port = False

    def server_bind(self) -> None:
        """Bind the socket without the DNS lookup of HTTPServer.server_bind, which might hang."""
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection. Raises OSError, after a pause if the process has no file descriptor left.

        The connection still waits then, so without the pause the next attempt would follow at once.
        """
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                time.sleep(NO_DESCRIPTOR_PAUSE_S)
            raise

    def handle_error(self, _request: object, client_address: object) -> None:
        """Log at debug level that a request failed, usually because the client closed its connection."""
        log.debug("HTTP request ended early", client=str(client_address))


class Handler(BaseHTTPRequestHandler):
    """The handler of one connection. It logs no request."""

    server_version, sys_version = "virtsync", ""

    def send(self, body: bytes, content_type: str, *, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send a whole response."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing, because probes come every few seconds."""


def why_not_listening(error: OSError) -> str:
    """Return the reason why a server could not listen, as a part of a sentence."""
    return os.strerror(error.errno) if error.errno else str(error)

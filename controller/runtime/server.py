"""What virtsync's HTTP servers share."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from socketserver import TCPServer

import structlog

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

    def handle_error(self, _request: object, client_address: object) -> None:
        """Log at debug level that a request failed, usually because the client closed its connection."""
        log.debug("HTTP request ended early", client=str(client_address))

"""An HTTP server on localhost for the browser of a person who has a tunnel to it. It only answers GET.

Any page that this person has open in the same browser can send requests to such a tunnel. Therefore a request must name
localhost as its host, which a page of another site cannot make it do even if it changes its own DNS records (DNS
rebinding), and a request from another site must be the opening of a page.
"""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from typing import Any

import structlog

from controller.runtime.errors import Rejected
from controller.runtime.server import CONNECTIONS_LIMIT, TEXT, Handler, Server, why_not_listening

LOCALHOST = "127.0.0.1"
HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""The values of the header Host that are accepted. The port is that of the tunnel, so it can be any."""
CLIENT_TIMEOUT_S = 10.0
"""The timeout for reading a request, and for each write to the client."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of each response. No response sets a cookie."""

log = structlog.get_logger()


def refusal(method: str, headers: Message) -> tuple[HTTPStatus, str] | None:
    """Return why a request is refused: the status and one sentence; None: it is not."""
    if method != "GET":
        return HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is allowed."
    hosts = headers.get_all("Host", [])
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0].strip()):
        return HTTPStatus.MISDIRECTED_REQUEST, "The host of this page is localhost."
    site = headers.get("Sec-Fetch-Site", "none")
    opens = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    if site not in {"none", "same-origin"} and not opens:
        return HTTPStatus.FORBIDDEN, "Another site may not read this page."
    return None


class LocalServer(Server):
    """A server on localhost. The constructor begins to listen; `start` begins to answer.

    `answer` is called on the thread of the connection.
    """

    def __init__(self, port: int, answer: Callable[[Exchange], None]) -> None:
        """Raises Rejected if it cannot listen on the port; 0: a free port."""
        self.answer = answer
        self._places = threading.BoundedSemaphore(CONNECTIONS_LIMIT)
        try:
            super().__init__((LOCALHOST, port), Exchange)
        except OSError as error:
            raise Rejected(f"cannot listen on port {port} of localhost: {why_not_listening(error)}") from error

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Begin to answer, on threads of its own."""
        threading.Thread(target=self.serve_forever, name="page-http", daemon=True).start()

    def close(self) -> None:
        """Stop answering, and release the port. `start` must have been called."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Answer on a thread, unless there are too many connections."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Answer, then make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


class Exchange(Handler):
    """One request and its response."""

    server: LocalServer
    timeout = CLIENT_TIMEOUT_S

    def parse_request(self) -> bool:
        """Read the request, and refuse it if it might come from another site."""
        if not super().parse_request():
            return False
        if refused := refusal(self.command, self.headers):
            status, sentence = refused
            self.send(sentence.encode() + b"\n", TEXT, status=status)
            return False
        return True

    def do_GET(self) -> None:  # noqa: N802 - http.server calls it by this name
        """Answer a GET request."""
        try:
            self.server.answer(self)
        except OSError:
            raise  # the client has gone, or it is too slow
        except Exception:
            log.exception("internal error in a request for the page", path=self.path)
            self.close_connection = True

    def begin(self, content_type: str) -> None:
        """Begin a response without an end. Write its body to `wfile`; the connection closes after it."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.end_headers()

    def gone(self) -> bool:
        """Whether the client has closed its connection. A client that waits for a response sends nothing."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(0))

    def end_headers(self) -> None:
        """End the headers, with those that each response has."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

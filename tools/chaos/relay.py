"""A TLS proxy between an agent and kube-apiserver, which refuses requests or loses the answers to status PATCHes.

It presents the API server's certificate to the agent, and the agent's certificate to the API server. So each connection
of the agent has its own connection to the API server, and the real API server decides whether the certificate is valid.
"""

import http.client
import json
import random
import select
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self, cast
from urllib.parse import parse_qs, urlsplit

CHUNK_BYTES = 65536
ANSWER_LIMIT_S = 60
NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: the API server, not this proxy, checks whether a certificate has expired."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
LOST_SHARE = 0.5
REFUSED_SHARE = 0.8
LONGEST_SILENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to most requests; `retry_after_s` None: without a Retry-After header."""

    status: HTTPStatus
    retry_after_s: int | None

    def __str__(self) -> str:
        return f"{self.status.value}{'' if self.retry_after_s is None else ' with Retry-After'}"


class Relay:
    """Listens on a port of 127.0.0.1; use it as a context manager. Any thread may switch the faults."""

    def __init__(
        self, port: int, certificates: Path, client_ca: Path, certificate_of: Callable[[bytes], Path | None]
    ) -> None:
        """`port` is kube-apiserver's port on 127.0.0.1, and `certificates` its folder of certificates.

        `certificate_of` finds the file with certificate and key for a client certificate of the authority `client_ca`.
        """
        self._port = port
        self._certificate_of = certificate_of
        self._ca = certificates / "apiserver.crt"
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        self.context.load_cert_chain(self._ca, certificates / "apiserver.key")
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.verify_flags |= NO_CHECK_TIME
        self._dice = random.Random(port)
        self._lock = threading.Lock()
        self.refusal: Refusal | None = None
        self.losing = False
        """Whether half of the answers to status PATCHes are lost."""
        self.refused: Counter[str] = Counter()
        self.lost: set[str] = set()
        """The audit ids of the requests whose answers were lost."""
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The relay's port on 127.0.0.1."""
        return self._server.server_port

    def handle(self, request: "_Handler") -> bool:
        """Answer a request; returns whether the connection may be used again. For the server's threads."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)) or None
        with self._lock:
            refusal = self.refusal if self._dice.random() < REFUSED_SHARE else None
            losing = self.losing and self._dice.random() < LOST_SHARE
            silent = self._dice.random() < 0.5
            if refusal:
                self.refused[str(refusal)] += 1
        if refusal:
            return _refuse(request, refusal)
        url = urlsplit(request.path)
        try:
            if parse_qs(url.query).get("watch", ["false"])[0] in {"true", "1"}:
                self._splice(request)
                return False
            response = self._ask(request, body)
            answer = response.read()
            if losing and request.command == "PATCH" and url.path.endswith("/status"):
                with self._lock:
                    self.lost.add(response.headers.get("Audit-Id", ""))
                if silent:  # until the client gives up
                    select.select([request.connection], [], [], LONGEST_SILENCE_S)
                return False
            return _answer(request, response, answer)
        except (OSError, http.client.HTTPException):  # either side has gone
            return False

    def _ask(self, request: "_Handler", body: bytes | None) -> http.client.HTTPResponse:
        if request.upstream and (not request.upstream.sock or select.select([request.upstream.sock], [], [], 0)[0]):
            request.upstream.close()  # the API server has closed it meanwhile
            request.upstream = None
        if request.upstream is None:
            request.upstream = self._upstream(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        request.upstream.request(request.command, request.path, body, headers)
        return request.upstream.getresponse()

    def _upstream(self, request: BaseHTTPRequestHandler) -> http.client.HTTPSConnection:
        """A connection to the API server with the certificate of the agent's connection."""
        context = ssl.create_default_context(cafile=self._ca)
        shown = cast("ssl.SSLSocket", request.connection).getpeercert(binary_form=True)
        if shown and (pem := self._certificate_of(shown)):
            context.load_cert_chain(pem)
        return http.client.HTTPSConnection("127.0.0.1", self._port, context=context, timeout=ANSWER_LIMIT_S)

    def _splice(self, request: BaseHTTPRequestHandler) -> None:
        """Begin a watch, and pass the data on until either side ends it."""
        upstream = self._upstream(request)
        try:
            upstream.connect()
            assert isinstance(upstream.sock, ssl.SSLSocket)  # noqa: S101 - for the type checker
            headers = [f"{name}: {value}" for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
            lines = [f"GET {request.path} HTTP/1.1", *headers, "Connection: close", "", ""]
            upstream.sock.sendall("\r\n".join(lines).encode())
            upstream.sock.settimeout(None)
            while data := _more(upstream.sock, request.connection):
                request.connection.sendall(data)
        finally:
            upstream.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection of an agent, and its connection to the API server."""

    protocol_version = "HTTP/1.1"
    server: "_Server"
    upstream: http.client.HTTPSConnection | None = None

    def setup(self) -> None:
        self.request = self.server.relay.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        if self.upstream:
            self.upstream.close()
        self.request.close()

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle_any(self) -> None:
        self.close_connection = not self.server.relay.handle(self)

    do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - so they are looked for


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def __init__(self, relay: Relay) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.relay = relay

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore that one side has closed the connection, which is intended here."""


def _more(source: ssl.SSLSocket, other: socket.socket) -> bytes:
    """The next data, or nothing when either side has ended."""
    if not source.pending() and other in select.select([source, other], [], [])[0]:
        return b""
    return source.recv(CHUNK_BYTES)


def _refuse(request: BaseHTTPRequestHandler, refusal: Refusal) -> bool:
    status = refusal.status
    said = {"status": "Failure", "message": "chaos refuses this", "reason": status.phrase.replace(" ", "")}
    body = json.dumps({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": status.value} | said).encode()
    request.send_response(status)
    if refusal.retry_after_s is not None:
        request.send_header("Retry-After", str(refusal.retry_after_s))
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
    return True


def _answer(request: BaseHTTPRequestHandler, response: http.client.HTTPResponse, body: bytes) -> bool:
    request.send_response_only(response.status)
    for name, value in response.headers.items():
        if name.lower() not in HOP_BY_HOP:
            request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
    return not response.will_close

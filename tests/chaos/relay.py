"""Stands between an agent and its API server, and answers watches as a broken one would.

It speaks plain HTTP to the agent. All but watches it passes on as they are, each on a connection of its own.
"""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from lab.controlplane import ControlPlane
from lab.world import HANG_LIMIT_S

PASSED_ON = {"accept", "authorization", "content-type"}
Broken = tuple[HTTPStatus, bytes]
"""What a watch is answered: the status, and all of the body before its end."""


def failure(status: HTTPStatus, reason: str) -> dict[str, Any]:
    """An error as Kubernetes words it."""
    said = {"status": "Failure", "message": f"the watch is broken: {reason}", "reason": reason, "code": status.value}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}} | said


def refused(status: HTTPStatus, reason: str) -> Broken:
    """The watch does not even begin."""
    return status, json.dumps(failure(status, reason)).encode()


def error_within(status: HTTPStatus, reason: str) -> Broken:
    """The watch begins, and its first word is an error."""
    return HTTPStatus.OK, json.dumps({"type": "ERROR", "object": failure(status, reason)}).encode() + b"\n"


def ending(words: bytes = b"") -> Broken:
    """The watch begins, and is over after these words."""
    return HTTPStatus.OK, words


class Relay:
    """Listens on a port of 127.0.0.1; use it as a context manager. Any thread may break and mend it."""

    def __init__(self, controlplane: ControlPlane) -> None:
        self._controlplane = controlplane
        self._context = ssl.create_default_context(cafile=controlplane.ca)
        self._changed = threading.Condition()
        self._broken: Broken | None = None
        self._broken_of = ""
        self._watches: set[http.client.HTTPSConnection] = set()
        self._silenced: set[http.client.HTTPSConnection] = set()
        self._times_s: list[float] = []
        """When watches were answered as by a broken server, since it last broke."""
        self.before: Callable[[str, str], None] = lambda _method, _path: None
        """Called with the method and the path of each request before it is passed on."""
        self.lists = 0
        """How many requests have listed VirtualMachines."""
        self._refusal: tuple[Broken, dict[str, str]] | None = None
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """It has no log."""

            def handle_any(self) -> None:
                relay._handle(self)

            do_GET = do_PATCH = do_POST = do_PUT = handle_any  # noqa: N815 - so they are looked for

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._end_watches()

    def kubeconfig(self) -> Path:
        """One that leads here, beside that of the control plane."""
        config = json.loads(self._controlplane.kubeconfig.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"] = {"server": f"http://127.0.0.1:{self._server.server_port}"}
        copy = self._controlplane.kubeconfig.with_name(f"kubeconfig-by-relay-{self._server.server_port}")
        copy.touch(0o600)
        copy.write_text(json.dumps(config))
        return copy

    def break_watches(self, answer: Broken, *, of: str = "") -> None:
        """End all watches, and answer new ones so from now on; `of`: only those of this plural."""
        with self._changed:
            self._broken, self._broken_of, self._times_s = answer, of, []
        self._end_watches()

    def silence_watches(self) -> None:
        """Let those that are open stay open, with not a word more, as when a firewall has forgotten them.

        There is one before this returns.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: self._watches, HANG_LIMIT_S), "nobody watches"
            self._silenced |= self._watches

    def refuse_all(self, answer: Broken, **headers: str) -> None:
        """End all watches, and answer everything so from now on; headers as keywords (`retry_after="1"`)."""
        with self._changed:
            self._refusal = answer, {name.replace("_", "-"): value for name, value in headers.items()}
        self._end_watches()

    def mend(self) -> None:
        """Pass everything on."""
        with self._changed:
            self._broken = self._refusal = None

    def until_broken(self, times: int) -> float:
        """Wait until so many watches have been answered as by a broken server; how many seconds that took."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._times_s) >= times, HANG_LIMIT_S), "nobody watches any more"
            times_s = self._times_s[:times]
        return times_s[-1] - times_s[0]

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        watching = parse_qs(urlsplit(request.path).query).get("watch") == ["true"]
        self.before(request.command, request.path)
        with self._changed:
            self.lists += not watching and urlsplit(request.path).path.endswith("/virtualmachines")
            refusal = self._refusal
            broken = self._broken if watching and self._is_of_broken(request) else None
            if broken:
                self._times_s.append(time.monotonic())
                self._changed.notify_all()
        with suppress(OSError, http.client.HTTPException):  # either side has gone
            if refusal:
                request.rfile.read(int(request.headers.get("Content-Length") or 0))
                _answer(request, *refusal[0], refusal[1])
            elif broken:
                _answer(request, *broken)
            else:
                self._pass_on(request, watching=watching)

    def _is_of_broken(self, request: BaseHTTPRequestHandler) -> bool:
        return urlsplit(request.path).path.endswith(self._broken_of)

    def _pass_on(self, request: BaseHTTPRequestHandler, *, watching: bool) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)) or None
        headers = {name: value for name, value in request.headers.items() if name.lower() in PASSED_ON}
        host = self._controlplane.url.removeprefix("https://")
        connection = http.client.HTTPSConnection(host, context=self._context)
        try:
            connection.request(request.command, request.path, body, headers)
            response = connection.getresponse()
            if watching:
                self._stream(request, connection, response)
            else:
                _answer(request, HTTPStatus(response.status), response.read())
        finally:
            connection.close()

    def _stream(
        self,
        request: BaseHTTPRequestHandler,
        connection: http.client.HTTPSConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        with self._changed:
            if self._broken and self._is_of_broken(request):
                return
            self._watches.add(connection)
            self._changed.notify_all()
        try:
            _begin(request, HTTPStatus(response.status))
            while line := response.readline():
                if connection not in self._silenced:
                    request.wfile.write(line)
        finally:
            with self._changed:
                self._watches.discard(connection)

    def _end_watches(self) -> None:
        with self._changed:
            for watch in self._watches:
                if watch.sock:
                    with suppress(OSError):
                        watch.sock.shutdown(2)


def _begin(
    request: BaseHTTPRequestHandler,
    status: HTTPStatus,
    length: int | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.send_header(name, value)
    if length is None:
        # Its end is the end of the connection.
        request.send_header("Connection", "close")
    else:
        request.send_header("Content-Length", str(length))
    request.end_headers()


def _answer(
    request: BaseHTTPRequestHandler, status: HTTPStatus, body: bytes, headers: Mapping[str, str] = MappingProxyType({})
) -> None:
    _begin(request, status, len(body), headers)
    request.wfile.write(body)

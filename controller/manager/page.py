"""Serves the page about hosts and VMs, on localhost. Nothing here can delay what the manager does otherwise.

One thread computes what each open page must be sent. The thread of the connection sends it. While a page has an unsent
message, it gets no other one. Afterwards it gets all changes in one message, so a slow client costs only its thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from importlib import resources
from queue import Empty, Full, Queue

import structlog

from controller.api.json_mapping import Json
from controller.manager.page_source import Source
from controller.page.document import document
from controller.page.messages import Shown, message
from controller.page.query import Query, parse_query
from controller.page.view import Served, View, view
from controller.runtime.server import TEXT
from controller.runtime.web import Exchange, LocalServer

LIVE_LIMIT = 32
"""How many pages can be live at a time."""
ALIVE_EVERY_S, GONE_CHECK_S = 15.0, 1.0
"""How often an open page is sent a line, so that proxies keep the connection, and how often it is looked whether the
client has closed it. A person who filters quickly leaves a connection behind each time."""
FIRST_WAIT_S = 0.3
"""How long the first page waits until everything was read once. Afterwards it shows what was read so far.

With 5000 VMs, the browser itself needs about 0.4 s for the first view (docs/page.md), and the goal is one second."""
LEAST_WAIT_S, SHARE = 0.1, 9
"""After a round of messages, the next one waits at least this time, and this many times the processor time of the last.
So all open pages together take at most a tenth of a processor."""
ASSETS = {
    "/style.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _Viewer:
    """An open page."""

    query: Query
    mail: Queue[Json | None] = field(default_factory=lambda: Queue(maxsize=1))
    """The message that it has not taken yet; None: the manager ends."""
    shown: Shown = field(default_factory=Shown)
    left_out: bool = False
    """Whether a change was not sent because the last message was not taken."""


class Page:
    """The server of the page. Thread-safe."""

    def __init__(self, source: Source, served: Callable[[], Served], port: int) -> None:
        """Opens the port. Raises Rejected if it cannot. `served` says who serves the page."""
        self._source, self._served = source, served
        self._lock, self._rendering, self._closed = threading.Lock(), threading.Lock(), threading.Event()
        self._viewers: list[_Viewer] = []
        folder = resources.files("controller.page") / "assets"
        self._assets = {path: (folder / path[1:]).read_bytes() for path in ASSETS}
        self._server = LocalServer(port, self._answer)

    def start(self) -> int:
        """Begin to serve, and return the port."""
        threading.Thread(target=self._run, name="page", daemon=True).start()
        self._server.start()
        return self._server.port

    def close(self) -> None:
        """Stop serving. Each open page is told that its connection ends."""
        self._closed.set()
        self._source.close()
        with self._lock:
            viewers = list(self._viewers)
        for viewer in viewers:
            with suppress(Full):
                viewer.mail.put_nowait(None)
        self._server.close()

    # --- requests, each on its own thread

    def _answer(self, exchange: Exchange) -> None:
        path, _, query = exchange.path.partition("?")
        if path in ASSETS:
            exchange.send(self._assets[path], ASSETS[path])
        elif path == "/":
            exchange.send(self._document(parse_query(query)).encode(), "text/html; charset=utf-8")
        elif path == "/events":
            self._stream(exchange, _Viewer(parse_query(query)))
        else:
            exchange.send(b"There is only one page, at /.\n", TEXT, status=HTTPStatus.NOT_FOUND)

    def _document(self, query: Query) -> str:
        self._source.look()
        self._source.wait(FIRST_WAIT_S)
        with self._rendering:  # one at a time, so that many requests take no more than one thread's time
            return document(self._view(query), _now())

    def _view(self, query: Query) -> View:
        return view(self._source.fleet(), query, self._served())

    def _stream(self, exchange: Exchange, viewer: _Viewer) -> None:
        """Send what changes, until the client goes."""
        with self._lock:
            full = len(self._viewers) >= LIVE_LIMIT
            if not full:
                self._viewers.append(viewer)
        if full:
            exchange.send(b"Too many pages are open.\n", TEXT, status=HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            self._source.look()
            self._source.changed.set()  # this viewer has seen nothing yet
            exchange.begin("text/event-stream")
            sent_s = time.monotonic()
            while not self._closed.is_set() and not exchange.gone():
                self._source.look()
                if self._send_next(exchange, viewer, alive=time.monotonic() - sent_s > ALIVE_EVERY_S):
                    sent_s = time.monotonic()
        finally:
            with self._lock:
                self._viewers.remove(viewer)

    def _send_next(self, exchange: Exchange, viewer: _Viewer, *, alive: bool) -> bool:
        """Send the next message, or after `GONE_CHECK_S` nothing; `alive`: then a sign of life. Raises OSError.

        Returns whether anything was sent.
        """
        try:
            told = viewer.mail.get(timeout=GONE_CHECK_S)
        except Empty:
            if alive:
                exchange.wfile.write(b": alive\n\n")
            return alive
        if viewer.left_out:
            viewer.left_out = False
            self._source.changed.set()
        if told is not None:
            exchange.wfile.write(b"event: view\ndata: " + json.dumps(told, ensure_ascii=False).encode() + b"\n\n")
        return True

    # --- the thread that finds out what has changed

    def _run(self) -> None:
        while not self._closed.is_set():
            self._source.changed.wait()
            self._source.changed.clear()
            begun_s = time.thread_time()
            try:
                self._tell()
            except Exception:
                log.exception("internal error while the page was updated")
            self._closed.wait(max(LEAST_WAIT_S, SHARE * (time.thread_time() - begun_s)))

    def _tell(self) -> None:
        """Put the message that it needs into the mail of each open page."""
        with self._lock:
            viewers = list(self._viewers)
        views: dict[Query, View] = {}
        for viewer in viewers:
            if viewer.mail.full():
                viewer.left_out = True
                if viewer.mail.full():  # otherwise it was taken just now, before it could see `left_out`
                    continue
            shown = views.get(viewer.query) or views.setdefault(viewer.query, self._view(viewer.query))
            told, after = message(shown, viewer.shown, _now())
            if told is not None:
                with suppress(Full):  # the manager ends
                    viewer.mail.put_nowait(told)
                    viewer.shown = after


def _now() -> datetime:
    return datetime.now(UTC)

"""An HTTP server that answers as a test says, where the real API server would not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Request(BaseHTTPRequestHandler):
    """One request, and its answer."""

    answer: Callable[[Request], None]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).answer(self)

    do_PUT = do_POST = do_PATCH = do_GET  # noqa: N815 - http.server calls them by these names

    def hang_up(self) -> None:
        """End the connection without an answer. To a client, this is a connection that has failed."""
        self.close_connection = True

    def reply(self, body: object, status: int = 200, **headers: str) -> None:
        """Answer with this JSON."""
        text = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(text))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)

    def reply_in_prose(self) -> None:
        """Answer with status 200 and no JSON, as a proxy may."""
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"Hello")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(answer: Callable[[Request], None]) -> Iterator[str]:
    """Answer each request, on a thread of its own, and return the URL."""
    handler = type("Handler", (Request,), {"answer": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def kubeconfig_of(server: str, folder: Path) -> Path:
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "any",
                "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
                "clusters": [{"name": "any", "cluster": {"server": server}}],
                "users": [{"name": "any", "user": {"token": "any"}}],
            }
        )
    )
    return kubeconfig

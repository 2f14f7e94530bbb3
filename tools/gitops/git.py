"""A Git repository that people commit to, and a server that engines fetch it from over HTTP."""

import os
import subprocess
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

AUTHOR = {"name": "ann", "email": "ann@example.com"}
IDENTITY = [word for key, value in AUTHOR.items() for word in ("-c", f"user.{key}={value}")]


class Repository:
    """A repository with the branch `main`; every commit is visible to those who fetch as soon as it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._git("init", "--initial-branch=main")

    def commit(self, files: Mapping[str, Any], *, message: str = "Change VMs") -> str:
        """Write these files and commit everything; the commit. None removes a file, a text is written as it is, and
        anything else is written as YAML.
        """
        for name, content in files.items():
            file = self.folder / name
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        self._git("add", "--all")
        self._git("commit", "--allow-empty", f"--message={message}")
        return self.head()

    def revert(self) -> str:
        """Revert the last commit by a new one; the new one."""
        self._git("revert", "--no-edit", "HEAD")
        return self.head()

    def head(self) -> str:
        """The last commit."""
        return self._git("rev-parse", "HEAD")

    def _git(self, *words: str) -> str:
        done = subprocess.run(["git", *IDENTITY, *words], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()


class GitServer:
    """Serves the repositories below a folder on a free port of 127.0.0.1, to read; use it as a context manager.

    git's own http-backend answers, so that clients find the protocol that they need: Flux takes no file:// URL.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="git-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url_of(self, repository: Repository) -> str:
        """The URL of a repository below the folder."""
        path = repository.folder.resolve().relative_to(self._folder)
        return f"http://127.0.0.1:{self._server.server_port}/{path}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Backend,), {"folder": self._folder})


class _Backend(BaseHTTPRequestHandler):
    """Runs git http-backend, a CGI program, for each request."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, body: bytes) -> None:
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=self._environment(len(body)), capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head.decode().splitlines())]
        failed = HTTPStatus.OK if head else HTTPStatus.INTERNAL_SERVER_ERROR
        self.send_response(next((int(value.split()[0]) for name, value in headers if name == "Status"), failed))
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _environment(self, length: int) -> dict[str, str]:
        url = urlsplit(self.path)
        return {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "PATH_INFO": unquote(url.path),
            "QUERY_STRING": url.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "REMOTE_ADDR": self.client_address[0],
        }

"""A copy of a collection that a watch keeps up to date, for a command that shows it while it changes.

The agent's watch is another one (kube/watch.py): it must not miss a change of a VM that it may switch. This one
only feeds a display, so after any error it lists again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

import structlog
import urllib3

from controller.api.json_mapping import Json, as_map, as_text
from controller.kube.client import Api, cause
from controller.kube.collection import items, pages
from controller.runtime.errors import Rejected, Transient, Vanished
from controller.runtime.retry import Backoff

T = TypeVar("T")
Key = tuple[str, str]

WATCH_S = 300
"""After this time the API server ends a watch, and the next one begins where it ended."""
SILENCE_S = 120.0
"""A connection that brings nothing for this time is given up. The API server sends a bookmark about every minute.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#watch-bookmarks, and measured: 52 to 64 s."""
CHUNK_BYTES = 64 * 1024
"""How much is read at once at most."""
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 10.0
BOOKMARK = "BOOKMARK"
"""The kind of a line that only has a version, and no name."""
KINDS = {"ADDED", "MODIFIED", "DELETED", BOOKMARK}

log = structlog.get_logger()


class Live(Generic[T]):
    """The objects of one collection, as the last change has left them. Thread-safe. Use it as a context manager.

    While the first list is read, it has the objects that were read so far.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        convert: Callable[[Json], T],
        changed: Callable[[], None],
        *,
        page: int,
        selector: str = "",
    ) -> None:
        """`convert` makes a value of the JSON of an object. `changed` is called, on a thread, after each change.

        `page`: how many objects one answer to a list has. `selector`: only objects with these labels.
        """
        self._api, self._path, self._convert, self._changed = api, path, convert, changed
        self._page, self._query = page, {"labelSelector": selector} if selector else {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._objects: dict[Key, T] = {}
        self._version, self._trouble = "", ""
        self._response: urllib3.HTTPResponse | None = None
        self._thread = threading.Thread(target=self._run, name=f"live {path}", daemon=True)

    def __enter__(self) -> Live[T]:
        """List the objects, and begin to watch them. Raises Transient and Rejected if they cannot be listed."""
        self._list()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the watch."""
        self._closing.set()
        self._interrupt()
        self._thread.join()

    def objects(self) -> list[T]:
        """Return the objects, in no particular order."""
        with self._lock:
            return list(self._objects.values())

    @property
    def trouble(self) -> str:
        """Why the objects might be out of date, as a phrase; empty: they are not."""
        return self._trouble

    def _run(self) -> None:
        backoff, listed = Backoff(FIRST_RETRY_S, LAST_RETRY_S), True
        while not self._closing.is_set():
            try:
                if not listed:
                    self._list()
                listed = True
                for change in self._changes():
                    self._take(change)
                    backoff.reset()
                self._closing.wait(FIRST_RETRY_S)  # a proxy might end each watch at once
            except Exception as error:  # noqa: BLE001 - whatever it is, the copy must not stay as it is
                if not self._closing.is_set():
                    listed = False
                    self._say(self._told(error))
                    self._closing.wait(backoff.wait_s())

    def _told(self, error: Exception) -> str:
        """Return an error as a phrase. If it is a bug, log it with its traceback."""
        if isinstance(error, Transient | Rejected | Vanished):
            return str(error)
        log.error("internal error while following a collection", path=self._path, exc_info=error)
        return f"internal error: {type(error).__name__}: {error}"

    def _list(self) -> None:
        """Read all objects. Raises Transient and Rejected."""
        found: dict[Key, T] = {}
        version, first = "", not self._version
        for answer in pages(self._api.request, self._path, limit=str(self._page), **self._query):
            version = as_text(as_map(answer.get("metadata")).get("resourceVersion")) or ""
            read = {_key(raw): self._convert(raw) for raw in items(answer)}
            with self._lock:
                found |= read
                if first:
                    self._objects = found
            if first:
                self._changed()
        with self._lock:
            self._objects, self._version = found, version
        self._say("")

    def _changes(self) -> Iterator[object]:
        """Yield the lines of a watch from `_version` on, until the API server ends it. Raises Transient, Rejected."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)} | self._query
        response = self._api.stream(self._path, read_timeout_s=SILENCE_S, resourceVersion=self._version, **query)
        self._response = response
        try:
            if self._closing.is_set():
                return
            self._say("")
            yield from map(json.loads, _lines(response))
        except urllib3.exceptions.HTTPError as error:
            raise Transient(f"the connection to the API server has ended: {cause(error)}") from error
        except ValueError as error:
            raise Transient("the API server sent a line that is not JSON") from error
        finally:
            self._response = None
            response.close()

    def _take(self, change: object) -> None:
        """Apply a line of the watch. Raises Transient if it is no change, as the error of a proxy with status 200."""
        line = as_map(change)
        kind, raw = as_text(line.get("type")), as_map(line.get("object"))
        if kind == "ERROR":
            raise Transient(as_text(raw.get("message")) or "the watch has failed")
        if kind not in KINDS or not raw or (kind != BOOKMARK and not _key(raw)[1]):
            raise Transient(as_text(line.get("message")) or "the API server sent a line that is not a change")
        with self._lock:
            self._version = as_text(as_map(raw.get("metadata")).get("resourceVersion")) or self._version
            if kind == "DELETED":
                self._objects.pop(_key(raw), None)
            elif kind != BOOKMARK:
                self._objects[_key(raw)] = self._convert(raw)
        self._changed()

    def _say(self, trouble: str) -> None:
        self._trouble = trouble
        self._changed()

    def _interrupt(self) -> None:
        """End the read that the thread waits in."""
        if response := self._response:
            with suppress(OSError, ValueError, RuntimeError):  # it has just ended by itself
                response.shutdown()


def _lines(response: urllib3.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a body as they come. A last line without its end is left out."""
    begun = b""
    # Without chunks (HTTP/1.0), `stream` would wait until it has 64 KiB.
    chunks = response.stream() if response.chunked else iter(partial(response.read1, CHUNK_BYTES), b"")
    for chunk in chunks:
        *whole, begun = (begun + chunk).split(b"\n")
        yield from whole


def _key(raw: Json) -> Key:
    meta = as_map(raw.get("metadata"))
    return as_text(meta.get("namespace")) or "", as_text(meta.get("name")) or ""

"""Removes from the answers to kopf's lists and watches what the agent knows already, before kopf processes it.

kopf takes 0.35 ms for each object before its handler runs: it decodes the event, finds or starts the task of the
object, and detects what has changed (measured). At the start of an agent, its own list has the same objects as kopf's.
Later, most events report the agent's own writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, Protocol

import aiohttp

from controller.api.json_mapping import Json
from controller.api.virtualmachine import VmKey
from controller.kube.client import as_json
from controller.kube.collection import items

BEGIN, END = b'{"type":"MODIFIED","object":', b"}"
"""What the API server writes before and after the text of a changed object."""
IDENTITY = re.compile(
    rb'"name":"([^"]+)","namespace":"([^"]+)","resourceVersion":"(\d+)","uid":"[^"]+"\},"(?:spec|status)":'
)
"""The identity of an object, as the API server writes it (with sorted keys, without spaces): the end of its metadata.

Nothing that a user writes matches. In a value, JSON has a backslash before a quotation mark. The keys of annotations
and labels can be equal to these, but another field of the metadata follows them. An object with ownerReferences has
these between its namespace and its version, so it does not match, and its events are not skipped.
"""


class Known(Protocol):
    """What the agent knows of the objects of one kind. No method waits."""

    def take(self, key: VmKey, text: bytes) -> bool:
        """Take this JSON text of a changed object, if the watch need not process it."""

    def is_known(self, raw: Json) -> bool:
        """Whether nothing in this object is new."""

    def listed(self, answer: Json) -> None:
        """Note the answer to a list. The events that follow never tell that an object was deleted before the list."""


class SkippingReader:
    """The body of the answer to a list or a watch, without what is known.

    Has all other attributes of the aiohttp.StreamReader that it reads. Not thread-safe.
    """

    def __init__(self, content: aiohttp.StreamReader, known: Known) -> None:
        self._content, self._known = content, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self) -> bytes:
        """Return the whole body, without the known items. aiohttp reads a list with this method.

        Raises Transient if it is no list, which ends kopf: the watch begins again.
        """
        answer = as_json(await self._content.read())
        found = items(answer)
        self._known.listed(answer)
        answer["items"] = [item for item in found if not self._known.is_known(item)]
        return json.dumps(answer).encode()

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of whole lines. kopf reads a watch with this method."""
        begun = b""
        async for chunk in self._content.iter_chunked(size):
            *lines, begun = (begun + chunk).split(b"\n")
            if lines:
                yield b"".join(map(self._filtered, lines))
        if begun:
            yield begun

    def _filtered(self, line: bytes) -> bytes:
        """Return the line, or a bookmark, so that kopf continues an interrupted watch from this version."""
        if line.startswith(BEGIN) and (found := IDENTITY.search(line)):
            name, namespace, version = found.groups()
            if self._known.take(VmKey(namespace.decode(), name.decode()), line[len(BEGIN) : -len(END)]):
                return b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%s"}}}\n' % version
        return line + b"\n"

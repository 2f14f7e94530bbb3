"""The text of /metrics, which one thread at a time makes, however many clients ask for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

OPENMETRICS, PLAIN = "application/openmetrics-text", "text/plain"
SHARE = 3
"""After a text was made, no other one is made for this many times the processor time that it took. So all clients
together take at most a quarter of a processor. The text of 250 VMs takes 0.1 s (measured)."""
CLIENTS_LIMIT, WAIT_S = 5, 5.0
"""How many clients at a time get a text of their own or wait for it, and for how long they wait."""
KEPT_S = 5.0
"""How old the text is at most that other clients get."""


class Exposition:
    """Makes the text of /metrics. Thread-safe.

    Making it occupies the interpreter. Without a limit, a client that asks often would keep kubelet's probes from their
    answers.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._clients, self._making = threading.BoundedSemaphore(CLIENTS_LIMIT), threading.Lock()
        self._free_s = 0.0
        """When the next text may be made, in monotonic seconds."""
        self._kept: dict[str, tuple[float, bytes]] = {}
        """The last text with all metrics, by its format, and when it was made, in monotonic seconds."""

    def text(self, accept: str, names: Collection[str]) -> tuple[str, bytes] | None:
        """Return the content type and the text of these metrics; without names, of all. None: too many clients ask.

        `accept` is the Accept header of the client. If too many clients ask, a text with all metrics is up to `KEPT_S`
        old. Can wait for `WAIT_S`, for the pause after the last text, and for as long as making a text takes.
        """
        form = _form(accept)
        encode, content_type = choose_encoder(form)
        with self._turn() as ours:
            if ours:
                return content_type, self._make(encode, form, names)
        kept = None if names else self._kept.get(form)
        return (content_type, kept[1]) if kept and time.monotonic() - kept[0] <= KEPT_S else None

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Return a context manager. It tells whether this thread may make a text."""
        waits = self._clients.acquire(blocking=False)
        ours = waits and self._making.acquire(timeout=WAIT_S)
        try:
            yield ours
        finally:
            if ours:
                self._making.release()
            if waits:
                self._clients.release()

    def _make(self, encode: Callable[[Any], bytes], form: str, names: Collection[str]) -> bytes:
        """Make the text as soon as that is allowed. The caller has the turn."""
        time.sleep(max(self._free_s - time.monotonic(), 0.0))
        began_s = time.thread_time()
        text = encode(self._registry.restricted_registry(names) if names else self._registry)
        self._free_s = time.monotonic() + SHARE * (time.thread_time() - began_s)
        if not names:
            self._kept[form] = time.monotonic(), text
        return text


def _form(accept: str) -> str:
    """Return the format for a client. Two of the formats of prometheus_client are served, so two texts are kept."""
    try:
        content_type = choose_encoder(accept)[1]
    except (TypeError, ValueError):  # the version in the header is not a number
        return PLAIN
    return OPENMETRICS if content_type.startswith(OPENMETRICS) else PLAIN

"""The text of /metrics, which one thread at a time makes, however many clients ask for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from controller.runtime.buckets import TokenBucket

OPENMETRICS, PLAIN = "application/openmetrics-text", "text/plain"
BURST, RATE_PER_S = 5, 1.0
"""How often a text is made: `BURST` times at once, then at this rate. Each format, and the choice of some metrics, have
a limit of their own."""
KEPT_S = 5.0
"""How old the text of all metrics may be that a client gets if no other can be made now."""
WAITING_LIMIT, WAIT_S = 4, 5.0
"""How many clients wait at a time, and for how long, if there is no such text."""


class Exposition:
    """Makes the text of /metrics. Thread-safe.

    Making it occupies the interpreter. Without limits, a client that asks often would keep kubelet's probes from their
    answers.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._making, self._places = threading.Lock(), threading.BoundedSemaphore(WAITING_LIMIT + 1)
        self._all, self._some = {OPENMETRICS: _Kept(), PLAIN: _Kept()}, _Kept()

    def text(self, accept: str, names: Collection[str]) -> tuple[str, bytes] | None:
        """Return the content type and the text of these metrics; without names, of all. None: too many clients ask.

        `accept` is the Accept header of the client. Can wait for `WAIT_S`.
        """
        form = _form(accept)
        encode, content_type = choose_encoder(form)
        kept = self._some if names else self._all[form]
        with self._turn(0.0 if kept.recent() else WAIT_S) as ours:
            if ours and kept.bucket.take(time.monotonic()) <= 0:
                text = encode(self._registry.restricted_registry(names) if names else self._registry)
                if not names:
                    kept.made = time.monotonic(), text
                return content_type, text
        recent = kept.recent()
        return (content_type, recent) if recent else None

    @contextmanager
    def _turn(self, wait_s: float) -> Iterator[bool]:
        """Return a context manager. It tells whether this thread may make a text now."""
        placed = self._places.acquire(blocking=False)
        ours = placed and self._making.acquire(timeout=wait_s)
        try:
            yield ours
        finally:
            if ours:
                self._making.release()
            if placed:
                self._places.release()


class _Kept:
    """The last text of one format, and the limit of how often it is made."""

    def __init__(self) -> None:
        self.bucket = TokenBucket(RATE_PER_S, BURST)
        self.made: tuple[float, bytes] | None = None
        """When the text was made, by the monotonic clock, and the text; None: there is none."""

    def recent(self) -> bytes | None:
        """Return the text if it is not too old."""
        made = self.made
        return made[1] if made and time.monotonic() - made[0] <= KEPT_S else None


def _form(accept: str) -> str:
    """Return the format for a client. There are two of the many that prometheus_client knows, so few texts are kept."""
    try:
        content_type = choose_encoder(accept)[1]
    except (TypeError, ValueError):  # the version in the header is no number
        return PLAIN
    return OPENMETRICS if content_type.startswith(OPENMETRICS) else PLAIN

"""The way to the API server as it is by now: kubeconfigs, tokens and certificates are exchanged while an agent runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from controller.kube.access import Access
from controller.runtime.errors import Rejected

REREAD_S = 30.0
"""Whoever asks when what was read is older has everything read again. What is exchanged so long before the old one ends
is taken up without a 401."""
RENEW_PAUSE_S = 1.0
"""How often a refusal makes it be read again at most: each may start an exec plugin."""

log = structlog.get_logger()


class Reader(Protocol):
    """Reads a kubeconfig, or a Pod's service account."""

    def __call__(self, *, refused: bool) -> Access:
        """What it says now; `refused` when the API server no longer takes what it said before. Raises Rejected."""


class Credentials:
    """Any thread may ask. The same `Access` is given for as long as nothing in it changes."""

    def __init__(self, read: Reader, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises Rejected where there is nothing to begin with."""
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        """Held while it is read."""
        self._access = read(refused=False)
        self._read_s = self._renewed_s = clock()
        self.trouble: str | None = None
        """Why what is there by now is not taken up; what was read before stays in use."""

    def current(self) -> Access:
        """How to reach it. May read files, and run an exec plugin whose last answer is about to end."""
        # Nobody waits for whoever is reading: what is at hand may still do.
        if self._clock() - self._read_s > REREAD_S and self._lock.acquire(blocking=False):
            try:
                self._reread(refused=False)
            finally:
                self._lock.release()
        return self._access

    def renew(self, refused: Access) -> Access:
        """How to reach it after this was answered with 401; the same again if there is no other."""
        with self._lock:
            if self._access is refused and self._clock() - self._renewed_s >= RENEW_PAUSE_S:
                self._renewed_s = self._clock()
                self._reread(refused=True)
            return self._access

    def _reread(self, *, refused: bool) -> None:
        try:
            access = self._read(refused=refused)
        except Rejected as error:
            self.trouble = f"what was read before is used, for {error}"
            log.warning("could not reload credentials, using the former ones", error=str(error))
        else:
            self.trouble = None
            if access != self._access:
                self._access = access
        self._read_s = self._clock()

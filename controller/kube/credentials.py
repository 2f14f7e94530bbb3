"""The current access to the API server: kubeconfigs, tokens and certificates are replaced while an agent runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from controller.kube.access import Access
from controller.runtime.errors import Rejected

REREAD_S = 30.0
"""The credentials are read again on the first use after this time. If they are replaced at least this long before the
old ones expire, no request gets a 401."""
RENEW_PAUSE_S = 1.0
"""The shortest time between two reads because of a 401: each may start an exec plugin."""

log = structlog.get_logger()


class Reader(Protocol):
    """Reads a kubeconfig, or a Pod's service account."""

    def __call__(self, *, refused: bool) -> Access:
        """Read the current access; `refused`: the API server rejected the previous one with 401. Raises Rejected."""


class Credentials:
    """The access to one API server, read again from time to time. Thread-safe.

    The same `Access` object is returned as long as nothing in it changes.
    """

    def __init__(self, read: Reader, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the first credentials. Raises Rejected."""
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        """Held while the credentials are read."""
        self._access = read(refused=False)
        self._read_s = self._renewed_s = clock()
        self.trouble: str | None = None
        """Why the last read failed; the previous credentials stay in use. None: it succeeded."""

    def current(self) -> Access:
        """The access to use now. May read files, and run an exec plugin whose last credential is about to expire."""
        # If another thread is reading, do not wait for it: the previous credentials are probably still valid.
        if self._clock() - self._read_s > REREAD_S and self._lock.acquire(blocking=False):
            try:
                self._reread(refused=False)
            finally:
                self._lock.release()
        return self._access

    def renew(self, refused: Access) -> Access:
        """The access to use after the API server answered `refused` with 401; the same one if there is no other."""
        with self._lock:
            if self._access is refused and self._clock() - self._renewed_s >= RENEW_PAUSE_S:
                self._renewed_s = self._clock()
                self._reread(refused=True)
            return self._access

    def _reread(self, *, refused: bool) -> None:
        try:
            access = self._read(refused=refused)
        except Rejected as error:
            self.trouble = f"the previous ones are still in use, because {error}"
            log.warning("could not reload credentials, using the previous ones", error=str(error))
        else:
            self.trouble = None
            if access != self._access:
                self._access = access
        self._read_s = self._clock()

"""Keeps the access to the API server up to date. Kubeconfigs, tokens and certificates can be replaced at any time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from controller.kube.access import Access
from controller.runtime.errors import Rejected

REREAD_S = 30.0
"""The first use after this time reads the credentials again. If new credentials are available at least this long before
the old ones expire, no request gets a 401."""
RENEW_PAUSE_S = 1.0
"""The shortest time between two reads that a 401 causes, because each read can start an exec plugin."""

log = structlog.get_logger()


class Reader(Protocol):
    """Reads a kubeconfig, or a Pod's service account."""

    def __call__(self, *, refused: bool) -> Access:
        """Read the current access. `refused`: whether the API server rejected the previous one. Raises Rejected."""


class Credentials:
    """The access to one API server. Thread-safe.

    The methods return the same `Access` object until the credentials change.
    """

    def __init__(self, read: Reader, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the first credentials. Raises Rejected."""
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        """Locked while a thread reads the credentials."""
        self._access = read(refused=False)
        self._read_s = self._renewed_s = clock()
        self.trouble: str | None = None
        """Why the last read failed. The previous credentials are then still in use. None if the last read succeeded."""

    def current(self) -> Access:
        """Return the access to use now. Might read files, and run an exec plugin whose last credential expires soon."""
        # While another thread reads the credentials, use the previous ones, which are probably still valid.
        if self._clock() - self._read_s > REREAD_S and self._lock.acquire(blocking=False):
            try:
                self._reread(refused=False)
            finally:
                self._lock.release()
        return self._access

    @property
    def latest(self) -> Access:
        """The access that was read last. Reads no file and runs no plugin, so it does not block."""
        return self._access

    def renew(self, refused: Access) -> Access:
        """Return the access to use after the API server rejected `refused`, or `refused` if there is no other."""
        with self._lock:
            if self._access is refused and self._clock() - self._renewed_s >= RENEW_PAUSE_S:
                self._renewed_s = self._clock()
                self._reread(refused=True)
            return self._access

    def reload(self) -> Access:
        """Read the credentials now, because this process has just replaced them, and return the access to use."""
        with self._lock:
            self._reread(refused=False)
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

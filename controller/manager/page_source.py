"""What the page shows: a copy of all VMs and hosts, kept by watches while somebody looks at the page."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import NamedTuple

import structlog

from controller.api.codec import parse
from controller.api.hypervisor_codec import parse_hypervisor
from controller.kube import paths
from controller.kube.client import Api
from controller.kube.live import Live
from controller.kube.reads import HYPERVISORS_PAGE, PAGE
from controller.page.rows import HostRow, VmRow, host_row, vm_row
from controller.page.view import Fleet
from controller.runtime.errors import Rejected, Transient, Vanished
from controller.runtime.retry import Backoff

IDLE_S = 300.0
"""The watches end when nobody has looked for this time. Then the page costs the API server nothing."""
IDLE_CHECK_S = 15.0
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 10.0

log = structlog.get_logger()


class _Watched(NamedTuple):
    vms: Live[VmRow]
    hosts: Live[HostRow]


class Source:
    """The VMs and hosts of the cluster while somebody looks. Thread-safe.

    It has an Api of its own, so its requests never open the circuit of those that mark silent nodes.
    """

    def __init__(self, api: Api, *, idle_s: float = IDLE_S, idle_check_s: float = IDLE_CHECK_S) -> None:
        """The first call of `look` begins to read."""
        self._api, self._idle_s, self._idle_check_s = api, idle_s, idle_check_s
        self.changed = threading.Event()
        """Set after each change. Its reader clears it."""
        self._lock, self._closed, self._read = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._watched: _Watched | None = None
        self._trouble, self._looked_s = "", 0.0

    def look(self) -> None:
        """Note that somebody looks now, and begin to read if nobody looked before. Does not wait.

        If this fails because the process has too many threads, `fleet` says so, and the next look tries again.
        """
        with self._lock:
            self._looked_s = time.monotonic()
            if self._thread is None and not self._closed.is_set():
                thread = threading.Thread(target=self._run, name="page-source", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    if str(error) != self._trouble:  # an open page looks every second
                        log.warning("could not read the objects for the page", error=str(error))
                    self._show(str(error))
                else:
                    self._thread = thread

    def wait(self, timeout_s: float) -> None:
        """Wait until everything was read once."""
        self._read.wait(timeout_s)

    def fleet(self) -> Fleet:
        """Return what is known now."""
        watched = self._watched
        if watched is None:
            return Fleet(trouble=self._trouble, complete=False)
        trouble = watched.vms.trouble or watched.hosts.trouble or self._trouble
        return Fleet(watched.vms.objects(), watched.hosts.objects(), trouble, complete=self._read.is_set())

    @property
    def watching(self) -> bool:
        """Whether there are watches now."""
        return self._watched is not None

    def close(self) -> None:
        """End the watches. Does not wait."""
        self._closed.set()
        self.changed.set()

    def _run(self) -> None:
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while not self._ends():
            try:
                self._watch()
            except (Transient, Rejected, Vanished) as error:
                log.warning("could not read the objects for the page", error=str(error))
                self._show(str(error))
                self._closed.wait(backoff.wait_s())
            except Exception as error:
                log.exception("internal error while reading the objects for the page")
                self._show(f"internal error: {type(error).__name__}: {error}")
                self._closed.wait(backoff.wait_s())

    def _show(self, trouble: str) -> None:
        self._trouble = trouble
        self.changed.set()

    def _watch(self) -> None:
        """Watch until nobody looks any more. Raises Transient, Rejected and Vanished if the objects cannot be read."""
        with ExitStack() as ends:
            vms = Live(self._api, paths.VIRTUAL_MACHINES, lambda raw: vm_row(parse(raw)), self.changed.set, page=PAGE)
            hosts = Live(
                self._api,
                paths.HYPERVISORS,
                lambda raw: host_row(parse_hypervisor(raw)),
                self.changed.set,
                page=HYPERVISORS_PAGE,
            )
            ends.callback(self._forget)
            self._watched = _Watched(vms, hosts)
            ends.enter_context(hosts)
            ends.enter_context(vms)
            self._trouble = ""
            self._read.set()
            self.changed.set()
            while not self._is_over():
                self._closed.wait(self._idle_check_s)

    def _forget(self) -> None:
        self._watched = None
        self._read.clear()

    def _ends(self) -> bool:
        """Whether this thread ends. A `look` afterwards starts another one."""
        with self._lock:
            if self._is_over():
                self._thread = None
                return True
            return False

    def _is_over(self) -> bool:
        """Whether nobody looks any more."""
        return self._closed.is_set() or time.monotonic() - self._looked_s > self._idle_s

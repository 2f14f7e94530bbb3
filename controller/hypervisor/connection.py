"""The connections to libvirt: opened, kept alive, listened to, and closed in order.

Threads of four kinds meet here: libvirt's event loop, which only notes and names; the keeper, which connects and
disconnects; one for each connection that is opened on demand; and whoever asks for a connection. A connection belongs
to a generation, so that news of an old one change nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from uuid import UUID

import libvirt
import structlog

from controller.hypervisor.event_loop import EventLoop
from controller.hypervisor.events import Changed, Evidences, Listener
from controller.hypervisor.host_uuid import HostUuid, ask_host_uuid
from controller.hypervisor.pool import OPEN_WITHIN_S, ConnectionPool, ConnectionSet, Opener, close
from controller.hypervisor.text import text
from controller.runtime.errors import Transient
from controller.runtime.retry import Backoff

RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
ABSENT_RETRY_MAX_S = 0.5
"""The longest wait while nobody listens: to find that out costs nothing, and a libvirtd that is back is met at once."""
STABLE_S = 10.0
"""A connection that is lost earlier was none: the next try waits longer than the one before."""
QUERIES_AT_ONCE, ACTS_AT_ONCE = 8, 8
"""With a list they are 17 of the 20 calls that libvirtd serves at a time. One of each to begin with, more on demand."""


FIRST_CONNECTIONS = 4
"""For events, lists, queries and acts."""


IDLE_S = 10.0
"""A connection that was opened on demand is closed when nobody has used it for so long."""


HANGS_OR_FULL = "either it hangs, or it has as many clients as max_clients in its configuration allows"


log = structlog.get_logger()


class Hypervisor:
    """libvirt on this node: connected whenever it can be. Any thread may use it."""

    def __init__(
        self,
        uri: str,
        *,
        changed: Changed,
        on_connected: Callable[[], None],
        on_lost: Callable[[], None],
        count: Callable[[str], None] = lambda _event: None,
    ) -> None:
        """`changed` and `count` run on the event-loop thread and must not wait; the others on the keeper's."""
        self.uri = uri
        self.evidences = Evidences()
        self._opener = Opener(uri)
        self._host_uuid = HostUuid()
        self._event_failures: deque[BaseException] = deque(maxlen=10)
        """What callbacks raised; the keeper logs it, for they may not."""
        self._flags_stale: list[Callable[[UUID], None]] = []
        self._on_connected, self._on_lost = on_connected, on_lost
        self._loop = EventLoop()
        self._listener = Listener(
            self.evidences, changed=changed, redefined=self._redefined, count=count, failed=self._event_failed
        )
        self._link: ConnectionSet | None = None
        self._generation = 0
        self._lost_generation = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="libvirt-keeper", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._loop.start()
        self._keeper.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Close what is open and end the threads."""
        self._closing.set()
        self._wake.set()
        if self._keeper.is_alive():
            self._keeper.join(timeout_s)
        self._loop.stop(timeout_s)

    @property
    def connected(self) -> bool:
        """Connected, listening, and not known to be lost."""
        link = self._link
        return link is not None and link.generation > self._lost_generation

    def alive(self, max_age_s: float = 20.0) -> bool:
        """The event loop beats and the keeper lives; says nothing of libvirtd."""
        return self._loop.alive(max_age_s) and self._keeper.is_alive()

    @property
    def host_uuid(self) -> UUID | None:
        """libvirt's UUID of this machine, known before the first `on_connected`; None: it tells none that lasts.

        Source: `<host><uuid>` of virConnectGetCapabilities, read once a connection.
        """
        return self._host_uuid.value

    def forget_host_uuid(self) -> None:
        """A status that was written in this boot of the machine has another UUID: it is none that lasts."""
        self._host_uuid.forget()

    def when_redefined(self, stale: Callable[[UUID], None]) -> None:
        """Call this, on the event-loop thread, with the domain whose definition has changed."""
        self._flags_stale.append(stale)

    def query(self) -> AbstractContextManager[libvirt.virConnect]:
        """A connection for single states. Raises Transient."""
        return self._linked().queries.take()

    def bulk(self) -> AbstractContextManager[libvirt.virConnect]:
        """The connection for lists, which may stall for seconds. Raises Transient."""
        return self._linked().bulk.take()

    def action(self) -> AbstractContextManager[libvirt.virConnect]:
        """A connection for one act. Raises Transient."""
        return self._linked().actions.take()

    def _linked(self) -> ConnectionSet:
        link = self._link
        if link is None or link.generation <= self._lost_generation:
            raise Transient("not connected")
        return link

    # --- the event-loop thread

    def _closed(self, _connection: object, _reason: int, generation: int) -> None:
        # A late word of an old connection must not mark the new one as lost.
        self._lost_generation = max(self._lost_generation, generation)
        self._wake.set()

    def _redefined(self, uuid: UUID) -> None:
        for stale in self._flags_stale:
            stale(uuid)

    def _event_failed(self, error: BaseException) -> None:
        self._event_failures.append(error)
        self._wake.set()

    # --- the keeper

    def _keep(self) -> None:
        backoff, absent = Backoff(RETRY_FIRST_S, RETRY_MAX_S), Backoff(RETRY_FIRST_S, ABSENT_RETRY_MAX_S)
        while not self._closing.is_set():
            try:
                self._connect()
            except (libvirt.libvirtError, TimeoutError, RuntimeError) as error:
                log.warning("libvirt does not answer", libvirt_uri=self.uri, error=_why(error))
                wait_s = (absent if _nobody_listens(error) else backoff).wait_s()
            else:
                if self._stay() > STABLE_S:
                    backoff.reset()
                absent.reset()
                self._drop()
                wait_s = backoff.wait_s()
            self._closing.wait(wait_s)

    def _stay(self) -> float:
        """Be connected; returns when that is over, with the seconds that it lasted."""
        since_s = time.monotonic()
        self._on_connected()
        if self._link:
            with suppress(libvirt.libvirtError, Transient):
                ask_host_uuid(self._link, self._host_uuid)
        while self.connected and not self._closing.is_set():
            self._wake.wait(IDLE_S)
            self._wake.clear()
            while self._event_failures:
                error = self._event_failures.popleft()
                log.error("handling a libvirt event failed inside virtsync", exc_info=error)
                del error  # its frames hold the event's domain, and a domain keeps its connection open
            if self._link:
                self._link.tidy(IDLE_S)
        return time.monotonic() - since_s

    def _connect(self) -> None:
        """Listen first and list later: what happens in between is then told twice rather than never.

        Raises libvirtError, TimeoutError, RuntimeError (no thread). What was opened before is given back then: who
        holds some connections and waits for others keeps everybody else from libvirtd.
        """
        self._generation += 1
        until_s = time.monotonic() + OPEN_WITHIN_S
        events = self._opened(self._generation, until_s)
        link = ConnectionSet(
            self._generation,
            events,
            ConnectionPool(1),
            ConnectionPool(QUERIES_AT_ONCE, self._grow),
            ConnectionPool(ACTS_AT_ONCE, self._grow),
        )
        try:
            self.evidences.connected()
            link.callback_ids = self._listener.register(events)
            for lanes in link.lanes:
                lanes.add(self._opened(self._generation, until_s))
            if not self._host_uuid.asked:
                ask_host_uuid(link, self._host_uuid)
        except TimeoutError:
            had = link.count
            link.close()
            raise TimeoutError(_crowded(had, f"of the {FIRST_CONNECTIONS} connections that it begins with")) from None
        except (libvirt.libvirtError, RuntimeError):
            link.close()
            raise
        self._link = link
        log.info("connected to libvirt", libvirt_uri=self.uri)

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        if not self._closing.is_set():
            log.warning("lost the connection to libvirt; no action until it is back", libvirt_uri=self.uri)
            self._on_lost()
        link.close()

    def _opened(self, generation: int, until_s: float) -> libvirt.virConnect:
        connection = self._opener.open(max(0.0, until_s - time.monotonic()))
        try:
            connection.registerCloseCallback(self._closed, generation)
        except libvirt.libvirtError:
            close(connection)
            raise
        return connection

    # --- a thread for each connection that is opened on demand

    def _grow(self, lanes: ConnectionPool) -> None:
        try:
            threading.Thread(target=self._open_more, args=(lanes,), name="libvirt-growth", daemon=True).start()
        except RuntimeError as error:
            self._refuse(lanes, str(error))

    def _open_more(self, lanes: ConnectionPool) -> None:
        link = self._link
        if link is None or lanes not in link.lanes:
            lanes.refuse()  # its link is gone
            return
        try:
            lanes.add(self._opened(link.generation, time.monotonic() + OPEN_WITHIN_S))
        except TimeoutError:
            self._refuse(lanes, _crowded(link.count, "connections"))
            link.tidy(0.0)  # let others have them
        except (libvirt.libvirtError, RuntimeError) as error:
            self._refuse(lanes, f"it has {link.count} connections, and another was refused: {_why(error)}")

    def _refuse(self, lanes: ConnectionPool, why: str) -> None:
        lanes.refuse()
        log.warning("libvirt gives the agent no more connections", libvirt_uri=self.uri, error=why)


def _crowded(count: int, of_which: str) -> str:
    return f"it let the agent have {count} {of_which}, and not one more within {OPEN_WITHIN_S:g} s; {HANGS_OR_FULL}"


def _why(error: Exception) -> str:
    if isinstance(error, libvirt.libvirtError):
        return text(error)
    return str(error) or f"it has not let the agent in within {OPEN_WITHIN_S:g} s; {HANGS_OR_FULL}"


def _nobody_listens(error: Exception) -> bool:
    """The socket is not there, or nobody takes a connection."""
    if not isinstance(error, libvirt.libvirtError):
        return isinstance(error, TimeoutError)
    return (error.get_error_domain(), error.get_error_code()) == (libvirt.VIR_FROM_RPC, libvirt.VIR_ERR_SYSTEM_ERROR)
